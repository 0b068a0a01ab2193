"""Kernels of our own on CPU, against their definitions."""

import functools

from arrays import convolve
from arrays import normal
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.nn.kernels.convolution import convolve as slim_convolve
from slimjax.nn.kernels.depthwise import depthwise_conv


def native(inputs, kernel, *, strides, padding='VALID', dilation=(1, 1)):
  groups = inputs.shape[-1] // kernel.shape[2]
  return convolve(inputs, kernel, strides, padding, dilation, groups)


def gradients_of(conv, inputs, kernel, geometry):
  @jax.jit
  def run(inputs, kernel):
    outputs, pull = jax.vjp(functools.partial(conv, **geometry), inputs, kernel)
    # A cotangent that no two positions share.
    cotangent = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype))
    return outputs, *pull(cotangent.reshape(outputs.shape))

  return run(inputs, kernel)


@pytest.mark.parametrize(
  'size, strides, dilation, padding, image',
  [
    (3, (1, 1), (1, 1), ((1, 1), (1, 1)), (7, 10)),
    (3, (2, 2), (1, 1), ((1, 1), (1, 1)), (7, 10)),
    (3, (2, 2), (1, 1), ((1, 1), (1, 1)), (1, 2)),
    (3, (1, 1), (2, 2), ((2, 2), (2, 2)), (9, 8)),
    (3, (2, 2), (2, 2), ((2, 2), (2, 2)), (9, 8)),
    (5, (1, 1), (1, 1), ((2, 2), (2, 2)), (19, 6)),
    (5, (2, 2), (1, 1), ((2, 2), (2, 2)), (37, 11)),
    (5, (2, 2), (2, 2), ((4, 4), (4, 4)), (11, 13)),
    (3, (2, 1), (1, 2), ((0, 1), (2, 0)), (8, 9)),
    (3, (3, 3), (1, 1), ((0, 0), (0, 0)), (11, 10)),
  ],
)
@pytest.mark.usefixtures('x64')
def test_depthwise_kernel_and_its_gradients(
  size, strides, dilation, padding, image
):
  geometry = {'strides': strides, 'padding': padding, 'dilation': dilation}
  inputs = jnp.asarray(normal(0, 2, *image, 6))
  kernel = jnp.asarray(normal(1, size, size, 1, 6))
  ours = gradients_of(depthwise_conv, inputs, kernel, geometry)
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize('strides', [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize('groups', [1, 3])
@pytest.mark.usefixtures('x64')
def test_pointwise_kernel_and_its_gradients(strides, groups):
  inputs = jnp.asarray(normal(0, 2, 7, 10, 6))
  kernel = jnp.asarray(normal(1, 1, 1, 6 // groups, 9))
  geometry = {'strides': strides}
  ours = gradients_of(
    functools.partial(slim_convolve, groups=groups), inputs, kernel, geometry
  )
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
  'size, strides, dilation, padding, image',
  [
    ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (2, 2)),
    ((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), (5, 8)),
    ((3, 3), (1, 1), (2, 2), ((2, 2), (2, 2)), (4, 3)),
    ((5, 1), (2, 1), (1, 2), ((2, 1), (0, 3)), (5, 3)),
    ((3, 3), (1, 1), (1, 1), ((-1, 0), (0, -1)), (6, 7)),
    ((2, 2), (2, 2), (1, 1), ((1, 1), (1, 1)), (20, 17)),
  ],
)
@pytest.mark.usefixtures('x64')
def test_kernel_for_small_maps_and_its_gradients(
  size, strides, dilation, padding, image
):
  geometry = {'strides': strides, 'padding': padding, 'dilation': dilation}
  inputs = jnp.asarray(normal(0, 2, *image, 6))
  kernel = jnp.asarray(normal(1, *size, 6, 9))
  ours = gradients_of(slim_convolve, inputs, kernel, geometry)
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize('platform', ['cuda', 'tpu', 'cpu'])
@pytest.mark.parametrize(
  'conv, shape, geometry',
  [
    (
      depthwise_conv,
      (3, 3, 1, 6),
      {'strides': (2, 2), 'padding': ((1, 1), (1, 1))},
    ),
    (slim_convolve, (1, 1, 6, 4), {'strides': (2, 2)}),
    (slim_convolve, (3, 3, 6, 4), {'strides': (3, 3)}),
  ],
)
def test_only_cpu_has_formulations_of_its_own(conv, shape, geometry, platform):
  def both(inputs, kernel):
    return gradients_of(conv, inputs, kernel, geometry)

  inputs = jax.ShapeDtypeStruct((2, 9, 9, 6), jnp.float32)
  kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
  traced = jax.jit(both).trace(inputs, kernel)
  program = traced.lower(lowering_platforms=(platform,)).as_text()
  # One forward, one for each gradient.
  convolutions = program.count('stablehlo.convolution')
  assert convolutions == (0 if platform == 'cpu' else 3)
  assert ('stablehlo.slice' in program) == (platform == 'cpu')
