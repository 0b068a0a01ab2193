"""Which learning rate suits how many widths? Chosen on held-out images.

    python experiments/learning_rate/measure.py

Trains the configuration's network at one, two and all of its widths at several
multiples of its learning rate, and scores them on training images that were
held out: the test images are not read. See README.md; the options are those of
experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import statistics

import evidence

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  factors = FACTORS[1:3] if experiment.quick else FACTORS
  peak_lr = experiment.get(0).schedule.peak_lr
  found = {}
  for name in experiment.models():
    widths = experiment.get(0).model.widths
    for chosen in dict.fromkeys(
      (widths[-1:], widths[:1] + widths[-1:], widths)
    ):
      for factor in factors:
        errors = experiment.errors(
          f'{name}_{len(chosen)}widths_rate{factor}_held_out',
          lambda seed, n=name, w=chosen, f=factor: get(
            experiment, seed, n, w, f
          ),
        )
        found[name, len(chosen), factor * peak_lr] = errors
  print(
    '| network | widths | rate | error of held-out images, mean over widths |'
  )
  print('|---|---|---|---|')
  for (name, count, rate), errors in found.items():
    mean = statistics.mean(map(statistics.mean, errors.values()))
    print(f'| {name} | {count} | {rate:g} | {mean:.2f} |')
  rows = [
    {'network': name, 'widths': count, 'rate': rate, 'errors': errors}
    for (name, count, rate), errors in found.items()
  ]
  experiment.write({'held_out': rows})


def get(experiment, seed, name, widths, factor):
  """Returns the configuration of a run that is scored on held-out images."""
  config = experiment.get(seed, name=name)
  config.model.widths = widths
  config.schedule.peak_lr *= factor
  config.data.test_split = 'held_out'
  return config


if __name__ == '__main__':
  main()
