"""The embedded data set for detectors, `config.data.name = 'digit_scenes'`."""

import functools

from slimjax.data.coco import scenes
from slimjax.data.coco.choosing import trained
from slimjax.data.coco.factory import assemble
from slimjax.data.coco.factory import check_reading
from slimjax.data.coco.factory import IMAGENET
from slimjax.data.coco.folder import Opened
from slimjax.data.coco.pixels import ArrayPixels
from slimjax.data.coco.split import Reading
from slimjax.data.dataset import Dataset

CANVAS = (128, 128)


def create(
  *,
  train_scenes: int = 800,
  test_scenes: int = 100,
  seed: int = 0,
  masks: bool = True,
  keypoints: bool = True,
  max_objects: int = 4,
  crop: int = 56,
  workers: int = 0,
) -> Dataset:
  """Returns the digit scenes as a data set; see `slimjax.data.coco.scenes`.

  Scenes are not mirrored in training: a mirrored 2 or 5 is no digit.

  Args:
    train_scenes, test_scenes: number of scenes; default: 800 and 100.
    seed: seed that draws them; default: 0.
    masks, keypoints: whether objects have them; default: yes.
    max_objects: places for the objects of a scene in a batch; default: 4, which
      is the most there are.
    crop: height and width of the masks that are trained on; default: 56.
    workers: number of processes that read; default: 0.
  """
  for what, count in (('train', train_scenes), ('test', test_scenes)):
    if count < 1:
      raise ValueError(f'{what}_scenes must be above 0, got {count}')
  reading = Reading((CANVAS,), max_objects=max_objects, crop=crop)
  check_reading(reading)
  opened = {}
  for split, count in (('train', train_scenes), ('test', test_scenes)):
    annotations, images = scenes.make_scenes(split, count, seed=seed)
    annotations = annotations.without(masks=not masks, keypoints=not keypoints)
    opened[split] = Opened.whole(annotations, ArrayPixels(images))
  return assemble(
    'digit_scenes',
    opened,
    scenes.CATEGORIES if keypoints else scenes.CATEGORIES.without_keypoints(),
    reading,
    choose=functools.partial(
      trained, pictures='with_objects', least_keypoints=0
    ),
    normalisation=IMAGENET,
    workers=workers,
  )
