"""Checks the images of a request before they reach a program."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
import warnings

import jax
import numpy as np

from slimjax import checks
from slimjax.runtime.manifest import Manifest

Range = tuple[float, float]
# Preprocessed values may leave the range of preprocessed uint8 images by this
# share of its length: resizing overshoots, augmentation adds.
_MARGIN = 0.5
# Images in [0, 1] are suspect where the preprocessed ones span more than this.
_WIDE = 1.5
# Values that are compared, evenly spaced over the batch.
_LOOKS = 2**16


def measure_range(
  preprocess: Callable[[Any], Any],
  image_size: tuple[int, int],
  batch_size: int | None = None,
) -> Range | None:
  """Returns the smallest and largest value that preprocessing gives.

  They are the values of a black and of a white image. The result is None if
  they are equal or not finite, as when each image is scaled by its contrast.

  Args:
    preprocess: uint8 images [b, h, w, 3] -> floating images.
    image_size: (height, width).
    batch_size: batch size that it takes; default: any.
  """
  shape = (batch_size or 1, *image_size, 3)
  values = [
    np.asarray(preprocess(np.full(shape, level, np.uint8)), np.float32)
    for level in (0, 255)
  ]
  low, high = float(np.min(values)), float(np.max(values))
  return (low, high) if np.isfinite([low, high]).all() and low < high else None


class Inputs:
  """Checks images for one network; warns once of images that look wrong."""

  def __init__(self, manifest: Manifest):
    self._manifest = manifest
    self._warned = False
    self._looked = False

  def __call__(self, images: Any, hw: Any = None) -> tuple[Any, ...]:
    """Returns what the programs take beside the weights; see `Network`.

    Args:
      images: images, which become an array of uint8 or float32.
      hw: rows and columns of each image that are picture, for networks that
        detect objects; default: all.

    Raises:
      ValueError: they have another shape or type, or are floating ones with
        values that preprocessed images do not have.
    """
    images = self._checked(images)
    if hw is None:
      return self.whole(images)
    return images, self._checked_sizes(hw, images.shape)

  def whole(self, images: Any) -> tuple[Any, ...]:
    """Returns what the programs take of images that are pictures entirely."""
    if not self._manifest.detects:
      return (images,)
    size = np.array(images.shape[1:3], np.int32)
    return images, np.tile(size, (len(images), 1))

  def _checked_sizes(self, hw: Any, shape: Sequence[int]) -> np.ndarray:
    if not self._manifest.detects:
      raise ValueError(
        'hw says how much of an image is picture to networks that detect'
        ' objects; this one takes images alone'
      )
    hw = np.asarray(hw)
    count, *limits, _ = shape
    fits = hw.shape == (count, 2) and np.issubdtype(hw.dtype, np.integer)
    if not fits or (hw < 1).any() or (hw > limits).any():
      raise ValueError(
        f'hw must be whole numbers [{count}, 2], from 1 to {limits[0]} rows and'
        f' {limits[1]} columns, got {checks.shown(hw.tolist())}'
      )
    return hw.astype(np.int32)

  def _checked(self, images: Any) -> Any:
    if not isinstance(images, (np.ndarray, jax.Array)):
      images = np.asarray(images)
    shapes = [(*size, 3) for size in self._manifest.image_sizes]
    if images.ndim != 4 or images.shape[1:] not in shapes:
      wanted = ' or '.join(f'[b, {h}, {w}, {c}]' for h, w, c in shapes)
      raise ValueError(
        f'images must have the shape {wanted}, got {list(images.shape)}'
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
    # The host converts, where nothing is compiled.
    return np.asarray(images).astype(np.float32)

  def _check_values(self, images: Any) -> None:
    allowed = self._manifest.input_range
    if allowed is None or not images.size:
      return
    if isinstance(images, jax.Array):
      # Copies from an accelerator take long: only the first batch is checked.
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
        stacklevel=5,
      )

  def _way(self) -> str:
    words = self._manifest.preprocessing
    return 'give uint8 images, which are preprocessed here' + (
      f', or do it yourself: {words}' if words else ''
    )


def _text(values: Range) -> str:
  return f'{values[0]:.4g} and {values[1]:.4g}'
