"""Scores by pycocotools: the truth is perfect, and what is off is not."""

import dataclasses
import json

import numpy as np
from pycocotools import mask as tools
import pytest

from slimjax.data.coco import scenes
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.masks import Masks
from slimjax.data.coco.ragged import Ragged
from slimjax.detection.detected import Detected
from slimjax.detection.detected import to_pictures
from slimjax.detection.rle import decode
from slimjax.tasks.detection.scoring import coco_scores
from slimjax.tasks.detection.scoring import write_results


@pytest.fixture(scope='module')
def truth():
  annotations, _ = scenes.make_scenes('test', 12)
  return annotations


def fed_back(annotations, *, shift=0.0, only=None):
  """Returns what is annotated as detections, all sure."""
  found = []
  for picture in range(len(annotations)) if only is None else only:
    objects = annotations.of(picture)
    objects = objects[~annotations.crowd[objects]]
    corners = annotations.boxes[objects] + shift
    corners[:, 2:] += corners[:, :2]
    points = annotations.keypoints[objects] + np.array([0.5, 0.5, 0.0])
    size = annotations.sizes[picture]
    found.append(
      Detected(
        picture,
        corners.astype(np.float32),
        np.ones(len(objects), np.float32),
        annotations.labels[objects],
        tuple(annotations.masks.segmentation(i, size) for i in objects),
        points.astype(np.float32),
      )
    )
  return found


def test_the_truth_fed_back_scores_100(truth):
  scores = coco_scores(fed_back(truth), truth, scenes.CATEGORIES)
  assert 'box_ap_large' not in scores  # there are none
  for name, value in scores.items():
    if not name.endswith('_ar1'):  # one detection a picture and class
      assert value == pytest.approx(100.0), name
  assert {name.split('_')[0] for name in scores} == {
    *('box', 'mask', 'keypoint')
  }
  assert len(scores) == 28  # 12 + 12 + 10 numbers, six of them of large ones


def test_what_is_off_scores_less(truth):
  shifted = fed_back(truth, shift=3.0)
  scores = coco_scores(shifted, truth, scenes.CATEGORIES)
  assert 5 < scores['box_ap'] < 80 < 95 < scores['mask_ap']
  assert scores['box_ap75'] < scores['box_ap50']
  wrong = [
    Detected(d.picture, d.boxes, d.scores, d.labels % 10 + 1, d.masks)
    for d in fed_back(truth)
  ]
  scores = coco_scores(wrong, truth, scenes.CATEGORIES)
  assert scores['box_ap'] < 20
  assert 'keypoint_ap' not in scores  # the detections have none


def test_only_pictures_that_are_there_count(truth):
  """Such as one that cannot be decoded: it is not among the examples."""
  some = fed_back(truth, only=[7, 2, 5])
  assert coco_scores(some, truth, scenes.CATEGORIES)['box_ap'] == 100.0


def test_nothing_detected_scores_zero(truth):
  """pycocotools refuses an empty list."""
  nothing = [one.above(2.0) for one in fed_back(truth)]
  assert not any(map(len, nothing))
  scores = coco_scores(nothing, truth, scenes.CATEGORIES)
  assert len(scores) == 28
  assert set(scores.values()) == {0.0}


def test_a_hit_on_a_group_counts_for_nothing(truth):
  """Crowds are kept: what is detected in one is neither right nor wrong."""
  crowd = np.zeros(len(truth.ids), bool)
  crowd[truth.of(0)] = True
  grouped = dataclasses.replace(truth, crowd=crowd)
  with_hits = [*fed_back(truth, only=[0]), *fed_back(grouped)[1:]]
  assert coco_scores(with_hits, grouped, scenes.CATEGORIES)['box_ap'] == 100.0
  # Without the group the same detections are false.
  dropped = truth.keep(~crowd)
  scores = coco_scores(with_hits, dropped, scenes.CATEGORIES)
  assert scores['box_ap'] < 100.0


def test_keypoints_are_scored_by_their_own_deviations(truth):
  off = fed_back(truth)
  for one in off:
    one.keypoints[..., :2] += 1.5
  scores = [
    coco_scores(off, truth, scenes.CATEGORIES, deviations=(d,) * 4)
    for d in (0.02, 0.06, 0.5)
  ]
  aps = [found['keypoint_ap'] for found in scores]
  assert aps[0] < aps[1] < aps[2] == pytest.approx(100.0)
  assert aps[1] == coco_scores(off, truth, scenes.CATEGORIES)['keypoint_ap']
  with pytest.raises(ValueError, match='each of the 4 keypoints, got 2'):
    coco_scores(off, truth, scenes.CATEGORIES, deviations=(0.1, 0.1))


def test_results_are_written_as_coco_has_them(truth, tmp_path):
  gaps = Categories(tuple(range(11, 31, 2)), scenes.CATEGORIES.names)
  path = tmp_path / 'results.json'
  write_results(path, fed_back(truth, only=[3]), truth, gaps)
  results = json.loads(path.read_text())
  objects = truth.of(3)
  assert len(results) == len(objects)
  for result, i in zip(results, objects, strict=True):
    assert result['image_id'] == 4
    assert result['category_id'] == 9 + 2 * truth.labels[i]
    assert result['bbox'] == truth.boxes[i].tolist()
    assert result['score'] == 1.0
    code = result['segmentation']
    assert isinstance(code['counts'], str)
    assert (
      tools.area({**code, 'counts': code['counts'].encode()})
      == (truth.areas[i])
    )
    # Pixels, as in the file: not half a pixel further.
    assert result['keypoints'] == truth.keypoints[i].ravel().tolist()


# From the canvas to the picture.


def test_detections_go_back_by_the_scale_that_was_applied():
  """A canvas of 2 times the rows, 3 times the columns of the picture."""
  maps = np.full((2, 2, 56, 56, 1), -9.0, np.float32)
  maps[0, 0, 13, 41] = 9.0  # a peak in the box's quarters, down and across
  outputs = {
    'boxes': np.array([[[30, 20, 90, 60], [0, 0, 9, 9]]] * 2, np.float32),
    'scores': np.array([[0.75, 0.5]] * 2, np.float32),
    'labels': np.array([[4, 1]] * 2, np.int32),
    'valid': np.array([[True, False]] * 2),
    'masks': np.ones((2, 2, 28, 28), np.float32),
    'keypoints': maps,
  }
  outputs['masks'][..., :14, :] = 0  # the lower half
  batch = {
    'scale': np.array([[2.0, 3.0]] * 2, np.float32),
    'original': np.array([[40, 50]] * 2),
    'image_id': np.array([8, 5]),
    'mask': np.array([True, False]),  # the second fills up the batch
  }
  (one,) = to_pictures(outputs, batch)
  assert (one.picture, len(one)) == (8, 1)
  assert one.boxes.tolist() == [[10, 10, 30, 30]]
  assert one.labels.tolist() == [4]
  mask = decode(one.masks[0])
  assert mask.shape == (40, 50)
  rows, columns = np.nonzero(mask)
  assert (rows.min(), rows.max()) == (20, 29)
  assert (columns.min(), columns.max()) == (10, 29)
  assert mask.sum() == 200
  # On the canvas 41.5 / 56 of 60 after 30, and 13.5 / 56 of 40 after 20.
  np.testing.assert_allclose(one.keypoints[0, 0, :2], [24.82, 14.82], atol=0.25)


def test_polygons_are_scored_as_they_are_written():
  """A mask of the same polygon has an overlap of 1."""
  polygon = np.array([10.3, 8, 40.7, 12.2, 33, 30.5, 12, 26])
  size = np.array([[50, 60]], np.int32)
  one = Ragged.of(np.zeros(0, np.uint8), [0])
  annotations, _ = scenes.make_scenes('test', 1)
  annotations = type(annotations)(
    image_ids=np.array([2**40]), files=np.array([b'a']), sizes=size,
    starts=np.array([0, 1]), ids=np.array([0]),
    boxes=np.array([[10.3, 8, 30.4, 22.5]]), labels=np.array([2], np.int32),
    crowd=np.zeros(1, bool), areas=np.array([400.0]),
    masks=Masks(
      Ragged.of(polygon, [8]), Ragged.of(np.array([8], np.int32), [1]), one
    ),
  )  # fmt: skip
  code = tools.merge(tools.frPyObjects([polygon.tolist()], 50, 60))
  found = Detected(
    0, np.array([[10.3, 8, 40.7, 30.5]]), np.ones(1), np.array([2]), (code,)
  )
  scores = coco_scores([found], annotations, scenes.CATEGORIES)
  # An id of 0 in the file is a match all the same.
  assert scores['mask_ap'] == scores['box_ap'] == pytest.approx(100.0)
