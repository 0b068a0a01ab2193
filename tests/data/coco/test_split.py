"""Boxes, masks and keypoints go with the pixels, however they are resized."""

import pickle

import coco_files
from coco_files import annotation
from coco_files import content
from etils import epath
import numpy as np
import pytest

from slimjax.data import create_dataset
from slimjax.data.batches import CorruptImagesError
from slimjax.data.coco.split import mirrored
from slimjax.data.record import differences
from slimjax.data.record import read_record
from slimjax.data.record import record_of
from slimjax.data.record import write_record

# Two objects: the lower left half of a box, and a box that leaves the picture.
TRIANGLE = [[10, 8, 30, 24, 10, 24]]
BOXES = ([10, 8, 20, 16], [44, 20, 30, 12])
POINTS = [11, 22, 2, 28, 23, 1, 12, 20, 0]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Writes twelve pictures, every third of them upright."""
  root = tmp_path_factory.mktemp('coco')
  found = content(images=range(1, 13))
  for image in found['images'][::3]:
    image.update(height=60, width=44)
  for image in found['images']:
    found['annotations'] += [
      annotation(
        2 * image['id'] + i,
        image['id'],
        bbox=list(box),
        segmentation=TRIANGLE if not i else [[44, 20, 90, 20, 90, 40, 44, 40]],
        keypoints=POINTS,
      )
      for i, box in enumerate(BOXES[: 1 + (image['width'] == 60)])
    ]
  for split in ('train', 'val'):
    coco_files.write(root, split, found)
  return root


def open_folder(folder, **options):
  options = {
    'masks': True,
    'keypoints': True,
    'canvases': ((64, 96), (96, 64)),
    'sides': (48, 64),
    'longest': None,
    'max_objects': 3,
    'crop': 32,
    'workers': 0,
    **options,
  }
  return create_dataset({'name': 'coco', 'data_dir': str(folder), **options})


def batches(data, steps=30, batch_size=4, **options):
  return list(
    data.train_batches(batch_size, seed=1, steps=range(steps), **options)
  )


def test_boxes_and_masks_and_points_stay_on_their_pixels(folder):
  sides, flips = set(), 0
  for batch in batches(open_folder(folder)):
    upright = batch['image'].shape[1:3] == (96, 64)
    expected = [1, 0, 0] if upright else [1, 1, 0]
    assert (batch['labels'] == np.array([expected])).all()
    for i in range(4):
      height, width = batch['hw'][i]
      sides.add(int(min(height, width)))
      down, across = batch['scale'][i]
      np.testing.assert_allclose(
        batch['scale'][i] * batch['original'][i], batch['hw'][i], rtol=1e-6
      )
      # What is red is in a box: it was drawn so.
      image = batch['image'][i].astype(int)
      red = image[..., 0] - image[..., 1] > 80
      assert not red[height:].any()
      assert not red[:, width:].any()
      boxes = batch['boxes'][i][batch['labels'][i] > 0]
      in_boxes = np.zeros_like(red)
      for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        # A pixel at the border may be either.
        part = red[round(y1) : round(y2), round(x1) : round(x2)]
        assert part[1:-1, 1:-1].all()
        rows, columns = (
          slice(max(round(a) - 1, 0), round(b) + 1)
          for a, b in ((y1, y2), (x1, x2))
        )
        in_boxes[rows, columns] = True
      assert not (red & ~in_boxes).any()
      x1, y1, x2, y2 = batch['boxes'][i][0]
      np.testing.assert_allclose(
        [x2 - x1, y2 - y1], [20 * across, 16 * down], rtol=1e-5
      )
      flipped = abs(x1 - 10 * across) > 1e-3
      flips += flipped
      if flipped:
        np.testing.assert_allclose(x1, width - 30 * across, rtol=1e-5)
      # The triangle's right angle is below, on the left or in a mirror right.
      crop = batch['crops'][i, 0]
      assert 0.4 < crop.mean() < 0.6
      assert crop[-2, -2 if flipped else 1] == 1
      assert crop[1, 1 if flipped else -2] == 0
      # Points are pixels: their centres are half a pixel further.
      nose = [11.5 * across, 22.5 * down, 2]
      eye = [28.5 * across, 23.5 * down, 1]
      if flipped:
        nose[0], eye[0] = width - nose[0], width - eye[0]
      points = batch['keypoints'][i, 0]
      expected = [nose, [0, 0, 0], eye] if flipped else [nose, eye, [0, 0, 0]]
      np.testing.assert_allclose(points, expected, rtol=1e-5)
      assert not batch['keypoints'][i, 2:].any()
      assert not batch['crops'][i, 2:].any()
  assert sides == {48, 64}
  assert 40 < flips < 80  # of 120


def test_a_batch_is_of_one_canvas(folder):
  data = open_folder(folder)
  shapes = [batch['image'].shape[1:3] for batch in batches(data)]
  assert {*shapes} == {(64, 96), (96, 64)}
  assert shapes.count((96, 64)) == 10  # of 30: a third of the pictures
  scored = []
  for batch in data.eval_batches('test', 3):
    assert not {'boxes', 'labels', 'crops', 'keypoints'} & batch.keys()
    # Evaluations have the last of the sides.
    assert (batch['hw'].min(axis=1) == 64)[batch['mask']].all()
    scored += batch['image_id'][batch['mask']].tolist()
  assert sorted(scored) == list(range(12))
  assert data.image_size == (64, 96)


def test_an_example_follows_from_its_key(folder):
  split = open_folder(folder).splits['train']
  indices = np.array([3, 6, 3])
  keys = np.array([[1, 0, 3], [1, 0, 6], [1, 1, 3]])
  one = pickle.loads(pickle.dumps(split)).read_train(indices[:2], keys[:2])
  two = split.read_train(indices[1:2], keys[1:2])
  for name, array in two.items():
    if name != 'corrupt':
      assert (array[0] == one[name][1]).all(), name
  seen = {
    split.read_train(indices[:1], np.array([[1, epoch, 3]]))['hw'].tobytes()
    for epoch in range(9)
  }
  assert len(seen) == 2


def test_worker_processes_read_the_same(folder):
  here = batches(open_folder(folder), 3)
  there = batches(open_folder(folder, workers=1), 3)
  for a, b in zip(here, there, strict=True):
    assert a.keys() == b.keys()
    for name, array in a.items():
      assert (array == b[name]).all()


def test_an_unreadable_picture_is_replaced_by_one_of_its_canvas(folder):
  data = open_folder(folder, max_corrupt=1)
  split = data.splits['train']
  path = epath.Path(folder) / 'train' / '4.png'  # the second upright one
  whole = path.read_bytes()
  path.write_bytes(whole[:60])
  try:
    keys = np.zeros((2, 3), int)
    batch = split.read_train(np.array([3, 0]), keys)
    assert batch['image_id'].tolist() == [6, 0]
    assert [*batch['corrupt']] == [str(path)]
    assert 'damaged' in batch['corrupt'][str(path)]
    read = split.read_eval(np.array([0, 3]))
    assert read['mask'].tolist() == [True, False]
    path.write_bytes((path.parent / '1.png').read_bytes()[::-1])
    strict = open_folder(folder, max_corrupt=0)
    with pytest.raises(CorruptImagesError, match='max_corrupt = 0'):
      batches(strict)
  finally:
    path.write_bytes(whole)


def test_a_picture_of_another_size_than_annotated_is_unreadable(folder):
  split = open_folder(folder).splits['train']
  path = epath.Path(folder) / 'train' / '4.png'
  whole = path.read_bytes()
  path.write_bytes((path.parent / '2.png').read_bytes())
  try:
    corrupt = split.read_eval(np.array([3]))['corrupt']
  finally:
    path.write_bytes(whole)
  assert corrupt == {
    str(path): 'it has 60 x 40 pixels, but its annotations say 44 x 60'
  }


@pytest.mark.parametrize(
  'names, places',
  [
    (('nose', 'left_eye', 'right_eye'), [0, 2, 1]),
    (('Right Hand', 'Left Hand', 'left foot'), [1, 0, 2]),
    (('top', 'bottom', 'left', 'right'), [0, 1, 3, 2]),
  ],
)
def test_left_and_right_change_places_in_a_mirror(names, places):
  assert mirrored(names).tolist() == places


def test_a_run_knows_its_data_again(folder, tmp_path):
  data = open_folder(folder)
  write_record(tmp_path, record_of(data))
  record = read_record(tmp_path)
  assert record.keypoint_names == ('nose', 'left_eye', 'right_eye')
  assert record.skeleton == ((0, 1), (0, 2))
  assert record.category_ids == (7,)
  assert record.decode == data.decode
  assert record.samples.shape == (8, 64, 96, 3)  # all of one canvas
  assert differences(record, open_folder(folder)) == []
  lines = differences(record, open_folder(folder, keypoints=False))
  assert any(line.startswith('keypoint names') for line in lines)
  others = open_folder(folder, masks=False)
  assert any('but others' in line for line in differences(record, others))
