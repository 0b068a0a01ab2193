"""Masks and keypoints of boxes, back in the picture: NumPy, on the host.

Pictures and boxes have all sizes, so nothing here is compiled. Boxes are x1 y1
x2 y2 in pixels of the picture that the result is for.
"""

from collections.abc import Sequence
import math

import numpy as np

# Of the cubic kernel of PyTorch and OpenCV.
_A = -0.75


def paste(mask: np.ndarray, box: np.ndarray, hw: Sequence[int]) -> np.ndarray:
  """Returns the mask of a box as a mask of the picture, bool [rows, columns].

  A pixel is in the mask where it is above a half at the pixel's centre, read
  bilinearly and 0 outside the box.

  Args:
    mask: probabilities, [s, s].
    box: the box, [4].
    hw: rows and columns of the picture.
  """
  x1, y1, x2, y2 = (float(side) for side in box)
  picture = np.zeros((hw[0], hw[1]), bool)
  # At a centre outside the box a mask of 1 has a half at most.
  rows, columns = _inside(y1, y2, hw[0]), _inside(x1, x2, hw[1])
  if not len(rows) or not len(columns):
    return picture
  values = (
    _bilinear((rows + 0.5 - y1) / (y2 - y1), mask.shape[0])
    @ mask.astype(np.float32)
    @ _bilinear((columns + 0.5 - x1) / (x2 - x1), mask.shape[1]).T
  )
  picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = values > 0.5
  return picture


def peaks(maps: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns where the maps of a box are highest, x y [K, 2], and how high, [K].

  The maps are resized to the box's pixels before that, bicubically and without
  antialiasing, because their own peak is whole cells of the box away (as in
  torchvision and Detectron).

  Args:
    maps: logits of each keypoint, [s, s, K].
    box: the box, [4].
  """
  x1, y1, x2, y2 = (float(side) for side in box)
  width, height = max(x2 - x1, 1), max(y2 - y1, 1)
  rows, columns = math.ceil(height), math.ceil(width)
  size_y, size_x, k = maps.shape
  vertical = _bicubic((np.arange(rows) + 0.5) / rows, size_y)
  horizontal = _bicubic((np.arange(columns) + 0.5) / columns, size_x)
  resized = vertical @ maps.transpose(2, 0, 1).astype(np.float32) @ horizontal.T
  resized = resized.reshape(k, -1)
  peak = resized.argmax(axis=1)
  row, column = np.divmod(peak, columns)
  x = x1 + (column + 0.5) * (width / columns)
  y = y1 + (row + 0.5) * (height / rows)
  points = np.stack((x, y), axis=-1).astype(np.float32)
  return points, resized[np.arange(k), peak]


def _inside(start: float, end: float, size: int) -> np.ndarray:
  """Returns the pixels of `size` whose centres are between start and end."""
  first = max(math.ceil(start - 0.5), 0)
  return np.arange(first, min(math.floor(end - 0.5) + 1, size))


def _bilinear(places: np.ndarray, n: int) -> np.ndarray:
  """Returns the weights of n cells at places, [len, n]; beyond them is 0.

  Args:
    places: where to read, from 0, the first cell's start, to 1.
    n: number of cells.
  """
  distance = np.abs((places * n - 0.5)[:, None] - np.arange(n))
  return np.maximum(1 - distance, 0).astype(np.float32)


def _bicubic(places: np.ndarray, n: int) -> np.ndarray:
  """Returns the weights of n cells, [len, n]; beyond them are the edges."""
  distance = np.abs((places * n - 0.5)[:, None] - np.arange(-2, n + 2))
  near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
  far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
  weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
  weights[:, 2] += weights[:, :2].sum(axis=1)
  weights[:, -3] += weights[:, -2:].sum(axis=1)
  return weights[:, 2:-2].astype(np.float32)
