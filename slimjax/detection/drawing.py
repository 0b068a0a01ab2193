"""Draws detections into a picture: masks, boxes, names, scores, skeletons."""

from collections.abc import Sequence
import colorsys

import numpy as np

from slimjax.detection.detected import Detected
from slimjax.detection.rle import decode

_GOLDEN = 0.618034  # turns of the hue between classes: neighbours differ
_OPACITY = 0.45  # of masks
_LINE = 250  # pixels of the shorter side for each pixel of a line
_TEXT = (30, 11)  # pixels of the shorter side for each pixel of text; the least
_DARK = 140.0  # brightness of a colour from which its text is black
_GAP = 8  # pixels between pictures that stand side by side
Colour = tuple[int, int, int]


def draw(
  image: np.ndarray,
  detected: Detected,
  *,
  skeleton: Sequence[tuple[int, int]] = (),
  least_point: float = 0.0,
  shorter: int | None = None,
) -> np.ndarray:
  """Returns a picture with its detections, the best on top.

  Args:
    image: uint8 [h, w, 3].
    detected: what is detected in it, in its pixels.
    skeleton: pairs of keypoints, from 0, to connect; default: none.
    least_point: score from which a keypoint is drawn, a logit; default: 0.
    shorter: shorter side of the result, pixels; default: that of the picture.
  """
  from PIL import Image
  from PIL import ImageDraw

  shorter = shorter or min(image.shape[:2])
  factor = shorter / min(image.shape[:2])
  height, width = (max(round(factor * side), 1) for side in image.shape[:2])
  picture = Image.fromarray(np.ascontiguousarray(image))
  if (width, height) != picture.size:
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
  colours = [class_colour(int(label)) for label in detected.labels]
  picture = Image.fromarray(_with_masks(picture, detected, colours))
  canvas = ImageDraw.Draw(picture)
  line = max(round(shorter / _LINE), 1)
  boxes = factor * detected.boxes
  for i in reversed(range(len(detected))):
    corners = [float(x) for x in boxes[i]]
    canvas.rectangle(corners, outline=colours[i], width=line)
    if detected.keypoints is not None:
      points = detected.keypoints[i] * [factor, factor, 1.0]
      _draw_points(canvas, points, skeleton, least_point, colours[i], line)
  # Names come last: no box or mask hides them.
  texts = [
    f'{name}: {100 * score:.0f} %'
    for name, score in zip(
      detected.names or detected.labels, detected.scores, strict=True
    )
  ]
  _draw_texts(canvas, boxes, texts, colours, _font(shorter))
  return np.asarray(picture)


def beside(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
  """Returns pictures side by side on white, each below its title.

  Args:
    pictures: uint8 [h, w, 3] each, of equal sizes.
    titles: a line for each; what is wider than its picture is cut off.
  """
  from PIL import Image
  from PIL import ImageDraw

  height, width, _ = pictures[0].shape
  font = _font(min(height, width))
  above = round(1.8 * font.size)
  whole = Image.new(
    'RGB', (len(pictures) * (width + _GAP) - _GAP, above + height), 'white'
  )
  for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
    column = Image.new('RGB', (width, above), 'white')
    ImageDraw.Draw(column).text(
      (0, above / 2), title, fill='black', font=font, anchor='lm'
    )
    whole.paste(column, (i * (width + _GAP), 0))
    whole.paste(Image.fromarray(picture), (i * (width + _GAP), above))
  return np.asarray(whole)


def class_colour(label: int) -> Colour:
  """Returns the colour of a class, bright and unlike that of the next."""
  # Colours come back only after many classes; some are paler than others.
  pale = 0.9 - 0.3 * (label // 7 % 2)
  red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, pale, 1.0)
  return round(255 * red), round(255 * green), round(255 * blue)


def _with_masks(
  picture, detected: Detected, colours: Sequence[Colour]
) -> np.ndarray:
  """Returns the pixels of a picture of PIL, tinted where masks are."""
  from PIL import Image

  if detected.masks is None:
    return np.array(picture)
  mixed = np.asarray(picture, np.float32).copy()
  for i in reversed(range(len(detected))):
    mask = Image.fromarray(255 * decode(detected.masks[i]))
    if mask.size != picture.size:
      mask = mask.resize(picture.size, Image.Resampling.BILINEAR)
    inside = np.asarray(mask) > 127
    colour = np.array(colours[i], np.float32)
    mixed[inside] += _OPACITY * (colour - mixed[inside])
  return np.round(mixed).astype(np.uint8)


def _draw_points(canvas, points, skeleton, least, colour, line) -> None:
  shown = points[:, 2] >= least
  for a, b in skeleton:
    if shown[a] and shown[b]:
      ends = [(float(x), float(y)) for x, y, _ in (points[a], points[b])]
      canvas.line(ends, fill='white', width=line + 2)  # also seen on a mask
      canvas.line(ends, fill=colour, width=line)
  radius = 1.5 * line
  for x, y, _ in points[shown]:
    x, y = float(x), float(y)
    canvas.ellipse(
      [x - radius, y - radius, x + radius, y + radius],
      fill='white',
      outline=colour,
    )


def _draw_texts(canvas, boxes, texts, colours, font) -> None:
  """Writes a text at each box, the best on top, and apart where they can be."""
  sizes, corners = [], []
  for text in texts:
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    sizes.append((right - left + 2, bottom - top + 2))
    corners.append((left, top))
  placed: list[np.ndarray] = []
  for box, size in zip(boxes, sizes, strict=True):
    placed.append(_free_place(box, size, placed, canvas.im.size))
  for i in reversed(range(len(texts))):
    x1, y1, x2, y2 = map(float, placed[i])
    canvas.rectangle([x1, y1, x2, y2], fill=colours[i])
    bright = float(np.dot(colours[i], (0.299, 0.587, 0.114)))
    ink = 'black' if bright > _DARK else 'white'
    left, top = corners[i]
    canvas.text((x1 + 1 - left, y1 + 1 - top), texts[i], fill=ink, font=font)


def _free_place(box, size, placed, limits) -> np.ndarray:
  """Returns where a text goes, x1 y1 x2 y2, within the picture.

  Above the box if no text is there yet; else within it or below it; if there is
  no free place at all, where it would be first.

  Args:
    box: x1, y1, x2, y2 of the box.
    size: width and height of the text.
    placed: places of texts.
    limits: width and height of the picture.
  """
  width, height = size
  x = np.clip(box[0], 0, max(limits[0] - width, 0))
  rows = (box[1] - height, box[1], box[3] - height, box[3])
  places = [
    np.array([x, y, x + width, y + height])
    for y in rows
    if 0 <= y <= limits[1] - height
  ] or [np.array([x, 0, x + width, height])]
  for place in places:
    if not any(
      (place[:2] < other[2:]).all() and (other[:2] < place[2:]).all()
      for other in placed
    ):
      return place
  return places[0]


def _font(shorter: int):
  """Returns the font for a picture of a shorter side, pixels."""
  from PIL import ImageFont

  return ImageFont.load_default(max(shorter / _TEXT[0], _TEXT[1]))
