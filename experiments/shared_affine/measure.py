"""Must scale and bias be private, or only the statistics? (Table 6.)

    python experiments/shared_affine/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  name = experiment.get(0).model.name
  title = f'{name} on {experiment.config.stem}: scale and bias'
  errors = {
    'private': experiment.errors(f'{name}_slimmable', experiment.get),
    'shared': experiment.errors(
      f'{name}_shared_affine',
      lambda seed: experiment.get(seed, shared=('norm',)),
    ),
  }
  experiment.conclude(title, errors)


if __name__ == '__main__':
  main()
