"""Reads pictures with their objects, resized onto a canvas."""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from slimjax.data.batches import Batch
from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.canvas import Placed
from slimjax.data.coco.canvas import Resize
from slimjax.data.coco.canvas import Size
from slimjax.data.coco.pixels import Pixels
from slimjax.data.jpeg import DecodeError

_LOOKS = 100  # pictures in a row that are tried until one can be decoded
_SIDES = re.compile('left|right', re.IGNORECASE)
PIXEL = 0.5  # the keypoints of a COCO file are pixels: the centre is further


@dataclasses.dataclass(frozen=True)
class Reading:
  """What is done to pictures when they are read.

  Attributes:
    canvases: heights and widths of the canvases; a group for each.
    sides: lengths of the shorter side, one of which is drawn each time a
      picture is trained on; evaluations take the last. Default: none, pictures
      are kept as they are, unless they are larger than their canvas.
    longest: the most that the longer side may have; default: None.
    flip: how often a picture is mirrored in training; default: 0.
    max_objects: places for the objects of a picture.
    crop: height and width of the masks, each within its box.
  """

  canvases: tuple[Size, ...]
  sides: tuple[int, ...] = ()
  longest: int | None = None
  flip: float = 0.0
  max_objects: int = 100
  crop: int = 112

  def resize(self, side: int | None = None) -> Resize:
    """Returns the rule for one shorter side; default: that of evaluations."""
    if side is None and self.sides:
      side = self.sides[-1]
    return Resize(side, self.longest)


@dataclasses.dataclass(frozen=True)
class DetectionSplit:
  """Pictures with objects; see `slimjax.data.batches.Split`.

  A training batch holds, of b pictures on a canvas, padded to g objects:
    image: uint8 [b, height, width, 3], zeros where no picture is.
    hw: int32 [b, 2], height and width of the part that is picture.
    scale: float32 [b, 2], canvas pixels per pixel of the picture.
    original: int32 [b, 2], height and width of the picture.
    image_id: int32 [b], number of the picture in this split. Ids of files may
      be beyond int32; `annotations.image_ids` has them.
    boxes: float32 [b, g, 4], x1 y1 x2 y2 in pixels of the canvas.
    labels: int32 [b, g], the number of the class from 1; 0 is padding.
    crops: uint8 [b, g, m, m], masks within their boxes, if there are any.
    keypoints: float32 [b, g, k, 3], x and y on the canvas, visibility, if there
      are any.
  Evaluations get no objects: scores are made from `annotations`.

  Attributes:
    annotations: what is in the pictures; in training no crowd, and no box too
      thin.
    pixels: the pictures.
    chosen: number of each of these pictures in `pixels`, int [n].
    categories: classes that the labels stand for.
    reading: what is done to pictures.
    groups: canvas of each picture, int [n].
  """

  annotations: Annotations
  pixels: Pixels
  chosen: np.ndarray
  categories: Categories
  reading: Reading
  groups: np.ndarray

  def __len__(self) -> int:
    return len(self.annotations)

  def fingerprint(self) -> str:
    """Returns a hash of names and objects, of no pixels."""
    return self.annotations.fingerprint()

  def read_train(self, indices: np.ndarray, keys: np.ndarray) -> Batch:
    """Reads pictures; a corrupt one is replaced by the next sound one."""
    corrupt: dict[str, str] = {}
    examples = []
    for index, key in zip(indices, keys, strict=True):
      rng = np.random.default_rng(key)
      sides = self.reading.sides
      resize = self.reading.resize(int(rng.choice(sides)) if sides else None)
      flipped = rng.random() < self.reading.flip
      index, placed = self._sound(int(index), resize, flipped, corrupt)
      examples.append(self._example(index, placed, flipped))
    return {**_stacked(examples), 'corrupt': corrupt}

  def read_eval(self, indices: np.ndarray) -> Batch:
    """Reads pictures; `mask` is False for a corrupt one."""
    corrupt: dict[str, str] = {}
    examples = []
    for index in indices:
      canvas = self._canvas(index)
      try:
        placed = self.reading.resize().place(self._picture(index), canvas)
      except DecodeError as error:
        corrupt[self._name(index)] = str(error)
        placed = _nothing(canvas)
      mask = np.bool_(self._name(index) not in corrupt)
      examples.append({**_picture(placed, index), 'mask': mask})
    return {**_stacked(examples), 'corrupt': corrupt}

  def _picture(self, index: int) -> np.ndarray:
    return self.pixels.read(int(self.chosen[index]))

  def _name(self, index: int) -> str:
    return self.pixels.name(int(self.chosen[index]))

  def _canvas(self, index: int) -> Size:
    return self.reading.canvases[self.groups[index]]

  def _sound(
    self, index: int, resize: Resize, flipped: bool, corrupt: dict[str, str]
  ) -> tuple[int, Placed]:
    """Returns a picture, or the next of its group that can be decoded."""
    group = np.flatnonzero(self.groups == self.groups[index])
    start = int(np.searchsorted(group, index))
    for step in range(_LOOKS):
      index = int(group[(start + step) % len(group)])
      try:
        picture = self._picture(index)
      except DecodeError as error:
        corrupt[self._name(index)] = str(error)
        continue
      if flipped:
        picture = np.ascontiguousarray(picture[:, ::-1])
      return index, resize.place(picture, self._canvas(index))
    raise DecodeError(
      f'{_LOOKS} pictures in a row cannot be decoded, up to'
      f' {self._name(index)}: {corrupt[self._name(index)]}'
    )

  def _example(
    self, index: int, placed: Placed, flipped: bool
  ) -> dict[str, Any]:
    """Returns a training example, without the axis of a batch."""
    one = self.annotations.take(np.array([index]))
    count, places = len(one.ids), self.reading.max_objects
    corners = one.corners()
    down, across = placed.hw / placed.original
    boxes = np.zeros((places, 4), np.float32)
    boxes[:count] = corners * [across, down, across, down]
    width = placed.hw[1]
    if flipped:
      boxes[:count, ::2] = width - boxes[:count, 2::-2]
    labels = np.zeros(places, np.int32)
    labels[:count] = one.labels
    example = {**_picture(placed, index), 'boxes': boxes, 'labels': labels}
    if one.masks is not None:
      side = self.reading.crop
      crops = np.zeros((places, side, side), np.uint8)
      for i in range(count):
        crop = one.masks.crop(i, corners[i], one.sizes[0], side)
        crops[i] = crop[:, ::-1] if flipped else crop
      example['crops'] = crops
    if one.keypoints is not None:
      points = np.zeros((places, *one.keypoints.shape[1:]), np.float32)
      points[:count] = one.keypoints
      points[:count, :, :2] += PIXEL
      points[:count, :, :2] *= [across, down]
      if flipped:
        points[:count, :, 0] = width - points[:count, :, 0]
        points = points[:, mirrored(self.categories.keypoints)]
      # Only what is labelled is anywhere.
      example['keypoints'] = points * (points[:, :, 2:] > 0)
    return example


def mirrored(names: Sequence[str]) -> np.ndarray:
  """Returns which keypoint each becomes in a mirror, by left and right.

  Args:
    names: names of the keypoints, such as left_eye.

  Returns:
    int64 [k]; a name whose other side is no keypoint stays.
  """
  other = {'left': 'right', 'right': 'left'}

  def swap(match: re.Match) -> str:
    return other[match[0].lower()]

  places = {name.lower(): place for place, name in enumerate(names)}
  return np.array(
    [
      places.get(_SIDES.sub(swap, name).lower(), place)
      for place, name in enumerate(names)
    ],
    np.int64,
  )


def _picture(placed: Placed, index: int) -> dict[str, Any]:
  return {**placed._asdict(), 'image_id': np.int32(index)}


def _nothing(canvas: Size) -> Placed:
  """Returns a canvas of a picture that is all black."""
  size = np.array(canvas, np.int32)
  image = np.zeros((*canvas, 3), np.uint8)
  return Placed(image, size, np.ones(2, np.float32), size)


def _stacked(examples: Sequence[dict[str, Any]]) -> Batch:
  return {
    name: np.stack([example[name] for example in examples])
    for name in examples[0]
  }
