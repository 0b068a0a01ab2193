"""Small networks of a user, which tests fill with layers."""

import jax
import jax.numpy as jnp
import numpy as np

import slimjax

WIDTHS = (0.5, 1.0)


class Net(slimjax.SlimNet):
  """A network of layers conv0, conv1, ... on small images; tests fill it."""

  sizes: tuple[int, ...] = (8,)

  def layer_names(self):
    return [(f'conv{i}', None) for i in range(len(self.sizes))]

  def uniform_channels(self, width):
    return [int(c * width) for c in self.sizes]

  def example(self):
    return (jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32),)


def make(kind, **options):
  return kind(**{'num_classes': 3, 'widths': WIDTHS, **options})


def drawn(model):
  """Returns random variables in the format of `slimjax.init`."""
  shapes = jax.eval_shape(lambda: slimjax.init(model, jax.random.key(0)))
  random = np.random.default_rng(0)

  def draw(like):
    if len(like.shape) > 1:
      return jnp.asarray(random.normal(size=like.shape), like.dtype)
    return jnp.asarray(random.uniform(0.5, 1.5, like.shape), like.dtype)

  return jax.tree.map(draw, shapes)


def images_of(size=6, batch=2):
  return jnp.float32(
    np.random.default_rng(9).normal(size=(batch, size, size, 3))
  )


def close(found, expected, tolerance=1e-5):
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
