"""Is one slimmable network as good as networks trained alone? (Tables 3, 4.)

    python experiments/slimmable_vs_individual/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

EIGHT = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  base = experiment.get(0)
  names = [base.model.name]
  if not experiment.published and not experiment.quick:
    names.append('resnet14')
  errors, tables, comparisons = {}, [], {}
  for name in names:
    alone = experiment.individual(name, base.model.widths, name=name)
    slimmable = experiment.errors(
      f'{name}_slimmable', lambda seed, n=name: experiment.get(seed, name=n)
    )
    errors[name] = {'individual': alone, 'slimmable': slimmable}
    comparisons[name] = evidence.compare(alone, slimmable)
    tables.append((name, 'individual', alone, 'slimmable', slimmable))

  if not experiment.published:
    name = base.model.name

    def get(seed):
      config = experiment.get(seed, widths=EIGHT)
      if experiment.quick:
        config.model.widths = (0.0625, 0.125, 0.1875)
      return config

    many = experiment.errors(f'{name}_slimmable8', get)
    four = errors[name]['slimmable']
    errors[name]['slimmable, 8 widths'] = many
    tables.append((name, '4 widths', four, '8 widths', many))
    comparisons[f'{name}, 8 widths against 4'] = evidence.compare(four, many)

  for name, *columns in tables:
    print(f'\n{name}\n{evidence.table(*columns)}')
  for name, variants in errors.items():
    evidence.plot(
      experiment.out / f'{name}.png', f'{name} on few digits', variants
    )
  experiment.write({'errors': errors, 'comparisons': comparisons})


if __name__ == '__main__':
  main()
