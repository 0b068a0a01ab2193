"""Masks of objects, as polygons or run-length codes, and crops of them."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from slimjax.data.coco.ragged import Ragged
from slimjax.detection.rle import decode
from slimjax.detection.rle import mask_tools


@dataclasses.dataclass(frozen=True)
class Masks:
  """Masks of all objects of a split.

  An object has either polygons or a code; the row of the other is empty.

  Attributes:
    points: coordinates x, y, x, y, ... of an object's polygons, one after the
      other, in pixels of the picture.
    lengths: how many of these numbers each polygon has, int32.
    codes: COCO's compressed run-length code of a whole picture, uint8.
  """

  points: Ragged
  lengths: Ragged
  codes: Ragged

  def __len__(self) -> int:
    return len(self.codes)

  def take(self, objects: np.ndarray) -> 'Masks':
    """Returns the masks of some objects."""
    return Masks(
      *(
        getattr(self, field.name).take(objects)
        for field in dataclasses.fields(self)
      )
    )

  def smaller(self) -> 'Masks':
    """Returns the polygons in float32, enough for crops: half the memory."""
    values = self.points.values.astype(np.float32)
    return dataclasses.replace(self, points=Ragged(values, self.points.starts))

  def polygons(self, index: int) -> list[np.ndarray]:
    """Returns the polygons of an object, float [points, 2] each."""
    ends = np.cumsum(self.lengths[index])[:-1]
    return [part.reshape(-1, 2) for part in np.split(self.points[index], ends)]

  def segmentation(self, index: int, size: Sequence[int]) -> Any:
    """Returns a mask as a COCO file has it.

    Args:
      index: number of the object.
      size: height and width of its picture.

    Returns:
      Lists of numbers, or {'size', 'counts'} with counts as a string.
    """
    code = self.codes[index]
    if len(code):
      counts = code.tobytes().decode('ascii')
      return {'size': [int(n) for n in size], 'counts': counts}
    return [polygon.ravel().tolist() for polygon in self.polygons(index)]

  def crop(
    self, index: int, box: np.ndarray, size: Sequence[int], side: int
  ) -> np.ndarray:
    """Returns the mask within a box, as a small square.

    Polygons are scaled first, so that no mask of a whole picture is made.

    Args:
      index: number of the object.
      box: x1, y1, x2, y2, pixels of the picture, not empty.
      size: height and width of the picture.
      side: height and width of the result.

    Returns:
      uint8 [side, side] of 0 and 1.
    """
    tools = mask_tools()
    code = self.codes[index]
    if len(code):
      coded = {'size': [int(n) for n in size], 'counts': code.tobytes()}
      return resample(decode(coded), box, side)
    corner, extent = box[:2], box[2:] - box[:2]
    polygons = [
      ((polygon - corner) * (side / extent)).ravel().tolist()
      for polygon in self.polygons(index)
    ]
    return decode(tools.merge(tools.frPyObjects(polygons, side, side)))


def resample(mask: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
  """Returns the part of a mask in a box, resized bilinearly, then >= 0.5.

  Args:
    mask: [h, w] of 0 and 1.
    box: x1, y1, x2, y2, pixels.
    side: height and width of the result.

  Returns:
    uint8 [side, side] of 0 and 1.
  """
  middles = (np.arange(side) + 0.5) / side
  rows, columns = (
    start + middles * (end - start) - 0.5  # a pixel's centre is at + 0.5
    for start, end in ((box[1], box[3]), (box[0], box[2]))
  )
  values = _between(mask.astype(np.float32), rows)
  return (_between(values.T, columns).T >= 0.5).astype(np.uint8)


def _between(values: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Returns rows at fractional places; beyond the edge is the last one."""
  last = len(values) - 1
  places = np.clip(places, 0.0, last)
  low = np.minimum(places.astype(int), max(last - 1, 0))
  weight = (places - low)[:, None].astype(np.float32)
  above = values[np.minimum(low + 1, last)]
  return values[low] * (1.0 - weight) + above * weight
