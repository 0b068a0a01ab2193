"""Detections of one picture, in its own pixels, whatever canvas it lay on."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from slimjax.detection.pasting import paste
from slimjax.detection.pasting import peaks
from slimjax.detection.rle import mask_tools


@dataclasses.dataclass(frozen=True)
class Detected:
  """What is detected in a picture, the best first.

  Attributes:
    picture: number of the picture in its split, or among those asked about.
    boxes: x1, y1, x2, y2, pixels of the picture, float32 [d, 4].
    scores: float32 [d].
    labels: number of the class from 1, int32 [d].
    masks: run-length codes of pycocotools, d of them; default: None.
    keypoints: x, y and score, a logit, float32 [d, k, 3]; default: None.
    names: names of the classes of these labels, d of them; default: empty.
  """

  picture: int
  boxes: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  masks: tuple[Mapping[str, Any], ...] | None = None
  keypoints: np.ndarray | None = None
  names: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.scores)

  def above(self, score: float) -> 'Detected':
    """Returns the detections of at least a score."""
    kept = np.flatnonzero(self.scores >= score)
    points = self.keypoints
    return Detected(
      self.picture,
      self.boxes[kept],
      self.scores[kept],
      self.labels[kept],
      None if self.masks is None else tuple(self.masks[i] for i in kept),
      None if points is None else points[kept],
      tuple(self.names[i] for i in kept) if self.names else (),
    )


def to_pictures(
  outputs: Mapping[str, np.ndarray],
  batch: Mapping[str, np.ndarray],
  class_names: Sequence[str] = (),
) -> list[Detected]:
  """Returns the detections of every picture of a batch.

  Args:
    outputs: padded arrays of a detector, as `slimjax.models.detector` says:
      'boxes' [b, d, 4] in pixels of the canvas, 'scores' [b, d], 'labels' [b,
      d], 'valid' [b, d], perhaps 'masks' [b, d, m, m], 'keypoints' [b, d, s, s,
      k].
    batch: 'scale' [b, 2], what canvas pixels per pixel were really applied;
      'original' [b, 2]; 'image_id' [b]; 'mask' [b], False for padding.
    class_names: one name per class; default: none.
  """
  found = []
  for i in np.flatnonzero(batch['mask']):
    one = {
      name: array[i][outputs['valid'][i]] for name, array in outputs.items()
    }
    detected = _detected(
      one,
      picture=int(batch['image_id'][i]),
      scale=batch['scale'][i],
      size=batch['original'][i],
    )
    if class_names:
      names = tuple(_name(label, class_names) for label in detected.labels)
      detected = dataclasses.replace(detected, names=names)
    found.append(detected)
  return found


def _name(label: int, class_names: Sequence[str]) -> str:
  known = 0 < label <= len(class_names)
  return class_names[label - 1] if known else str(label)


def _detected(
  one: Mapping[str, np.ndarray],
  *,
  picture: int,
  scale: np.ndarray,
  size: np.ndarray,
) -> Detected:
  across_down = np.asarray(scale, np.float64)[::-1]  # x, y
  height, width = map(int, size)
  limits = np.array([width, height] * 2)
  boxes = np.clip(one['boxes'] / np.tile(across_down, 2), 0.0, limits)
  masks = keypoints = None
  if 'masks' in one:
    tools = mask_tools()
    masks = tuple(
      tools.encode(
        np.asfortranarray(paste(mask, box, (height, width)), np.uint8)
      )
      for mask, box in zip(one['masks'], boxes, strict=True)
    )
  if 'keypoints' in one:
    maps = one['keypoints']
    keypoints = np.zeros((len(maps), maps.shape[-1], 3), np.float32)
    for i, box in enumerate(one['boxes']):
      keypoints[i, :, :2], keypoints[i, :, 2] = peaks(maps[i], box)
    keypoints[..., :2] /= across_down
  return Detected(
    picture,
    boxes.astype(np.float32),
    one['scores'].astype(np.float32),
    one['labels'].astype(np.int32),
    masks,
    keypoints,
  )
