"""Digit scenes: the embedded set for detectors, with masks and keypoints.

Real handwritten digits of scikit-learn on parts of its two photos. The scenes
are composed: what a network reaches on them says nothing of COCO. They follow
from the seed, take seconds to make, and no digit is in both splits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.masks import Masks
from slimjax.data.coco.ragged import Ragged
from slimjax.detection.rle import mask_tools

SIZES = ((128, 128), (128, 96), (96, 128), (112, 128))  # height, width
POINTS = ('top', 'bottom', 'left', 'right')
CATEGORIES = Categories(
  ids=tuple(range(1, 11)),
  names=tuple('0123456789'),
  keypoints=POINTS,
  skeleton=((0, 2), (2, 1), (1, 3), (3, 0)),
)
_TEST_DIGITS = 397  # of 1,797: the others are for training
_DIGITS = (1, 4)  # in a scene
_SIDES = (18.0, 60.0)  # pixels
_INK = (0.25, 2.5)  # grey value where ink begins, and how fast it thickens
_STROKE = 0.5
_CONTRAST = 70.0  # least distance of a digit's colour to what is behind it
_TRIES = 20
_LEAST_SHARE, _LEAST_PIXELS = 0.3, 25  # of its stroke, to be an object
_NOISE = 4.0


class Scene(NamedTuple):
  """One picture and its objects.

  Attributes:
    image: uint8 [h, w, 3].
    masks: what is seen of each object, bool [objects, h, w].
    labels: digit + 1 of each, int [objects].
    points: pixels x, y and visibility of the keypoints, int [objects, 4, 3].
  """

  image: np.ndarray
  masks: np.ndarray
  labels: np.ndarray
  points: np.ndarray


class Digit(NamedTuple):
  """A digit to be drawn.

  Attributes:
    alpha: how much ink covers each pixel, float [h, w] of 0 to 1.
    place: top and left corner in the scene.
    label: digit + 1.
  """

  alpha: np.ndarray
  place: tuple[int, int]
  label: int

  @property
  def window(self) -> tuple[slice, slice]:
    """Returns rows and columns that the digit takes."""
    (top, left), (height, width) = self.place, self.alpha.shape
    return slice(top, top + height), slice(left, left + width)


def make_scenes(
  split: str, count: int, *, seed: int = 0
) -> tuple[Annotations, tuple[np.ndarray, ...]]:
  """Returns annotations and pictures.

  Args:
    split: 'train' or 'test'.
    count: number of scenes.
    seed: seed that draws them; default: 0.
  """
  from sklearn import datasets

  digits = datasets.load_digits()
  order = np.random.RandomState(0).permutation(len(digits.images))
  chosen = order[_TEST_DIGITS:] if split == 'train' else order[:_TEST_DIGITS]
  photos = datasets.load_sample_images().images
  scenes = [
    draw_scene(
      np.random.default_rng((seed, split == 'train', number)),
      photos,
      digits.images[chosen],
      digits.target[chosen],
    )
    for number in range(count)
  ]
  return _annotations(split, scenes), tuple(scene.image for scene in scenes)


def draw_scene(
  rng: np.random.Generator,
  photos: Sequence[np.ndarray],
  digits: np.ndarray,
  targets: np.ndarray,
) -> Scene:
  """Returns one scene.

  Args:
    rng: generator that draws it.
    photos: pictures for the background, uint8 [h, w, 3] each.
    digits: [n, 8, 8], from 0 to 16.
    targets: their classes, int [n].
  """
  size = SIZES[rng.integers(len(SIZES))]
  image = _background(rng, photos, size)
  drawn = []
  for _ in range(rng.integers(_DIGITS[0], _DIGITS[1] + 1)):
    number = int(rng.integers(len(digits)))
    alpha = _ink(digits[number], rng)
    room = np.array(size) - alpha.shape
    if (room < 0).any():
      continue
    top, left = (int(rng.integers(free + 1)) for free in room)
    digit = Digit(alpha, (top, left), int(targets[number]) + 1)
    _blend(rng, image, digit)
    drawn.append(digit)
  image = image + rng.normal(0.0, _NOISE, image.shape)
  pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
  return Scene(pixels, *_objects(drawn, size))


def _background(rng, photos, size: tuple[int, int]) -> np.ndarray:
  """Returns a part of a photo, one to two times as large, reduced."""
  from PIL import Image

  photo = photos[rng.integers(len(photos))]
  part = np.round(np.array(size) * rng.uniform(1.0, 2.0)).astype(int)
  top, left = (
    int(rng.integers(free + 1)) for free in np.array(photo.shape[:2]) - part
  )
  part = photo[top : top + part[0], left : left + part[1]]
  if rng.random() < 0.5:
    part = part[:, ::-1]
  small = Image.fromarray(np.ascontiguousarray(part)).resize(
    size[::-1], Image.Resampling.BILINEAR
  )
  return np.asarray(small, np.float64).copy()


def _ink(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns how much ink covers each pixel, cut to the stroke, [h, w]."""
  from PIL import Image

  side = round(float(np.exp(rng.uniform(*np.log(_SIDES)))))
  grey = Image.fromarray(np.round(digit * (255.0 / 16.0)).astype(np.uint8))
  large = grey.resize((side, side), Image.Resampling.BICUBIC)
  least, gain = _INK
  alpha = np.clip((np.asarray(large) / 255.0 - least) * gain, 0.0, 1.0)
  rows, columns = (
    np.flatnonzero((alpha > _STROKE).any(axis=axis)) for axis in (1, 0)
  )
  return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _blend(rng: np.random.Generator, image: np.ndarray, digit: Digit) -> None:
  """Draws a digit into an image, in a colour that stands out there."""
  behind = image[digit.window]
  mean = behind.mean(axis=(0, 1))
  for _ in range(_TRIES):
    colour = rng.uniform(0.0, 255.0, 3)
    if np.linalg.norm(colour - mean) > _CONTRAST:
      break
  alpha = digit.alpha[..., None]
  image[digit.window] = behind * (1.0 - alpha) + colour * alpha


def _objects(
  drawn: Sequence[Digit], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns masks, labels and points of what is left of each digit."""
  masks, labels, points = [], [], []
  covered = np.zeros(size, bool)  # by digits that were drawn later
  for digit in reversed(drawn):
    stroke = np.zeros(size, bool)
    stroke[digit.window] = digit.alpha > _STROKE
    seen = stroke & ~covered
    covered |= stroke
    if seen.sum() >= max(_LEAST_SHARE * stroke.sum(), _LEAST_PIXELS):
      masks.append(seen)
      labels.append(digit.label)
      points.append(_points(stroke, seen))
  return (
    np.array(masks[::-1], bool).reshape(-1, *size),
    np.array(labels[::-1], np.int64),
    np.array(points[::-1], np.int64).reshape(-1, len(POINTS), 3),
  )


def _points(stroke: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """Returns the keypoints of a stroke: x, y and whether it is seen (2) or not.

  Each is the middle one of the pixels in an outermost row or column.
  """
  rows, columns = np.nonzero(stroke)
  found = []
  for along, across, last in (
    (rows, columns, False),
    (rows, columns, True),
    (columns, rows, False),
    (columns, rows, True),
  ):
    edge = along.max() if last else along.min()
    line = np.sort(across[along == edge])
    middle = line[len(line) // 2]
    y, x = (edge, middle) if along is rows else (middle, edge)
    found.append((x, y, 2 if seen[y, x] else 1))
  return np.array(found)


def _annotations(split: str, scenes: Sequence[Scene]) -> Annotations:
  tools = mask_tools()
  boxes, codes = [], []
  for scene in scenes:
    for mask in scene.masks:
      code = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
      codes.append(code['counts'])
      boxes.append(tools.toBbox(code))
  count = len(codes)
  none = Ragged.of(np.zeros(0), np.zeros(count, int))
  return Annotations(
    image_ids=np.arange(1, len(scenes) + 1),
    files=np.array(
      [b'%s_%05d.png' % (split.encode(), i) for i in range(len(scenes))]
    ),
    sizes=np.array([s.image.shape[:2] for s in scenes], np.int32),
    starts=np.cumsum([0, *(len(s.labels) for s in scenes)]).astype(np.int64),
    ids=np.arange(1, count + 1),
    boxes=np.array(boxes, np.float64).reshape(-1, 4),
    labels=np.concatenate([s.labels for s in scenes]).astype(np.int32),
    crowd=np.zeros(count, bool),
    areas=np.concatenate([s.masks.sum(axis=(1, 2)) for s in scenes]).astype(
      np.float64
    ),
    masks=Masks(
      none,
      Ragged(none.values.astype(np.int32), none.starts),
      Ragged.of(np.frombuffer(b''.join(codes), np.uint8), [*map(len, codes)]),
    ),
    keypoints=np.concatenate([s.points for s in scenes]).astype(np.float32),
  )
