"""RoIAlign equals the oracle in values and gradients, on one map and four."""

import functools

import goldens
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from slimjax.detection.roi_align import roi_align


@pytest.fixture(scope='module')
def golden():
  return goldens.detection('roi_align')


def of_one_map(golden, size, features):
  """Returns the golden's rois, each of its own image."""
  rois = golden['rois']
  found = roi_align((features,), np.stack((rois, rois)), size)
  return found[golden['image'], np.arange(len(rois))]


@pytest.mark.parametrize('size', [7, 14])
def test_values_of_one_map(golden, size):
  found = jax.jit(functools.partial(of_one_map, golden, size))(
    golden['features']
  )
  np.testing.assert_allclose(found, golden[f'{size}/value'], 1e-5, 1e-5)


def test_gradient_of_one_map(golden):
  of = functools.partial(of_one_map, golden, 7)
  _, pull = jax.vjp(of, jnp.asarray(golden['features']))
  (found,) = jax.jit(pull)(golden['cotangent'])
  np.testing.assert_allclose(found, golden['7/gradient'], 1e-5, 2e-5)


def test_values_and_gradients_of_a_pyramid(golden):
  """Rois have gradients of zero."""
  maps = tuple(golden[f'levels/map/{level}'] for level in range(2, 6))

  @jax.jit
  def both(maps, rois, cotangent):
    align = lambda *args: roi_align(*args, 7, canonical_scale=56)
    found, pull = jax.vjp(align, maps, rois)
    return found, *pull(cotangent)

  found, gradients, of_rois = both(
    maps, golden['levels/rois'], golden['levels/cotangent']
  )
  np.testing.assert_allclose(found, golden['levels/value'], 1e-5, 1e-5)
  for level, gradient in enumerate(gradients, 2):
    expected = golden[f'levels/gradient/{level}']
    np.testing.assert_allclose(gradient, expected, 1e-5, 2e-5)
  assert not of_rois.any()


@pytest.mark.parametrize('sampling', [1, 3])
def test_gradients_are_finite_differences(sampling):
  rng = np.random.RandomState(0)
  maps = tuple(
    jnp.asarray(rng.standard_normal((2, *side, 2)), jnp.float32)
    for side in ((6, 5), (3, 3))
  )
  rois = jnp.array([[[1.0, 2, 15, 11], [-3, -9, 40, 50]]] * 2)
  rois += jnp.arange(2)[:, None, None] * 1.7
  align = jax.jit(
    lambda maps: roi_align(maps, rois, 3, sampling=sampling, canonical_scale=56)
  )
  check_grads(align, (maps,), order=1, modes=['rev'], atol=1e-2, rtol=1e-2)


def test_a_plane_is_read_exactly():
  """Inside the map, a bin is the plane's value at its centre."""
  row, column = np.mgrid[:16, :16].astype(np.float32)
  plane = (3 * row - 2 * column)[None, ..., None]
  roi = jnp.array([[[8.0, 12, 36, 40]]])
  found = roi_align((plane,), roi, 7)[0, 0, ..., 0]
  centre = np.arange(7) + 0.5
  expected = 3 * (3 + centre)[:, None] - 2 * (2 + centre)[None]
  np.testing.assert_allclose(found, expected, 1e-5)


def test_bfloat16_maps_are_summed_in_float32(golden):
  """Rounding the maps and the result is all that bfloat16 costs."""
  maps = jnp.asarray(golden['features'], jnp.bfloat16)
  found = of_one_map(golden, 7, maps)
  assert found.dtype == jnp.bfloat16
  exact = of_one_map(golden, 7, maps.astype(jnp.float32))
  np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
  _, pull = jax.vjp(functools.partial(of_one_map, golden, 7), maps)
  (gradient,) = pull(jnp.asarray(golden['cotangent'], jnp.bfloat16))
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    gradient.astype(jnp.float32), golden['7/gradient'], 0.02, 0.02
  )
