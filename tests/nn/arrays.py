"""What the tests of layers share: random arrays, a plain convolution."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import slimjax


def normal(seed, *shape):
  return np.random.RandomState(seed).standard_normal(shape)


def convolve(
  inputs, kernel, strides=(1, 1), padding='SAME', dilation=(1, 1), groups=1
):
  return lax.conv_general_dilated(
    jnp.asarray(inputs),
    jnp.asarray(kernel),
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def drawn(model):
  """Returns random variables in the format of `slimjax.init`."""
  shapes = jax.eval_shape(lambda: slimjax.init(model, jax.random.key(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype), shapes
  )


def close(found, expected, tolerance=1e-10):
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
