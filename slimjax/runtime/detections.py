"""Answers with the objects in pictures of any size, in their own pixels."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from slimjax.data.coco.canvas import OnCanvas
from slimjax.data.coco.canvas import Placed
from slimjax.data.jpeg import decode_whole
from slimjax.detection.detected import Detected
from slimjax.detection.detected import to_pictures
from slimjax.detection.rle import as_text
from slimjax.runtime.arrays import Images
from slimjax.runtime.decoding import Decode
from slimjax.runtime.network import Network
from slimjax.widths import Width

_LINES = 10  # of a table, for one picture


@dataclasses.dataclass(frozen=True)
class Detections:
  """Objects as answers; see `slimjax.runtime.kinds.Kind`.

  uint8 images are pictures of any size, which are put on the canvas one by one;
  without a rule for that they are canvases, as floating images always are.

  Attributes:
    network: the network, which detects objects.
    rule: rule for pictures; None if there is none.
    min_score: least score of what is told; default: 0, all there is.
  """

  network: Network
  rule: Decode | None
  min_score: float = 0.0

  def __post_init__(self):
    if not 0.0 <= self.min_score <= 1.0:
      raise ValueError(f'min_score must be from 0 to 1, got {self.min_score}')

  def decoder(self, rule: Decode) -> Decode:
    return decode_whole if isinstance(rule, OnCanvas) else rule

  def predict(self, images: Images, width: Width | None) -> list[Detected]:
    found: list[Detected] = []
    for image in images:
      placed = self._place(np.asarray(image))
      outputs = self.network(
        placed.image[None], width=width, hw=placed.hw[None]
      )
      found += self._interpret(outputs, [placed], first=len(found))
    return found

  def interpret(self, outputs: Any) -> list[Detected]:
    """Returns what is detected, in pixels of the canvas.

    Raises:
      ValueError: there are several canvases.
    """
    sizes = self.network.manifest.image_sizes
    if len(sizes) > 1:
      raise ValueError(
        'outputs do not tell which canvas they are of: give pictures to predict'
      )
    whole = _whole(np.zeros((*sizes[0], 3), np.uint8))
    return self._interpret(outputs, [whole] * len(outputs['valid']))

  def of_one(self, said: Sequence[Detected], place: int) -> Detected:
    return said[place]

  def line(self, said: Detected) -> dict[str, Any]:
    return {'detections': [_as_json(said, i) for i in range(len(said))]}

  def text(self, said: Detected) -> str:
    lines = [
      f'{_name(said, i)}: {100 * said.scores[i]:.0f} %'
      for i in range(len(said))
    ]
    if len(lines) > _LINES:
      lines[_LINES - 1 :] = [f'{len(lines) - _LINES + 1} more']
    return '\n'.join(lines) or 'nothing'

  def _place(self, image: np.ndarray) -> Placed:
    if isinstance(self.rule, OnCanvas) and image.dtype == np.uint8:
      if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
          f'a picture must be of the shape [h, w, 3], got {list(image.shape)}'
        )
      return self.rule.place(image)
    return _whole(image)

  def _interpret(
    self, outputs: Mapping[str, Any], placed: Sequence[Placed], first: int = 0
  ) -> list[Detected]:
    """Returns what is detected; `first` is the number of the first picture."""
    outputs = jax.tree.map(np.asarray, outputs)
    # What is not told needs no mask and no keypoints.
    sure = outputs['valid'] & (outputs['scores'] >= self.min_score)
    if not placed:
      return []
    return to_pictures(
      {**outputs, 'valid': sure},
      {
        'scale': np.stack([one.scale for one in placed]),
        'original': np.stack([one.original for one in placed]),
        'image_id': first + np.arange(len(placed)),
        'mask': np.ones(len(placed), bool),
      },
      self.network.manifest.class_names,
    )


def _whole(image: np.ndarray) -> Placed:
  """Returns a canvas that is a picture entirely."""
  size = np.array(image.shape[:2], np.int32)
  return Placed(image, size, np.ones(2, np.float32), size)


def _name(said: Detected, i: int) -> str:
  return said.names[i] if said.names else str(said.labels[i])


def _as_json(said: Detected, i: int) -> dict[str, Any]:
  """Returns one detection as JSON has it."""
  found: dict[str, Any] = {
    'label': int(said.labels[i]),
    'name': _name(said, i),
    'score': float(said.scores[i]),
    'box': said.boxes[i].tolist(),
  }
  if said.masks is not None:
    found['mask'] = as_text(said.masks[i])
  if said.keypoints is not None:
    found['keypoints'] = said.keypoints[i].tolist()
  return found
