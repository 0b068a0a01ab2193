"""Masks and keypoints come back to where an independent program has them."""

import goldens
import numpy as np
import pytest

from slimjax.tasks.detection.pasting import paste
from slimjax.tasks.detection.pasting import peaks


@pytest.fixture(scope='module')
def golden():
  with np.load(goldens.FOLDER / 'detection' / 'post.npz') as file:
    return dict(file)


def test_masks_are_pasted_as_torchvision_samples_them(golden):
  height, width = map(int, golden['paste/hw'])
  bits = np.unpackbits(golden['paste/centres/bits'], axis=-1)[..., :width]
  for mask, box, expected in zip(
    golden['paste/masks'], golden['paste/boxes'], bits, strict=True
  ):
    pasted = paste(mask, box, height, width)
    assert pasted.flags.f_contiguous
    assert (pasted == expected).all()


@pytest.mark.parametrize(
  'box, pixels',
  [
    ([3, 2, 7, 4], 8),
    ([3.6, 2, 7.4, 4], 6),  # centres 4.5 to 6.5 are within
    ([3, 2, 3.4, 4], 0),  # no centre is
    ([3, 2, 3, 2], 0),
    ([-5, -5, 50, 50], 200),
    ([30, 2, 40, 4], 0),  # beside the picture
  ],
)
def test_a_full_mask_fills_the_pixels_whose_centres_are_in_the_box(box, pixels):
  pasted = paste(np.ones((28, 28), np.float32), np.array(box), 10, 20)
  assert pasted.shape == (10, 20)
  assert pasted.sum() == pixels


def test_peaks_are_those_of_the_bicubic_maps(golden):
  for maps, roi, places, scores in zip(
    golden['keypoints/maps'], golden['keypoints/rois'],
    golden['keypoints/xy'], golden['keypoints/scores'], strict=True
  ):  # fmt: skip
    found = peaks(maps.astype(np.float32).transpose(1, 2, 0), roi)
    np.testing.assert_allclose(found[:, :2], places[:, :2], atol=1e-4)
    np.testing.assert_allclose(found[:, 2], scores, atol=1e-5)


def test_a_box_of_less_than_a_pixel_has_its_point():
  found = peaks(np.zeros((56, 56, 2), np.float32), np.array([3, 4, 3.2, 4.1]))
  np.testing.assert_allclose(found[:, :2], [[3.5, 4.5]] * 2)
