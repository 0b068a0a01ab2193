"""What the tests of the runtime share."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import tiny_net

import slimjax
from slimjax import runtime
from slimjax.data import digits
from slimjax.layers import MOMENTUM
from slimjax.variables import merge
from slimjax.variables import select

SIZE = 32
WIDTHS = (0.25, 0.5)
ERRORS = {0.25: 9.0, 0.5: 4.0}
DIGITS = digits.create()


def randomised(model, variables, size=SIZE):
  """Draws norms, and statistics of random images: logits that depend on them.

  Those of a new network fade with depth, and all images have the same logits.
  """
  random = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key == 'scale':
      return jnp.asarray(random.uniform(0.5, 1.5, x.shape), x.dtype)
    return jnp.asarray(random.normal(0, 0.1, x.shape), x.dtype)

  norm = jax.tree_util.tree_map_with_path(draw, variables['norm'])
  variables = {**variables, 'norm': norm}
  images = jnp.asarray(random.normal(size=(4, size, size, 3)), jnp.float32)

  @functools.partial(jax.jit, static_argnames='width')
  def moved(selected, width):
    return model.apply(
      selected, images, width=width, train=True, mutable=['batch_stats']
    )[1]

  for width in model.widths:
    switch = model.switch(width)
    old = variables['batch_stats'][switch]
    new = moved(select(variables, switch), width)['batch_stats']
    # new = (1 - momentum) * old + momentum * batch
    batch = jax.tree.map(
      lambda o, n: (n - (1 - MOMENTUM) * o) / MOMENTUM + 1e-3, old, new
    )
    variables = merge(variables, switch, {'batch_stats': batch})
  return variables


def export_digits(path, widths, **options):
  """Writes a bundle of an untrained network that takes pictures of digits."""
  model = slimjax.create_model(tiny_net.NAME, num_classes=10, widths=widths)
  variables = slimjax.init(model, jax.random.key(0), image_size=SIZE)
  runtime.export(
    model,
    randomised(model, variables),
    path,
    image_size=SIZE,
    preprocess=DIGITS.preprocess,
    preprocessing=DIGITS.preprocessing,
    class_names=DIGITS.class_names,
    decode=DIGITS.decode,
    outputs='logits',
    platforms=('cpu',),
    **options,
  )


def images_of(count, dtype='uint8'):
  random = np.random.default_rng(count)
  images = random.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
  if dtype == 'uint8':
    return images
  return np.asarray(digits.preprocess(images), dtype)


def live_bytes():
  """Returns the bytes of all arrays that live, without those in cycles."""
  gc.collect()  # what other tests have left
  return sum(array.nbytes for array in jax.live_arrays())


def close(found, expected, tolerance=1e-5):
  difference = np.abs(np.asarray(found) - np.asarray(expected)).max()
  return difference <= tolerance * np.abs(expected).max()
