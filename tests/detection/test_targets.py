"""Targets of masks and keypoints, and the way back into the picture."""

import functools

import goldens
import jax
import numpy as np
import pytest

from slimjax.detection import pasting
from slimjax.detection.targets import keypoint_cells
from slimjax.detection.targets import mask_targets


@pytest.fixture(scope='module')
def golden():
  return goldens.detection('heads')


@pytest.fixture(scope='module')
def post():
  return goldens.detection('post')


masks_of = jax.jit(mask_targets, static_argnames='size')


def crop(bitmap, box, m):
  """Returns the bitmap in a box, read at m x m centres, >= .5."""
  weights = []
  for axis in (1, 0):
    start, end = box[axis], box[axis + 2]
    place = start + (np.arange(m) + 0.5) / m * (end - start) - 0.5
    pixel = np.arange(bitmap.shape[1 - axis])
    weights.append(np.maximum(0, 1 - abs(place[:, None] - pixel)))
  return weights[0] @ bitmap @ weights[1].T >= 0.5


@pytest.mark.parametrize('m, most', [(56, 0.012), (112, 0.006)])
def test_masks_of_crops_are_nearly_those_of_bitmaps(golden, m, most):
  """A crop costs part of a percent of the cells, all of them at an edge."""
  bitmaps = np.unpackbits(golden['mask/bitmaps'], axis=-1)
  boxes, rois = golden['mask/gt'], golden['mask/rois']
  crops = np.stack(
    [crop(*each, m) for each in zip(bitmaps, boxes, strict=True)]
  )
  crops = crops.astype(np.uint8)
  found = masks_of(crops, boxes, rois, golden['mask/matched'], size=28)
  assert found.dtype == np.float32
  exact = golden['mask/targets_aligned']
  wrong = np.asarray(found) != (exact >= 0.5)
  assert wrong.mean() < most
  assert np.all(abs(exact[wrong] - 0.5) < 0.5)


def test_a_roi_that_is_its_box_gets_the_crop():
  """Whatever lies outside the box is empty, on each side."""
  rng = np.random.RandomState(0)
  crops = (rng.uniform(size=(2, 14, 14)) < 0.5).astype(np.uint8)
  box = np.array([10.0, 20, 24, 62], np.float32)
  gt = np.stack((np.zeros(4, np.float32), box))
  size = np.array([14.0, 42, 14, 42], np.float32)
  twice = box + size * np.array([-0.5, -0.5, 0.5, 0.5], np.float32)
  rois = np.stack((box, twice))
  found = masks_of(crops, gt, rois, np.array([1, 1]), size=14)
  np.testing.assert_array_equal(found[0], crops[1])
  finer = masks_of(crops, gt, rois, np.array([1, 1]), size=28)[1]
  np.testing.assert_array_equal(finer[7:21, 7:21], crops[1])
  assert finer.sum() == crops[1].sum()
  padding = masks_of(crops, 0 * gt, 0 * rois, np.array([0, 0]), size=14)
  assert np.isfinite(padding).all()


def test_keypoint_cells(golden):
  points = golden['keypoint/gt'][golden['mask/matched']]
  cells = jax.jit(functools.partial(keypoint_cells, size=56))
  cell, valid = cells(points, golden['mask/rois'])
  np.testing.assert_array_equal(cell, golden['keypoint/cells'])
  np.testing.assert_array_equal(valid, golden['keypoint/valid'])


def test_keypoints_at_and_beyond_the_border():
  roi = np.array([[10.0, 20, 30, 40]], np.float32)
  points = np.array(
    [[10, 20, 2], [30, 40, 1], [30.01, 40, 2], [9.99, 30, 2], [20, 30, 0]],
    np.float32,
  )
  cell, valid = keypoint_cells(points[None], roi, size=4)
  np.testing.assert_array_equal(cell, [[0, 15, 0, 0, 0]])
  np.testing.assert_array_equal(valid, [[1, 1, 0, 0, 0]])


def test_masks_are_pasted_at_pixel_centres(post):
  for i, box in enumerate(post['paste/boxes']):
    found = pasting.paste(post['paste/masks'][i], box, post['paste/hw'])
    bits = np.unpackbits(post['paste/centres/bits'][i], axis=-1)
    np.testing.assert_array_equal(found, bits[:, : found.shape[1]])


def test_a_full_mask_is_its_box_and_nothing_outside_the_picture():
  full = np.ones((28, 28))
  found = pasting.paste(full, np.array([2, 3, 7, 9]), (10, 12))
  expected = np.zeros((10, 12), bool)
  expected[3:9, 2:7] = True
  np.testing.assert_array_equal(found, expected)
  for box in ([-9, -9, 0, 0], [12, 3, 15, 9], [3, 4, 3, 4], [-5, 90, 50, 99]):
    assert not pasting.paste(full, np.array(box), (10, 12)).any()


def test_peaks_are_those_of_bicubic_maps(post):
  for i, roi in enumerate(post['keypoints/rois']):
    maps = post['keypoints/maps'][i].transpose(1, 2, 0)
    points, scores = pasting.peaks(maps, roi)
    expected = post['keypoints/xy'][i, :, :2]
    np.testing.assert_allclose(points, expected, 1e-5, 1e-5)
    np.testing.assert_allclose(scores, post['keypoints/scores'][i], 1e-5)


def test_a_box_of_no_size_has_its_peak_within_a_pixel():
  points, scores = pasting.peaks(np.ones((4, 4, 2)), np.array([5, 6, 5, 6.2]))
  np.testing.assert_allclose(points, [[5.5, 6.5]] * 2)
  np.testing.assert_allclose(scores, 1, rtol=1e-6)
