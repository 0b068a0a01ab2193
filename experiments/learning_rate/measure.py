"""Which learning rate suits how many widths? Chosen on held-out images.

    python experiments/learning_rate/measure.py

Trains the configuration's network at one, two, all of its widths, and at
eight, at several multiples of its learning rate, and scores them on training
images that were held out: the test images are not read. See README.md; the
options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import statistics

import evidence

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  factors = FACTORS[2:4] if experiment.quick else FACTORS
  base = experiment.get(0)
  peak_lr, widths = base.schedule.peak_lr, base.model.widths
  several = dict.fromkeys((widths[-1:], widths[:1] + widths[-1:], widths))
  found = {}
  for name in experiment.models():
    # Many widths of one network are enough.
    many = [] if found or experiment.published else [evidence.EIGHT]
    for chosen in [*several, *(many if not experiment.quick else [])]:
      for factor in factors:
        errors = experiment.errors(
          f'{name}_{len(chosen)}widths_rate{factor}_held_out',
          lambda seed, n=name, w=chosen, f=factor: get(
            experiment, seed, n, w, f
          ),
        )
        found[name, len(chosen), factor * peak_lr] = errors
  print(table(found))
  rows = [
    {'network': name, 'widths': count, 'rate': rate, 'errors': errors}
    for (name, count, rate), errors in found.items()
  ]
  experiment.write({'held_out': rows})


def table(found):
  """Returns the mean errors in Markdown, a column for each rate."""
  rates = sorted({rate for _, _, rate in found})
  lines = [
    '| network | widths | ' + ' | '.join(f'{r:g}' for r in rates) + ' |',
    '|---|---|' + '---|' * len(rates),
  ]
  for name, count in dict.fromkeys((n, c) for n, c, _ in found):
    cells = [
      f'{statistics.mean(map(statistics.mean, errors.values())):.2f}'
      for rate in rates
      for errors in [found[name, count, rate]]
    ]
    lines.append(f'| {name} | {count} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def get(experiment, seed, name, widths, factor):
  """Returns the configuration of a run that is scored on held-out images."""
  config = experiment.get(seed, name=name)
  config.model.widths = widths
  config.schedule.peak_lr *= factor
  config.data.test_split = 'held_out'
  return config


if __name__ == '__main__':
  main()
