"""COCO files with their pictures in a folder, as a data set."""

import coco_files
from coco_files import annotation
from coco_files import content
from etils import epath
import numpy as np
import pytest

from slimjax.data import create_dataset


def folder(tmp_path, found, tested=None, **options):
  coco_files.write(tmp_path, 'train', found)
  if tested:
    coco_files.write(tmp_path, 'val', tested)
  options = {
    'canvases': ((64, 64),), 'sides': (), 'workers': 0, **options
  }  # fmt: skip
  return create_dataset({'name': 'coco', 'data_dir': str(tmp_path), **options})


def test_what_is_not_trained_on_is_said_and_kept_for_scoring(tmp_path):
  found = content(
    annotation(11),
    annotation(12, bbox=[5, 5, 0.5, 9]),
    annotation(13, bbox=[59.5, 5, 30, 9]),  # half a pixel in the picture
    annotation(14, iscrowd=1),
    annotation(15, 3, iscrowd=1),
    images=(1, 2, 3),
  )
  data = folder(tmp_path, found, found)
  assert data.notes == (
    'train: 2 boxes with less than 1 pixel of a side in the picture left out:'
    ' annotations 12, 13',
    'train: 2 of 3 pictures left out: they have no object to train on',
  )
  assert data.splits['train'].annotations.ids.tolist() == [11]
  assert data.splits['test'].annotations.ids.tolist() == [11, 12, 13, 14, 15]
  everything = folder(tmp_path, found, found, train_pictures='all')
  assert len(everything.splits['train']) == 3
  batch = everything.splits['train'].read_train(
    np.array([1]), np.zeros((1, 3), int)
  )
  assert not batch['labels'].any()


def test_pictures_with_few_keypoints_can_be_left_out(tmp_path):
  found = content(
    annotation(1),
    annotation(2, 2, keypoints=[1, 1, 2, 0, 0, 0, 0, 0, 0]),
    annotation(3, 3, keypoints=[1, 1, 2, 0, 0, 0, 0, 0, 0]),
    annotation(4, 3, keypoints=[0, 0, 0, 0, 0, 0, 1, 1, 1]),
    images=(1, 2, 3),
  )
  options = {'keypoints': True, 'least_keypoints': 2}
  data = folder(tmp_path, found, found, **options)
  assert data.splits['train'].annotations.image_ids.tolist() == [1, 3]
  assert data.keypoint_names == ('nose', 'left_eye', 'right_eye')
  assert 'fewer than 2 labelled keypoints' in data.notes[0]


def test_a_part_is_set_aside_where_there_is_no_test_split(tmp_path):
  found = content(
    *(annotation(i, i) for i in range(1, 21)), images=range(1, 21)
  )
  data = folder(tmp_path, found, test_share=0.25)
  train, test = (data.splits[name] for name in ('train', 'test'))
  assert (len(train), len(test)) == (15, 5)
  ids = [*train.annotations.image_ids, *test.annotations.image_ids]
  assert sorted(ids) == list(range(1, 21))
  for split in (train, test):
    for i, id_ in enumerate(split.annotations.image_ids):
      assert split.pixels.name(split.chosen[i]).endswith(f'/{id_}.png')


@pytest.mark.parametrize(
  'options, said',
  [
    (
      {'canvases': ((64, 50),)},
      r'of 32, got \(64, 50\); try \(64, 64\)',
    ),
    ({'canvases': ()}, 'one or several'),
    (
      {'canvases': (64, 64)},
      r'pairs.* such as \(\(512, 512\),\), got \(64, 64',
    ),
    ({'sides': 64}, 'sides must be a list of pixels, got 64'),
    ({'sides': (0,)}, r'sides must be above 0, got \(0,\)'),
    ({'flip': 1.5}, 'flip must be from 0 to 1'),
    ({'max_objects': 2}, r'1.png has 3 objects, more than .*max_objects = 2'),
    ({'train_pictures': 'some'}, 'with_objects, all'),
    ({'least_keypoints': 1}, 'needs keypoints = True'),
    ({'train': ('a.json', 'b')}, 'a.json cannot be read: No such file'),
    ({'train': ('a.json',)}, 'must be two paths'),
    (
      {'train': ('annotations/train.json', 'c')},
      '.*/c, is not there',
    ),
    ({'side': 3}, 'config.data.side is not read by anything; is it sides'),
  ],
)
def test_wrong_options_are_refused(tmp_path, options, said):
  found = content(*(annotation(i) for i in range(1, 4)))
  with pytest.raises(ValueError, match=said):
    folder(tmp_path, found, found, **options)


def test_what_is_not_in_the_folder_is_named(tmp_path):
  found = content(annotation(1), images=(1, 2))
  coco_files.write(tmp_path, 'train', found)
  (epath.Path(tmp_path) / 'train' / '2.png').unlink()
  options = {'name': 'coco', 'data_dir': str(tmp_path)}
  with pytest.raises(
    ValueError, match=r'1 of the 2 pictures .* not in .*: 2.png \(image 2\)'
  ):
    create_dataset(options)
  other = content(annotation(1))
  other['categories'][0]['name'] = 'dog'
  with pytest.raises(ValueError, match='3 dog, 7 person, expected 3 cat, 7'):
    folder(tmp_path, found, other)
  with pytest.raises(ValueError, match='annotations/instances_train2017.json'):
    create_dataset({**options, 'data_dir': str(tmp_path / 'train')})
