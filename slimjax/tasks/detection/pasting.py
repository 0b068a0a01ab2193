"""Brings masks and keypoints of a box back to the pixels of a picture.

It is done on the host: the maps of all detections at the picture's size would
take gigabytes on a device.
"""

import math

import numpy as np

_THRESHOLD = 0.5


def paste(
  mask: np.ndarray, box: np.ndarray, height: int, width: int
) -> np.ndarray:
  """Returns a mask of a whole picture.

  A pixel is in if the mask, sampled bilinearly at the pixel's centre, is above
  0.5. Outside the mask is zero, so that no pixel beyond the box is.

  Args:
    mask: probabilities within the box, float [m, m].
    box: x1, y1, x2, y2, pixels of the picture.
    height, width: size of the picture.

  Returns:
    uint8 [height, width] of 0 and 1, in Fortran order, as pycocotools wants.
  """
  pasted = np.zeros((height, width), np.uint8, order='F')
  x1, y1, x2, y2 = (float(x) for x in box)
  columns = _centres(x1, x2, width)
  rows = _centres(y1, y2, height)
  if not len(rows) or not len(columns):
    return pasted
  side = len(mask)
  down = _linear((rows + 0.5 - y1) * side / (y2 - y1) - 0.5, side)
  across = _linear((columns + 0.5 - x1) * side / (x2 - x1) - 0.5, side)
  values = down @ mask.astype(np.float64) @ across.T
  pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = (
    values > _THRESHOLD
  )
  return pasted


def peaks(maps: np.ndarray, box: np.ndarray) -> np.ndarray:
  """Returns where the maps of keypoints are largest.

  Each map is resized to the box, of whole pixels, bicubically with a = -0.75:
  the largest cell of the small map may be cells away from its peak.

  Args:
    maps: logits within the box, float [s, s, k].
    box: x1, y1, x2, y2.

  Returns:
    x, y and the value there, float32 [k, 3].
  """
  import cv2

  cv2.setNumThreads(0)
  corner = np.asarray(box[:2], np.float64)
  extent = np.maximum(np.asarray(box[2:], np.float64) - corner, 1.0)
  across, down = (math.ceil(n) for n in extent)
  found = np.empty((maps.shape[-1], 3), np.float32)
  for k in range(maps.shape[-1]):
    small = np.ascontiguousarray(maps[..., k], np.float32)
    large = cv2.resize(small, (across, down), interpolation=cv2.INTER_CUBIC)
    place = np.unravel_index(large.argmax(), large.shape)
    cell = np.array(place[::-1]) + 0.5
    found[k, :2] = cell * extent / (across, down) + corner
    found[k, 2] = large[place]
  return found


def _centres(start: float, end: float, limit: int) -> np.ndarray:
  """Returns the pixels of 0 to limit whose centres lie between two places."""
  first = max(math.ceil(start - 0.5), 0)
  last = min(math.floor(end - 0.5), limit - 1)
  return np.arange(first, last + 1)


def _linear(places: np.ndarray, side: int) -> np.ndarray:
  """Returns weights [n, side] that interpolate at places; zero outside."""
  return np.maximum(1.0 - np.abs(places[:, None] - np.arange(side)), 0.0)
