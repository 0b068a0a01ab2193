"""Does MobileNet v2 gain from a last norm that is private to each width?

    python experiments/private_tail/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

from slimjax.models.mobilenet_v2 import SHARED_TAIL


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  title = f'MobileNet v2 on {experiment.config.stem}: its last norm'

  tail = SHARED_TAIL
  if experiment.quick:  # the tail of the quick network
    tail = tuple(f'{c}/stage4_block1/conv3' for c in ('norm', 'batch_stats'))

  def get(seed, **options):
    config = experiment.get(seed, **options)
    if not experiment.published and not experiment.quick:
      config.model.name = 'mobilenet_v2'
    return config

  name = get(0).model.name
  errors = {
    'shared': experiment.errors(
      f'{name}_shared_tail', lambda seed: get(seed, shared=tail)
    ),
    'private': experiment.errors(f'{name}_slimmable', get),
  }
  experiment.conclude(title, errors)


if __name__ == '__main__':
  main()
