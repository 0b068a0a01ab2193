"""Draws detections into a picture: masks, boxes, names, scores, skeletons."""

from collections.abc import Sequence
import colorsys

import numpy as np

from slimjax.data.coco.tools import decode
from slimjax.tasks.detection.detected import Detected

_GOLDEN = 0.618034  # turns of the hue between classes: neighbours differ
_OPACITY = 0.45  # of masks
_LINE = 250  # pixels of the shorter side for each pixel of a line
_TEXT = (30, 11)  # pixels of the shorter side for each pixel of text; the least
_DARK = 140.0  # brightness of a colour from which its text is black
Colour = tuple[int, int, int]


def draw(
  image: np.ndarray,
  detected: Detected,
  class_names: Sequence[str] = (),
  *,
  skeleton: Sequence[tuple[int, int]] = (),
  least_point: float = 0.0,
) -> np.ndarray:
  """Returns a picture with its detections, the best on top.

  Args:
    image: uint8 [h, w, 3].
    detected: what is detected in it, in its pixels.
    class_names: one name per class; default: classes go by their numbers.
    skeleton: pairs of keypoints, from 0, to connect; default: none.
    least_point: score from which a keypoint is drawn, a logit; default: 0.
  """
  from PIL import Image
  from PIL import ImageDraw

  colours = [class_colour(int(label)) for label in detected.labels]
  picture = Image.fromarray(_with_masks(image, detected, colours))
  canvas = ImageDraw.Draw(picture)
  shorter = min(image.shape[:2])
  line = max(round(shorter / _LINE), 1)
  for i in reversed(range(len(detected))):
    canvas.rectangle(
      [float(x) for x in detected.boxes[i]], outline=colours[i], width=line
    )
    if detected.keypoints is not None:
      points = detected.keypoints[i]
      _draw_points(canvas, points, skeleton, least_point, colours[i], line)
  # Names come last: no box or mask hides them.
  for i in reversed(range(len(detected))):
    label = int(detected.labels[i])
    name = class_names[label - 1] if class_names else str(label)
    text = f'{name} {100 * detected.scores[i]:.0f} %'
    _draw_text(canvas, detected.boxes[i], text, colours[i], shorter)
  return np.asarray(picture)


def class_colour(label: int) -> Colour:
  """Returns the colour of a class, bright and unlike that of the next."""
  # Colours come back only after many classes; some are paler than others.
  pale = 0.9 - 0.3 * (label // 7 % 2)
  red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, pale, 1.0)
  return round(255 * red), round(255 * green), round(255 * blue)


def _with_masks(
  image: np.ndarray, detected: Detected, colours: Sequence[Colour]
) -> np.ndarray:
  if detected.masks is None:
    return np.ascontiguousarray(image)
  mixed = image.astype(np.float32)
  for i in reversed(range(len(detected))):
    inside = decode(detected.masks[i]).astype(bool)
    colour = np.array(colours[i], np.float32)
    mixed[inside] += _OPACITY * (colour - mixed[inside])
  return np.round(mixed).astype(np.uint8)


def _draw_points(canvas, points, skeleton, least, colour, line) -> None:
  shown = points[:, 2] >= least
  for a, b in skeleton:
    if shown[a] and shown[b]:
      ends = [(float(x), float(y)) for x, y, _ in (points[a], points[b])]
      canvas.line(ends, fill=colour, width=line)
  radius = 1.5 * line
  for x, y, _ in points[shown]:
    x, y = float(x), float(y)
    canvas.ellipse(
      [x - radius, y - radius, x + radius, y + radius],
      fill='white',
      outline=colour,
    )


def _draw_text(canvas, box, text: str, colour: Colour, shorter: int) -> None:
  """Writes above a box, or within it at the top of the picture."""
  from PIL import ImageFont

  font = ImageFont.load_default(max(shorter / _TEXT[0], _TEXT[1]))
  left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
  width, height = right - left + 2, bottom - top + 2
  limits = canvas.im.size
  x = float(np.clip(box[0], 0, max(limits[0] - width, 0)))
  y = float(box[1]) - height
  if y < 0:
    y = float(box[1])
  canvas.rectangle([x, y, x + width, y + height], fill=colour)
  bright = float(np.dot(colour, (0.299, 0.587, 0.114)))
  ink = 'black' if bright > _DARK else 'white'
  canvas.text((x + 1 - left, y + 1 - top), text, fill=ink, font=font)
