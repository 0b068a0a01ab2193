"""Are many widths as good as few? (Table 4.)

    python experiments/eight_widths/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

# Of the learning rate of few widths; chosen on held-out images
# (experiments/learning_rate).
RATE = 0.25


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  base = experiment.get(0).model

  def many(seed):
    config = experiment.get(seed, widths=evidence.EIGHT)
    config.schedule.peak_lr *= RATE
    if experiment.quick:
      config.model.widths = tuple(w / 4 for w in evidence.EIGHT[:3])
    return config

  few = experiment.errors(f'{base.name}_slimmable', experiment.get)
  eight = experiment.errors(f'{base.name}_slimmable8_rate{RATE}', many)
  title = f'{base.name} on {experiment.config.stem}'
  names = f'{len(few)} widths', f'{len(eight)} widths'
  experiment.conclude(title, dict(zip(names, (few, eight), strict=True)))


if __name__ == '__main__':
  main()
