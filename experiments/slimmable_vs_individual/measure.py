"""Is one slimmable network as good as networks trained alone? (Tables 3, 4.)

    python experiments/slimmable_vs_individual/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  errors, tables, comparisons = {}, [], {}
  for name in experiment.models():
    individual, slimmable = experiment.both(name)
    errors[name] = {'individual': individual, 'slimmable': slimmable}
    comparisons[name] = evidence.compare(individual, slimmable)
    tables.append((name, 'individual', individual, 'slimmable', slimmable))

  if not experiment.published:
    name = experiment.models()[0]
    many = experiment.eight(name)
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
