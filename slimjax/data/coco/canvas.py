"""Resizes pictures onto canvases of a few fixed sizes, and boxes with them.

The compiled programs know canvases only: a picture lies in the top left corner
of one, zeros fill up the rest.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from slimjax.data.jpeg import decode_whole

_AREA = 2.0  # the reduction from which bilinear sampling misses pixels
Size = tuple[int, int]  # height, width


class Placed(NamedTuple):
  """A picture on its canvas.

  Attributes:
    image: uint8 [canvas height, canvas width, 3].
    hw: int32 [2], height and width of the part that is picture.
    scale: float32 [2], canvas pixels per pixel of the picture, down and across.
    original: int32 [2], height and width of the picture before.
  """

  image: np.ndarray
  hw: np.ndarray
  scale: np.ndarray
  original: np.ndarray


@dataclasses.dataclass(frozen=True)
class Resize:
  """A rule of how large pictures are made.

  Attributes:
    side: length of the shorter side; None keeps a picture as it is, unless it
      is larger than its canvas.
    longest: the most that the longer side may have then; default: None, the
      canvas is the limit.
  """

  side: int | None
  longest: int | None = None

  def describe(self) -> str:
    """Returns the rule in words."""
    if self.side is None:
      return 'reduced only where the canvas is smaller'
    longest = f', the longer at most {self.longest}' if self.longest else ''
    return f'the shorter side resized to {self.side}{longest}'

  def factors(self, sizes: np.ndarray, canvas: Size) -> np.ndarray:
    """Returns how many times larger pictures are made.

    Args:
      sizes: heights and widths of pictures, [..., 2].
      canvas: height and width that they must fit into.

    Returns:
      float64 [...].
    """
    sizes = np.asarray(sizes, np.float64)
    fits = (np.asarray(canvas) / sizes).min(axis=-1)
    if self.side is None:
      return np.minimum(fits, 1.0)
    factors = np.minimum(fits, self.side / sizes.min(axis=-1))
    if self.longest is not None:
      factors = np.minimum(factors, self.longest / sizes.max(axis=-1))
    return factors

  def choose(self, sizes: np.ndarray, canvases: Sequence[Size]) -> np.ndarray:
    """Returns the canvas of each picture, int64 [n].

    It is the one on which the picture is largest; of several, the smallest.

    Args:
      sizes: heights and widths of n pictures, [n, 2].
      canvases: the canvases.
    """
    # Canvases differ by whole pixels, or not at all.
    factors = np.round([self.factors(sizes, c) for c in canvases], 6)
    areas = [height * width for height, width in canvases]
    return np.array(
      [
        min(range(len(areas)), key=lambda c: (-column[c], areas[c]))
        for column in factors.T
      ],
      np.int64,
    )

  def place(self, picture: np.ndarray, canvas: Size) -> Placed:
    """Returns a picture on a canvas.

    Args:
      picture: uint8 [h, w, 3].
      canvas: its height and width.
    """
    original = np.array(picture.shape[:2], np.int32)
    factor = float(self.factors(original, canvas))
    hw = np.round(original * factor).astype(np.int32)
    hw = np.clip(hw, 1, canvas).astype(np.int32)
    image = np.zeros((*canvas, 3), np.uint8)
    image[: hw[0], : hw[1]] = _resized(picture, hw, factor)
    return Placed(image, hw, (hw / original).astype(np.float32), original)


def _resized(picture: np.ndarray, hw: np.ndarray, factor: float) -> np.ndarray:
  if tuple(hw) == picture.shape[:2]:
    return picture
  try:
    import cv2
  except ModuleNotFoundError as error:
    raise ValueError(
      'pictures are resized by OpenCV, which is not installed: pip install -e'
      " '.[detection]'"
    ) from error
  cv2.setNumThreads(0)  # a worker process has one core
  area = factor * _AREA <= 1.0
  return cv2.resize(
    picture,
    (int(hw[1]), int(hw[0])),
    interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR,
  )


@dataclasses.dataclass(frozen=True)
class OnCanvas:
  """Puts any picture onto a canvas, as evaluations see it.

  Attributes:
    canvas: height and width of the first canvas.
    side, longest: see `Resize`.
    others: the other canvases; a picture goes where it is largest. Default:
      none.
  """

  canvas: Size
  side: int | None = None
  longest: int | None = None
  others: tuple[Size, ...] = ()

  def __call__(self, encoded: bytes) -> np.ndarray:
    """Decodes a picture, upright; returns its canvas, uint8 [h, w, 3].

    Raises:
      DecodeError: it cannot be decoded.
    """
    return self.place(decode_whole(encoded)).image

  def place(self, picture: np.ndarray) -> Placed:
    """Returns a picture, uint8 [h, w, 3] of any size, on its canvas."""
    resize, canvases = Resize(self.side, self.longest), self.canvases
    (chosen,) = resize.choose(np.array([picture.shape[:2]]), canvases)
    return resize.place(picture, canvases[chosen])

  @property
  def canvases(self) -> tuple[Size, ...]:
    """Returns heights and widths of all canvases, the first one first."""
    return (self.canvas, *self.others)
