"""COCO files as they are, and as they should not be."""

import json

import coco_files
from coco_files import annotation
from coco_files import content
from etils import epath
import numpy as np
from pycocotools import mask as tools
import pytest

from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.reading import read_coco


def read(tmp_path, found, *, masks=True, keypoints=False):
  path = epath.Path(tmp_path) / 'file.json'
  path.write_text(found if isinstance(found, str) else json.dumps(found))
  return read_coco(path, masks=masks, keypoints=keypoints)


def test_everything_is_kept_in_the_order_of_pictures(tmp_path):
  code = tools.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))
  text = {'size': [40, 60], 'counts': code['counts'].decode()}
  counts = {'size': [40, 60], 'counts': [100, 50, 2250]}
  found = content(
    annotation(5, 9, segmentation=[coco_files.POLYGON, [1, 1, 5, 1, 5, 5]]),
    annotation(4, 2, category_id=3, segmentation=text, iscrowd=1),
    annotation(8, 2, segmentation=counts, bbox=[0, 0, 3.5, 40]),
    annotation(1, 9, area=7),
    images=(9, 4, 2),  # picture 4 has no objects
  )
  annotations, categories = read(tmp_path, found)
  assert categories == Categories((3, 7), ('cat', 'person'))
  assert annotations.image_ids.tolist() == [2, 4, 9]
  assert annotations.files.tolist() == [b'2.png', b'4.png', b'9.png']
  assert annotations.starts.tolist() == [0, 2, 2, 4]
  assert annotations.ids.tolist() == [4, 8, 5, 1]
  assert annotations.labels.tolist() == [1, 2, 2, 2]
  assert annotations.crowd.tolist() == [True, False, False, False]
  assert annotations.boxes[1].tolist() == [0, 0, 3.5, 40]
  assert annotations.areas.tolist() == [320, 320, 320, 7]
  assert annotations.keypoints is None
  masks = annotations.masks
  assert masks.segmentation(0, (40, 60)) == text
  assert masks.segmentation(2, (40, 60)) == [
    coco_files.POLYGON,
    [1, 1, 5, 1, 5, 5],
  ]
  column = np.zeros(2400, np.uint8)
  column[100:150] = 1
  coded = masks.segmentation(1, (40, 60))
  whole = tools.merge([{**coded, 'counts': coded['counts'].encode()}])
  assert tools.area(whole) == 50
  assert (
    coded['counts'].encode()
    == (tools.encode(np.asfortranarray(column.reshape(60, 40).T))['counts'])
  )


def test_parts_are_taken_with_all_that_belongs_to_them(tmp_path):
  found = content(
    *(annotation(i, i % 3 + 1, bbox=[i, 1, 5, 5]) for i in range(1, 10)),
    images=(1, 2, 3),
  )
  for one in found['annotations'][::2]:
    one['segmentation'] = [[one['id'], 1, 9, 1, 9, 9]] * (one['id'] % 4 + 1)
  annotations, _ = read(tmp_path, found)
  some = annotations.take(np.array([2, 0]))
  assert some.ids.tolist() == [2, 5, 8, 3, 6, 9]
  assert some.boxes[:, 0].tolist() == some.ids.tolist()
  kept = some.keep(np.array([True, False, True, False, True, True]))
  assert kept.ids.tolist() == [2, 8, 6, 9]
  assert kept.starts.tolist() == [0, 2, 4]
  for i, id_ in enumerate(kept.ids.tolist()):
    (one,) = (x for x in found['annotations'] if x['id'] == id_)
    assert kept.masks.segmentation(i, (40, 60)) == one['segmentation']


def test_keypoints_are_of_the_categories_that_have_them(tmp_path):
  found = content(
    annotation(1), annotation(2, category_id=3), annotation(3, iscrowd=1)
  )
  del found['annotations'][2]['keypoints']
  annotations, categories = read(tmp_path, found, masks=False, keypoints=True)
  assert (categories.ids, categories.names) == ((7,), ('person',))
  assert categories.keypoints == ('nose', 'left_eye', 'right_eye')
  assert categories.skeleton == ((0, 1), (0, 2))
  assert annotations.ids.tolist() == [1, 3]
  assert annotations.labels.tolist() == [1, 1]
  assert annotations.keypoints[0].tolist() == [
    [12, 10, 2],
    [20, 12, 1],
    [0] * 3,
  ]
  assert annotations.labelled_points().tolist() == [2, 0]


RLE = {'size': [40, 60], 'counts': [100, 50, 2250]}


@pytest.mark.parametrize(
  'changed, said',
  [
    ({'bbox': [1, 2, 3]}, r'bbox must be \[x, y, width, height\]'),
    ({'bbox': [1, 2, 3, float('nan')]}, 'bbox must be'),
    ({'bbox': None}, 'bbox must be'),
    ({'bbox': [1, 2, -3, 4]}, 'negative side'),
    ({'category_id': 4}, 'category_id 4 is not in the file'),
    ({'image_id': 77}, 'image_id 77 is not in the file'),
    ({'image_id': '1'}, "image_id '1' is not in the file"),
    ({'iscrowd': 2}, 'iscrowd must be 0 or 1'),
    ({'area': -1}, 'area must be'),
    ({'segmentation': []}, r'no segmentation.*config.data.masks = False'),
    ({'segmentation': [[1, 2, 3, 4]]}, 'polygon has 2 points; three'),
    (
      {'segmentation': [[1, 2, 3, 4, 5, 6, 7]]},
      '7 numbers, .* no pairs',
    ),
    ({'segmentation': [[1, 2, 3, 4, 5, 'x']]}, 'lists of x, y'),
    ({'segmentation': {**RLE, 'size': [60, 40]}}, r'\[60, 40\].*\[40, 60\]'),
    ({'segmentation': {**RLE, 'counts': [1, 2]}}, 'add up to the 2400 pixels'),
    ({'segmentation': {**RLE, 'counts': 'oo~~'}}, 'cannot be decoded'),
    ({'segmentation': 'polygon'}, 'got str'),
    ({'keypoints': [1, 2, 2]}, 'has 3 numbers, but.* 3 keypoints, which are 9'),
    ({'keypoints': [1, 2, 3] * 3}, 'visibility of a keypoint .* got 3'),
    ({'keypoints': [1, None, 2] * 3}, 'keypoints must be numbers'),
  ],
)
def test_a_wrong_annotation_is_named_with_the_reason(tmp_path, changed, said):
  found = content(annotation(16), annotation(17, **changed))
  with pytest.raises(ValueError, match=f'file.json annotation 17: .*{said}'):
    read(tmp_path, found, keypoints=True)
  read(tmp_path, content(annotation(16)), keypoints=True)


def _without(key, part='annotations'):
  found = content(annotation(1), annotation(2))
  del found[part][1][key]
  return found


def _with(part, number, **changed):
  found = content(annotation(1), annotation(2))
  found[part][number].update(changed)
  return found


@pytest.mark.parametrize(
  'found, said',
  [
    ('{"images": [', 'is not JSON'),
    ([annotation(1)], 'no COCO file.*A list of detections alone'),
    ({'images': [], 'annotations': []}, 'no list of categories'),
    (content(images=()), 'lists no images'),
    (content(annotation(3), annotation(3)), 'annotation 3: its id is there tw'),
    (_without('id'), 'annotation number 2: id must be a whole number'),
    (_without('height', 'images'), 'image 2: height must be pixels, got None'),
    (_without('name', 'categories'), 'category 7: name must be a text'),
    (_with('images', 1, id=1), 'image 1: its id is there twice'),
    (_with('images', 0, width=0), 'image 1: width must be pixels, got 0'),
    (_with('categories', 1, id=3), 'category 3: its id is there twice'),
    (_with('categories', 1, name='cat'), "has the name of category 3, 'cat'"),
    (_with('categories', 1, skeleton=[[1, 4]]), r'from 1 to 3, got \[1, 4\]'),
    (_with('categories', 0, keypoints=['nose']), 'category 7: .*others than'),
  ],
)
def test_a_wrong_file_is_refused(tmp_path, found, said):
  with pytest.raises(ValueError, match=said):
    read(tmp_path, found, keypoints=True)


def test_many_wrong_annotations_are_cut_to_a_few(tmp_path):
  found = content(*(annotation(i, bbox=[]) for i in range(1, 21)))
  with pytest.raises(ValueError, match='annotation 5: .* and 15 more$'):
    read(tmp_path, found)
