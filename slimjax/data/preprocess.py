"""Augments and normalises images on the device, inside compiled programs.

The functions of a data set are frozen objects, equal to others with equal
numbers, so that a second run in the same process compiles nothing again.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from slimjax import checks
from slimjax.data.batches import Batch

Constant = float | tuple[float, ...]  # for all channels, or one each

# Principal components of the colours of ImageNet's pixels, in [0, 1]: square
# roots of eigenvalues, and eigenvectors as columns (Krizhevsky et al., 2012).
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_COMPONENTS = (
  (-0.5675, 0.7192, 0.4009),
  (-0.5808, -0.0045, -0.8140),
  (-0.5836, -0.6948, 0.4203),
)
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclasses.dataclass(frozen=True)
class Normalise:
  """Calls `normalise` with these numbers.

  Attributes:
    mean: mean of the images in [0, 1], for all channels or one each.
    std: standard deviation, likewise.
  """

  mean: Constant
  std: Constant

  def __call__(self, images: jax.Array) -> jax.Array:
    return normalise(images, mean=self.mean, std=self.std)


@dataclasses.dataclass(frozen=True)
class AugmentImages:
  """Augments the images of a batch; labels stay as they are.

  Attributes:
    function: (key, images, **options) -> images.
    options: other arguments of it, as (name, value) pairs; default: none.
  """

  function: Callable[..., jax.Array]
  options: tuple[tuple[str, Any], ...] = ()

  def __call__(self, key: jax.Array, batch: Batch) -> Batch:
    images = self.function(key, batch['image'], **dict(self.options))
    return {**batch, 'image': images}


def normalise(images, *, mean: Constant, std: Constant):
  """Maps uint8 images in 0..255 to float32 (images / 255 - mean) / std."""
  return _standardise(jnp.asarray(images, jnp.float32) / 255.0, mean, std)


def _standardise(images, mean: Constant, std: Constant):
  means, stds = (
    jnp.broadcast_to(jnp.asarray(x, images.dtype), images.shape)
    for x in (mean, std)
  )
  return (images - means) / stds


def colour_augment(
  key: jax.Array,
  images: jax.Array,
  *,
  mean: Constant,
  std: Constant,
  jitter: float = 0.4,
  lighting: float = 0.1,
) -> jax.Array:
  """Applies colour jitter, lighting noise and flip, then `normalise`.

  This is what the paper's recipes (appendix A) do after the random crop, in
  their order. Each example is drawn from (key, its place in the batch).

  Args:
    key: a key of `jax.random`.
    images: uint8 [b, h, w, 3].
    mean, std: see `normalise`.
    jitter: largest deviation, see `colour_jitter`; default: 0.4.
    lighting: deviation of `lighting_noise`; default: 0.1.
  """
  images = jnp.asarray(images, jnp.float32) / 255.0

  def of_example(place, image):
    keys = jax.random.split(jax.random.fold_in(key, place), 3)
    image = colour_jitter(keys[0], image, jitter)
    image = lighting_noise(keys[1], image, lighting)
    return jnp.where(jax.random.bernoulli(keys[2]), image[:, ::-1], image)

  places = jnp.arange(images.shape[0])
  return _standardise(jax.vmap(of_example)(places, images), mean, std)


def colour_jitter(key: jax.Array, image: jax.Array, jitter: float) -> jax.Array:
  """Changes brightness, contrast and saturation, in a random order.

  Each change mixes the image with another one, by a factor uniform in
  1 - jitter to 1 + jitter, and clips. The other image is black for brightness,
  the mean of the grey image for contrast, the grey image for saturation.

  Args:
    key: a key of `jax.random`.
    image: [h, w, 3] in [0, 1].
    jitter: largest deviation of the factors from 1; 0 changes nothing.
  """
  order_key, factor_key = jax.random.split(key)
  factors = jax.random.uniform(
    factor_key, (3,), minval=1.0 - jitter, maxval=1.0 + jitter
  )
  choice = jax.random.randint(order_key, (), 0, len(_ORDERS))
  order = jnp.asarray(_ORDERS)[choice]

  for turn in range(3):
    grey = image @ jnp.asarray(_GREY)  # [h, w]
    mean = jnp.full_like(grey, grey.mean())
    other = jnp.stack([jnp.zeros_like(grey), mean, grey])[order[turn]]
    factor = factors[order[turn]]
    image = factor * image + (1.0 - factor) * other[..., None]
    image = jnp.clip(image, 0.0, 1.0)
  return image


def lighting_noise(
  key: jax.Array, image: jax.Array, deviation: float
) -> jax.Array:
  """Adds one colour to all pixels, along the principal components of ImageNet.

  Args:
    key: a key of `jax.random`.
    image: [h, w, 3] in [0, 1].
    deviation: standard deviation of the normal factor of each component.
  """
  factors = deviation * jax.random.normal(key, (3,))
  colour = jnp.asarray(_COMPONENTS) @ (factors * jnp.asarray(_DEVIATIONS))
  return jnp.clip(image + jnp.broadcast_to(colour, image.shape), 0.0, 1.0)


def check_affine(
  image_size: int, max_shift: float, max_degrees: float, max_zoom: float
) -> None:
  """Raises ValueError if numbers for `random_affine` are out of their range.

  Args:
    image_size: larger side of the images, pixels.
    max_shift, max_degrees, max_zoom: see `random_affine`.
  """
  checks.real('max_shift', max_shift, least=0, most=image_size)
  checks.real('max_degrees', max_degrees, least=0, most=180)
  checks.real('max_zoom', max_zoom, least=0, below=1)


def affine_augment(
  key: jax.Array,
  images: jax.Array,
  *,
  mean: float,
  std: float,
  max_shift: float,
  max_degrees: float,
  max_zoom: float,
  flip: bool = False,
) -> jax.Array:
  """Applies `normalise`, then random shifts, turns, zooms, perhaps flips.

  What comes in from outside of an image is black.

  Args:
    key: a key of `jax.random`.
    images: uint8 [b, h, w, 3].
    mean, std: see `normalise`.
    max_shift, max_degrees, max_zoom: see `random_affine`.
    flip: whether half of the images are mirrored, left to right; default: no.
  """
  images = random_affine(
    key,
    normalise(images, mean=mean, std=std),
    max_shift=max_shift,
    max_degrees=max_degrees,
    max_zoom=max_zoom,
    fill=normalise(0.0, mean=mean, std=std),
  )
  if not flip:
    return images
  mirrored = jax.random.bernoulli(
    jax.random.fold_in(key, 1), shape=images.shape[:1]
  )
  return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def random_affine(
  key: jax.Array,
  images: jax.Array,
  *,
  max_shift: float,
  max_degrees: float,
  max_zoom: float,
  fill: float | jax.Array = 0.0,
) -> jax.Array:
  """Turns, zooms and shifts every image by its own random amount.

  Each amount is uniform within plus or minus its maximum. Sampling is bilinear;
  pixels from outside the image are `fill`.

  Args:
    key: a key of `jax.random`.
    images: floating [b, h, w, c].
    max_shift: largest shift in pixels, in each direction.
    max_degrees: largest rotation about the centre, in degrees.
    max_zoom: largest zoom; 0.1 is 10 % larger or smaller.
    fill: value outside the image; default: 0.
  """
  batch, height, width, _ = images.shape
  draws = jax.random.uniform(key, (4, batch), minval=-1.0, maxval=1.0)
  down, right = draws[0] * max_shift, draws[1] * max_shift
  angle = jnp.deg2rad(draws[2] * max_degrees)
  zoom = 1.0 + draws[3] * max_zoom
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom

  def warp(image, down, right, cos, sin):
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2
    rows, columns = jnp.broadcast_arrays(rows - down, columns - right)
    source = jnp.stack(
      [
        cos * rows + sin * columns + (height - 1) / 2,
        cos * columns - sin * rows + (width - 1) / 2,
      ]
    )  # [2, h, w], where each pixel comes from

    def sample(channel):  # [h, w] -> [h, w]
      return jax.scipy.ndimage.map_coordinates(
        channel, list(source), order=1, mode='constant', cval=0.0
      )

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)

  return fill + jax.vmap(warp)(images - fill, down, right, cos, sin)
