"""Boxes and anchors equal the oracle's; padding and borders hold."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection import anchors
from slimjax.detection import boxes

WEIGHTS = {'1': (1, 1, 1, 1), '10': (10, 10, 5, 5)}


@pytest.fixture(scope='module')
def golden():
  return goldens.detection('boxes')


def test_iou(golden):
  found = boxes.iou(golden['a'], golden['b'])
  np.testing.assert_allclose(found, golden['iou'], atol=1e-6)


def test_boxes_without_area_overlap_nothing_not_even_themselves():
  points = jnp.array([[3.0, 3, 3, 3], [0, 0, 0, 5], [0, 0, 9, 9]])
  found = boxes.iou(points, points)
  np.testing.assert_array_equal(found, np.diag([0.0, 0, 1]))


@pytest.mark.parametrize('name', WEIGHTS)
def test_coding(golden, name):
  weights = WEIGHTS[name]
  deltas = boxes.encode(golden['reference'], golden['proposals'], weights)
  np.testing.assert_allclose(deltas, golden[f'encode/{name}'], 1e-5, 1e-5)
  decoded = boxes.decode(
    golden['deltas'].reshape(16, 2, 4), golden['proposals'][:, None], weights
  )
  np.testing.assert_allclose(decoded, golden[f'decode/{name}'], 1e-5, 1e-4)


def test_decode_undoes_encode(golden):
  target, proposals = golden['reference'], golden['proposals']
  for weights in WEIGHTS.values():
    deltas = boxes.encode(target, proposals, weights)
    found = boxes.decode(deltas, proposals, weights)
    np.testing.assert_allclose(found, target, atol=1e-3)


def test_sides_shrink_without_bound_unless_both_sides_are_clipped():
  unit = jnp.array([0.0, 0, 1000, 1000])
  for both_sides, side in ((False, 1000 * np.exp(-9)), (True, 16)):
    deltas = jnp.array([0.0, 0, -9, 9])
    found = boxes.decode(deltas, unit, both_sides=both_sides)
    assert found[2] - found[0] == pytest.approx(side, rel=1e-2)
    assert found[3] - found[1] == pytest.approx(62500, rel=1e-5)


def test_bfloat16_deltas_are_decoded_in_float32():
  anchor = jnp.array([1000.0, 1000, 1017, 1017])
  found = boxes.decode(jnp.zeros(4, jnp.bfloat16), anchor)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, anchor)


def test_clip_is_to_the_picture(golden):
  found = boxes.clip(golden['wild'], golden['hw'])
  np.testing.assert_array_equal(found, golden['clipped'])


@pytest.mark.parametrize('scale', [224, 56])
def test_levels(golden, scale):
  found = boxes.level_of(golden['sized'], scale)
  np.testing.assert_array_equal(found, golden[f'levels/{scale}'])


def test_levels_at_their_boundaries():
  """A box whose side is a boundary belongs to the upper level."""
  sides = np.array([0, 111.9, 112, 223.99, 224, 447.9, 448, 9000], np.float32)
  square = np.stack((0 * sides, 0 * sides, sides, sides), axis=-1)
  found = jax.jit(boxes.level_of)(square)
  np.testing.assert_array_equal(found, [2, 2, 3, 3, 4, 4, 5, 5])


@pytest.mark.parametrize('canvas', [(128, 192), (96, 160)])
def test_anchors(canvas):
  golden = goldens.detection('anchors')
  name = '{}x{}'.format(*canvas)
  found = anchors.anchors(canvas, golden[f'{name}/sizes'])
  counts = [len(level) for level in found]
  np.testing.assert_array_equal(counts, golden[f'{name}/counts'])
  np.testing.assert_array_equal(
    np.concatenate(found), golden[f'{name}/anchors']
  )


def test_anchors_of_the_published_canvas():
  golden = goldens.detection('anchors')
  found = anchors.anchors((800, 1344), (32, 64, 128, 256, 512))
  for i, level in enumerate(found):
    assert len(level) == golden['800x1344/counts'][i]
    np.testing.assert_array_equal(level[:4], golden['800x1344/first'][i])
    np.testing.assert_array_equal(level[-4:], golden['800x1344/last'][i])
    sums = level.astype(np.float64).sum(0)
    np.testing.assert_allclose(sums, golden['800x1344/sums'][i], rtol=1e-12)


def test_anchors_want_a_size_for_each_level():
  with pytest.raises(ValueError, match='2 anchor sizes .* for 5 levels'):
    anchors.anchors((64, 64), (16, 32))


def test_an_anchor_at_the_border_is_inside():
  of_cell = np.array([[0.0, 0, 8, 6], [0, 0, 8.5, 6], [-1, 0, 2, 2]])
  np.testing.assert_array_equal(
    anchors.inside(of_cell, (6, 8)), [True, False, False]
  )
