"""Digit scenes: what they are made of, written and read again."""

import hashlib

import numpy as np
import pytest
from sklearn import datasets

from slimjax.data import create_dataset
from slimjax.data.coco import scenes
from slimjax.data.coco.masks import resample
from slimjax.data.coco.writing import write_coco
from slimjax.detection.rle import decode


@pytest.fixture(scope='module')
def made():
  return {
    split: scenes.make_scenes(split, count)
    for split, count in (('train', 80), ('test', 20))
  }


def _mask(annotations, picture, i):
  code = annotations.masks.segmentation(i, annotations.sizes[picture])
  return decode({**code, 'counts': code['counts'].encode()})


def test_scenes_follow_from_the_seed(made):
  again, images = scenes.make_scenes('test', 5)
  whole, all_images = made['test']
  assert again.fingerprint() == whole.take(np.arange(5)).fingerprint()
  for a, b in zip(images, all_images, strict=False):
    assert (a == b).all()
  other, _ = scenes.make_scenes('test', 5, seed=1)
  assert other.fingerprint() != again.fingerprint()
  train = made['train'][0].take(np.arange(5))
  assert (train.sizes != again.sizes).any() or train.ids.size != again.ids.size


def test_scenes_stay_what_they_are(made):
  """The numbers of every experiment on them are of these."""
  annotations, _ = made['test']
  digest = hashlib.sha256(
    b''.join(
      np.ascontiguousarray(x).tobytes()
      for x in (
        annotations.sizes, annotations.starts, annotations.labels,
        annotations.boxes,
      )
    )
  ).hexdigest()  # fmt: skip
  assert annotations.labels[:12].tolist() == LABELS
  assert digest[:16] == DIGEST


LABELS = [3, 2, 1, 7, 7, 7, 3, 3, 1, 10, 8, 7]
DIGEST = 'bafe70be37a90040'


def test_scenes_are_as_the_recipe_says(made):
  annotations, images = made['train']
  counts = np.diff(annotations.starts)
  assert 1 <= counts.min() <= counts.max() == 4
  assert 2.2 < counts.mean() < 2.8
  assert {*map(tuple, annotations.sizes.tolist())} == {*scenes.SIZES}
  assert {*annotations.labels.tolist()} == set(range(1, 11))
  sides = np.sqrt(annotations.boxes[:, 2] * annotations.boxes[:, 3])
  assert 20 < np.median(sides) < 32
  covered = (annotations.keypoints[:, :, 2] == 1).mean()
  assert 0.01 < covered < 0.1
  for image, size in zip(images, annotations.sizes, strict=True):
    assert image.dtype == np.uint8
    assert image.shape == (*size, 3)
    assert image.std() > 8


def test_boxes_areas_and_points_are_those_of_the_masks(made):
  annotations, images = made['train']
  seen = 0
  for picture in range(len(annotations)):
    taken = np.zeros(annotations.sizes[picture], int)
    for i in annotations.of(picture):
      mask = _mask(annotations, picture, i)
      taken += mask
      rows, columns = np.nonzero(mask)
      x, y, width, height = annotations.boxes[i]
      assert (x, y) == (columns.min(), rows.min())
      assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
      assert annotations.areas[i] == mask.sum() >= 25
      # It stands out from its surroundings: there is something to detect.
      pixels = images[picture].astype(float)
      assert pixels[mask > 0].std(axis=0).mean() < 50
      points = annotations.keypoints[i].astype(int)
      for (px, py, visibility), axis, end in zip(
        points, (1, 1, 0, 0), (0, 1, 0, 1), strict=True
      ):
        if visibility == 2:
          seen += 1
          assert mask[py, px]
          # A visible outermost point is on the border of the box.
          assert (px, py)[axis] == (x, y)[axis] + end * (
            (width, height)[axis] - 1
          )
        else:
          assert not mask[py, px]
    assert taken.max() <= 1  # a pixel is of one digit
  assert seen > 500


def test_no_digit_is_in_both_splits(monkeypatch):
  drawn = {'train': [], 'test': []}
  for split, found in drawn.items():

    def draw(rng, photos, digits, targets, found=found):
      found.extend(image.tobytes() for image in digits)
      empty = np.zeros((8, 8))
      return scenes.Scene(
        np.zeros((8, 8, 3), np.uint8),
        empty[None] > 1, np.ones(1, int), np.zeros((1, 4, 3), int),
      )  # fmt: skip

    with monkeypatch.context() as patch:
      patch.setattr(scenes, 'draw_scene', draw)
      scenes.make_scenes(split, 1)
  sizes = {split: len(found) for split, found in drawn.items()}
  assert sizes == {'train': 1400, 'test': 397}
  together = {image for found in drawn.values() for image in found}
  assert len(together) == len(datasets.load_digits().images)


def test_a_later_digit_covers_an_earlier_one():
  """By hand: two strokes, one over the other, and one that is hidden."""
  bar = np.full((12, 4), 1.0)
  first = scenes.Digit(bar, (5, 5), 3)
  second = scenes.Digit(np.full((4, 10), 1.0), (13, 3), 8)
  hidden = scenes.Digit(np.full((12, 4), 0.9), (5, 5), 1)
  masks, labels, points = scenes._objects([hidden, first, second], (20, 20))
  assert labels.tolist() == [3, 8]
  assert masks.sum(axis=(1, 2)).tolist() == [32, 40]
  # Top, bottom, left, right: of the whole stroke, covered where they are.
  assert points[0].tolist() == [[7, 5, 2], [7, 16, 1], [5, 11, 2], [8, 11, 2]]


def test_the_data_set_reads_what_was_written(made, tmp_path):
  """The folder's reader and the scenes in memory give equal batches."""
  for split, (annotations, images) in made.items():
    write_coco(tmp_path, split, annotations, images, scenes.CATEGORIES)
  memory = create_dataset(
    {'name': 'digit_scenes', 'train_scenes': 80, 'test_scenes': 20}
  )
  files = create_dataset(
    {
      'name': 'coco',
      'data_dir': str(tmp_path),
      'masks': True,
      'keypoints': True,
      'canvases': ((128, 128),),
      'sides': (),
      'longest': None,
      'flip': 0.0,
      'max_objects': 4,
      'crop': 56,
      'workers': 0,
    }
  )
  assert memory.describe() == (
    'digit_scenes: 10 classes, images of 128 x 128 pixels: 80 train, 20 test'
  )
  assert files.class_names == memory.class_names == tuple('0123456789')
  for name in ('keypoint_names', 'skeleton', 'category_ids', 'decode'):
    assert getattr(files, name) == getattr(memory, name)
  for split in ('train', 'test'):
    one, two = (x.splits[split].fingerprint() for x in (memory, files))
    assert one == two
  for a, b in zip(
    memory.train_batches(8, seed=0, steps=range(5)),
    files.train_batches(8, seed=0, steps=range(5)),
    strict=True,
  ):
    assert a.keys() == b.keys()
    for name, array in a.items():
      assert (array == b[name]).all(), name
  # Crops are the masks: here in steps of half a pixel or so.
  split = memory.splits['train']
  one = split.read_train(np.array([0]), np.zeros((1, 3), int))
  box = one['boxes'][0, 0].astype(float)
  mask = _mask(split.annotations, 0, 0)
  assert (one['crops'][0, 0] == resample(mask, box, 56)).all()


@pytest.mark.parametrize(
  'options, said',
  [
    ({'train_scenes': 0}, 'train_scenes must be above 0'),
    ({'max_objects': 3}, 'max_objects = 3; set it to 4'),
    ({'crop': 0}, 'crop must be above 0'),
  ],
)
def test_wrong_options_are_refused_by_the_scenes(options, said):
  with pytest.raises(ValueError, match=said):
    create_dataset({
      'name': 'digit_scenes', 'train_scenes': 20, 'test_scenes': 1, **options
    })  # fmt: skip


def test_heads_are_options_of_the_scenes():
  data = create_dataset(
    {
      'name': 'digit_scenes',
      'train_scenes': 8,
      'test_scenes': 1,
      'masks': False,
      'keypoints': False,
    }
  )
  batch = next(data.train_batches(4, seed=0, steps=range(1)))
  assert not {'crops', 'keypoints'} & batch.keys()
  assert data.keypoint_names == ()
