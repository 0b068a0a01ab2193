"""Is one slimmable network as good as networks trained alone? (Tables 3, 4.)

    python experiments/slimmable_vs_individual/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

EIGHT = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  base = experiment.get(0)
  cases = [(base.model.name, 1.0)]
  if not experiment.published and not experiment.quick:
    # Summed losses of four widths have larger gradients than one: at the full
    # rate that costs S-ResNet-14 accuracy.
    cases += [('resnet14', 1.0), ('resnet14', 0.5)]
  errors, tables, comparisons = {}, [], {}
  for name, factor in cases:
    label = name if factor == 1.0 else f'{name}, {factor} of the rate'
    prefix = name if factor == 1.0 else f'{name}_rate{factor}'

    def alone(seed, width, name=name, factor=factor):
      config = experiment.alone(seed, width, name=name)
      config.schedule.peak_lr *= factor
      return config

    def together(seed, name=name, factor=factor):
      config = experiment.get(seed, name=name)
      config.schedule.peak_lr *= factor
      return config

    individual = experiment.individual(prefix, base.model.widths, alone)
    slimmable = experiment.errors(f'{prefix}_slimmable', together)
    errors[label] = {'individual': individual, 'slimmable': slimmable}
    comparisons[label] = evidence.compare(individual, slimmable)
    tables.append((label, 'individual', individual, 'slimmable', slimmable))

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
  for label, variants in errors.items():
    file = re.sub(r'\W+', '_', label)
    evidence.plot(
      experiment.out / f'{file}.png', f'{label} on few digits', variants
    )
  experiment.write({'errors': errors, 'comparisons': comparisons})


if __name__ == '__main__':
  main()
