"""Checks the images that a network is given before they reach its programs."""

from collections.abc import Callable
from typing import Any
import warnings

import jax
import numpy as np

from slimjax.runtime.manifest import Manifest

Range = tuple[float, float]
# Values of preprocessed images may leave the range of what uint8 gives by this
# share of its length: resizing overshoots, augmentation adds.
_MARGIN = 0.5
# Images in [0, 1] are suspect where the preprocessed ones span more than this.
_WIDE = 1.5
# So many values are looked at, evenly spaced.
_LOOKS = 2**16


def measure_range(
  preprocess: Callable[[Any], Any],
  image_size: tuple[int, int],
  batch_size: int | None = None,
) -> Range | None:
  """Returns the smallest and largest value that preprocessing gives.

  They are those of a black and a white image; None if these are equal or not
  finite, as where each image is scaled by what is in it.

  Args:
    preprocess: uint8 images [b, h, w, 3] -> floating images.
    image_size: (height, width)
    batch_size: that it takes; None for any.
  """
  shape = (batch_size or 1, *image_size, 3)
  values = [
    np.asarray(preprocess(np.full(shape, level, np.uint8)), np.float32)
    for level in (0, 255)
  ]
  low, high = float(np.min(values)), float(np.max(values))
  return (low, high) if np.isfinite([low, high]).all() and low < high else None


class Inputs:
  """Checks images for a network; warns once of what looks wrong."""

  def __init__(self, manifest: Manifest):
    self._manifest = manifest
    self._warned = False
    self._looked = False

  def __call__(self, images: Any) -> Any:
    """Returns the images as an array of uint8 or float32.

    Raises:
      ValueError: they have another shape or type, or are floating ones with
        values that preprocessed images do not have.
    """
    if not isinstance(images, (np.ndarray, jax.Array)):
      images = np.asarray(images)
    height, width = self._manifest.image_size
    if images.ndim != 4 or images.shape[1:] != (height, width, 3):
      raise ValueError(
        f'images must have the shape [b, {height}, {width}, 3], got'
        f' {list(images.shape)}'
      )
    if images.dtype == np.uint8:
      if not self._manifest.preprocesses:
        raise ValueError(
          'uint8 images, but this bundle was exported without preprocessing:'
          ' give floating images that are preprocessed'
        )
      return images
    if not jax.numpy.issubdtype(images.dtype, jax.numpy.floating):
      raise ValueError(
        'images must be uint8, or floating point and preprocessed, got'
        f' {images.dtype}'
      )
    self._check_values(images)
    if images.dtype == np.float32:
      return images
    return np.asarray(images).astype(
      np.float32
    )  # on the host: compiles nothing

  def _check_values(self, images: Any) -> None:
    allowed = self._manifest.input_range
    if allowed is None or not images.size:
      return
    if isinstance(images, jax.Array):
      # Fetching them from an accelerator takes long: the first batch tells.
      on_host = all(device.platform == 'cpu' for device in images.devices())
      if self._looked and not on_host:
        return
      images = np.asarray(images)
    self._looked = True
    values = images.reshape(-1)[:: max(1, images.size // _LOOKS)]
    found = float(values.min()), float(values.max())
    margin = _MARGIN * (allowed[1] - allowed[0])
    # The comparison is negated so that NaN is refused, too.
    if not (allowed[0] - margin <= found[0] <= found[1] <= allowed[1] + margin):
      raise ValueError(
        'floating images are taken as preprocessed, and then lie between'
        f' {_text(allowed)}, but these lie between {_text(found)};'
        f' {self._way()}'
      )
    suspect = 0 <= found[0] < found[1] <= 1
    if suspect and allowed[1] - allowed[0] > _WIDE and not self._warned:
      self._warned = True
      warnings.warn(
        'floating images are taken as preprocessed, and then lie between'
        f' {_text(allowed)}, but these lie between 0 and 1; if they were not'
        f' normalised, the answers are wrong: {self._way()}',
        stacklevel=4,
      )

  def _way(self) -> str:
    words = self._manifest.preprocessing
    return 'give uint8 images, which are preprocessed here' + (
      f', or do it yourself: {words}' if words else ''
    )


def _text(values: Range) -> str:
  return f'{values[0]:.4g} and {values[1]:.4g}'
