"""Crops of masks are what the masks of whole pictures hold there."""

import numpy as np
from pycocotools import mask as tools
import pytest

from slimjax.data.coco.masks import Masks
from slimjax.data.coco.masks import resample
from slimjax.data.coco.ragged import Ragged
from slimjax.detection.rle import decode

HEIGHT, WIDTH = 90, 120


def masks_of(*found):
  """Returns masks of polygons (lists) and codes (bytes)."""
  polygons = [one if isinstance(one, list) else [] for one in found]
  codes = [one if isinstance(one, bytes) else b'' for one in found]
  flat = [np.ravel(polygon) for some in polygons for polygon in some]
  return Masks(
    Ragged.of(
      np.concatenate([np.zeros(0), *flat]),
      [sum(map(np.size, some)) for some in polygons],
    ),
    Ragged.of(np.array([len(f) for f in flat], int), [*map(len, polygons)]),
    Ragged.of(np.frombuffer(b''.join(codes), np.uint8), [*map(len, codes)]),
  )


def ring(centre, radii, count=60):
  """Returns the corners of an ellipse, [count, 2]."""
  angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
  turned = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  return np.asarray(centre) + turned * np.asarray(radii)


BLOB = ring((60, 45), (33, 25)) + 4 * np.sin(np.arange(120).reshape(60, 2))


def inside(places):
  """Returns which places [n, 2] are in the blob: crossings of a ray are odd."""
  x, y = places[:, :1], places[:, 1:]
  a, b = BLOB, np.roll(BLOB, -1, axis=0)
  crosses = (a[:, 1] > y) != (b[:, 1] > y)
  slope = (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
  left = x < a[:, 0] + (y - a[:, 1]) * slope
  return (crosses & left).sum(axis=1) % 2 == 1


@pytest.mark.parametrize('side, share', [(28, 0.05), (112, 0.02)])
def test_a_crop_of_polygons_holds_the_cells_whose_centres_are_in(side, share):
  masks = masks_of([BLOB])
  for box in ([22, 16, 97, 74], [40, 30, 60, 90], [-5, 0, 70, 50]):
    box = np.array(box, float)
    crop = masks.crop(0, box, (HEIGHT, WIDTH), side)
    assert (crop.shape, crop.dtype) == ((side, side), np.uint8)
    cells = (np.stack(np.mgrid[:side, :side][::-1], -1) + 0.5) / side
    places = box[:2] + cells.reshape(-1, 2) * (box[2:] - box[:2])
    exact = inside(places).reshape(side, side)
    assert 0.2 < exact.mean() < 0.95
    # Only cells at the border may differ, to either side alike.
    assert (crop != exact).mean() < share
    assert abs(crop.mean() - exact.mean()) < share / 3


def test_polygons_of_an_object_are_one_mask():
  left, right = ring((30, 45), (12, 12)), ring((80, 45), (20, 20))
  masks = masks_of([BLOB], [left, right], [left])
  box = np.array([10.0, 20, 110, 70])
  both = masks.crop(1, box, (HEIGHT, WIDTH), 56)
  one = masks.crop(2, box, (HEIGHT, WIDTH), 56)
  assert one.sum() < both.sum()
  assert (both[:, :28] >= one[:, :28]).all()
  assert both[:, 30:].any()
  assert not one[:, 30:].any()


@pytest.mark.parametrize('box', [[22, 16, 97, 74], [50.5, 20.25, 99, 47.5]])
def test_a_code_gives_the_crop_of_its_polygons(box):
  polygon = BLOB.ravel().tolist()
  coded = tools.merge(tools.frPyObjects([polygon], HEIGHT, WIDTH))
  masks = masks_of([BLOB], coded['counts'])
  box = np.array(box, float)
  pair = [masks.crop(i, box, (HEIGHT, WIDTH), 56) for i in (0, 1)]
  assert 0.3 < pair[0].mean() < 0.95
  assert (pair[0] != pair[1]).mean() < 0.03  # pixels are coarser than polygons


def test_resampling_is_exact_at_whole_factors_and_between():
  mask = np.zeros((8, 10), np.uint8)
  mask[2:6, 3:7] = 1
  box = np.array([1.0, 0, 9, 8])
  assert (resample(mask, box, 8) == mask[:, 1:9]).all()
  doubled = resample(mask, box, 16)
  assert (doubled == mask[:, 1:9].repeat(2, 0).repeat(2, 1)).all()
  # Half a pixel further, a border of 0 and 1 is one half, which counts.
  shifted = resample(mask, box + np.array([0.5, 0, 0.5, 0]), 8)
  assert (np.flatnonzero(shifted[3]) == [1, 2, 3, 4, 5]).all()
  # One row, one column.
  assert resample(mask[:1, 3:4] + 1, np.array([0.0, 0, 1, 1]), 3).all()


def test_only_what_is_scaled_is_rasterised(monkeypatch):
  """No mask of a whole picture is made of a polygon."""
  masks = masks_of([BLOB * 1000])
  box = np.array([22e3, 16e3, 97e3, 74e3])
  near = masks_of([BLOB]).crop(0, box / 1000, (HEIGHT, WIDTH), 56)
  assert (masks.crop(0, box, (90_000, 120_000), 56) == near).all()


def test_decoding_is_quiet_and_says_what_is_wrong():
  eye = np.asfortranarray(np.eye(5, 7, dtype=np.uint8))
  assert (decode(tools.encode(eye)) == eye).all()
  with pytest.raises(ValueError, match='RLE'):
    decode({'size': [2, 2], 'counts': b'oo~~'})
