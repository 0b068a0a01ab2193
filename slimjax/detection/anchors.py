"""Anchors of a feature pyramid: constants of a canvas."""

from collections.abc import Sequence

import numpy as np

STRIDES = (4, 8, 16, 32, 64)


def anchors(
  canvas: tuple[int, int],
  sizes: Sequence[float],
  ratios: Sequence[float] = (0.5, 1, 2),
  strides: Sequence[int] = STRIDES,
) -> tuple[np.ndarray, ...]:
  """Returns the anchors of each level, float32 [rows * columns * ratios, 4].

  Their order is rows, columns, ratios, which is the order of a head's outputs
  [rows, columns, ratios]. Each is centred on the corner of its cell, cell *
  stride, and its half sides are rounded to whole pixels (as in torchvision).

  Args:
    canvas: rows and columns of the padded image; a level has
      ceil(side / stride) cells along each side.
    sizes: square root of the area in pixels, one for each level.
    ratios: rows / columns of the anchors of a cell (default: .5, 1, 2).
    strides: pixels between cells, one for each level (default: P2 to P6).

  Raises:
    ValueError: there is not one size for each stride.
  """
  if len(sizes) != len(strides):
    raise ValueError(
      f'{len(sizes)} anchor sizes {tuple(sizes)} for {len(strides)} levels of'
      f' strides {tuple(strides)}; give one size for each level'
    )
  return tuple(
    _level(canvas, size, ratios, stride)
    for size, stride in zip(sizes, strides, strict=True)
  )


def inside(boxes: np.ndarray, hw) -> np.ndarray:
  """Returns which boxes do not cross the border of an image, [N, 4] -> [N].

  Args:
    boxes: anchors, NumPy or JAX, [N, 4].
    hw: rows and columns of the image within the canvas, [2].
  """
  starts = (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0)
  return starts & (boxes[:, 2] <= hw[1]) & (boxes[:, 3] <= hw[0])


def _level(canvas, size, ratios, stride) -> np.ndarray:
  root = np.sqrt(np.asarray(ratios, np.float64))
  half = np.stack((size / root, size * root), axis=-1) / 2  # [a, (x, y)]
  cell = np.round(np.concatenate((-half, half), axis=-1))  # [a, 4]
  y, x = (np.arange(-(-side // stride)) * stride for side in canvas)
  x, y = np.meshgrid(x, y)
  centres = np.stack((x, y, x, y), axis=-1)  # [rows, columns, 4]
  placed = centres[:, :, None] + cell
  return placed.reshape(-1, 4).astype(np.float32)
