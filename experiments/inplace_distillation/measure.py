"""Labels, or the soft labels of the widest, for the thinner widths?

    python experiments/inplace_distillation/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  name = experiment.get(0).model.name
  title = f'{name} on {experiment.config.stem}: labels, or soft labels'

  def distilled(seed):
    config = experiment.get(seed)
    config.loss.inplace_distillation = True
    return config

  errors = {
    'labels': experiment.errors(f'{name}_slimmable', experiment.get),
    'soft labels': experiment.errors(f'{name}_distilled', distilled),
  }
  experiment.conclude(title, errors)


if __name__ == '__main__':
  main()
