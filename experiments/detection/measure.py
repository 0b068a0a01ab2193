"""Is one slimmable detector as good as detectors trained alone? (Table 5.)

    python experiments/detection/measure.py

See README.md; the options are those of experiments/evidence. Every seed draws
the weights, the scenes and their order.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

DIGIT_SCENES = evidence.ROOT / 'configs' / 'digit_scenes.py'
SCORES = {'box AP': 'box_ap', 'AP50': 'box_ap50', 'AP75': 'box_ap75'}
WIDTHS = (0.125, 0.25, 0.5)
# 700 steps: after 240 the AP is still near 0.
EPOCHS, TEST_SCENES = 7, 200


def boxes_only(experiment, seed):
  """Returns the configuration of a thin detector of boxes alone."""
  config = experiment.get(seed)
  if experiment.published:
    return config
  config.model.update(name='faster_rcnn', keypoints=0)
  config.data.update(masks=False, keypoints=False, seed=seed)
  if not experiment.quick:
    config.model.widths = WIDTHS
    config.data.test_scenes = TEST_SCENES
    config.epochs = EPOCHS
  config.eval_every_epochs = config.epochs
  return config


def alone(experiment, seed, width):
  """Returns the configuration of a detector that has one width."""
  config = boxes_only(experiment, seed)
  config.model.widths = (width,)
  return config


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments, DIGIT_SCENES)
  variants = {
    'slimmable': lambda seed: boxes_only(experiment, seed),
    **{
      f'alone_{width}': lambda seed, w=width: alone(experiment, seed, w)
      for width in boxes_only(experiment, 0).model.widths
    },
  }
  for seed in range(experiment.seeds):  # so that few seeds are complete first
    for name, get in variants.items():
      experiment.train(name, get(seed))
  found = {}
  for title, score in SCORES.items():
    by_variant = {
      name: experiment.errors(name, get, score=score)
      for name, get in variants.items()
    }
    slimmable = by_variant.pop('slimmable')
    individual = {}
    for of_width in by_variant.values():
      individual.update(of_width)
    found[title] = {'individual': individual, 'slimmable': slimmable}
    print(f'\n{title}')
    print(evidence.table('individual', individual, 'slimmable', slimmable))
  evidence.plot(
    experiment.out / 'box_ap.png',
    f'faster_rcnn on {experiment.config.stem}',
    found['box AP'],
    'AP of boxes, %',
  )
  experiment.write(
    {
      'scores': found,
      'slimmable - individual': {
        title: evidence.compare(kinds['individual'], kinds['slimmable'])
        for title, kinds in found.items()
      },
    }
  )


if __name__ == '__main__':
  main()
