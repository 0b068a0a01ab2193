"""Is a slimmable detector that computes in bfloat16 as good as in float32?

    python experiments/detection/bfloat16.py

Shares the runs in float32 with measure.py. See README.md; the options are those
of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import evidence
from measure import boxes_only
from measure import DIGIT_SCENES
from measure import SCORES


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments, DIGIT_SCENES)

  def half(seed):
    config = boxes_only(experiment, seed)
    config.model.dtype = 'bfloat16'
    return config

  def single(seed):
    return boxes_only(experiment, seed)

  found = {}
  for title, score in SCORES.items():
    found[title] = {
      'float32': experiment.errors('slimmable', single, score=score),
      'bfloat16': experiment.errors('slimmable_bfloat16', half, score=score),
    }
    print(f'\n{title}')
    names = 'float32', found[title]['float32'], 'bfloat16'
    print(evidence.table(*names, found[title]['bfloat16']))
  experiment.write(
    {
      'scores': found,
      'bfloat16 - float32': {
        title: evidence.compare(kinds['float32'], kinds['bfloat16'])
        for title, kinds in found.items()
      },
    },
    'bfloat16.json',
  )


if __name__ == '__main__':
  main()
