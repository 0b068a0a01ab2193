"""Decodes photos to crops of one size, on the host.

The decoders were chosen by measurement: experiments/input_pipeline.
"""

import dataclasses
import math

import numpy as np

from slimjax.data import pictures
from slimjax.data.pictures import DecodeError

__all__ = [
  'CentreCrop',
  'DecodeError',
  'GreyCrop',
  'decode_centre_crop',
  'decode_random_crop',
  'decode_whole',
  'random_crop',
]

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)
_SCALINGS = (8, 4, 2)  # reductions that make JPEG decoding faster
_STRIP = 16  # the ratio of sides from which the ends are not resized


def random_crop(
  rng: np.random.Generator, height: int, width: int, least_area: float
) -> tuple[int, int, int, int]:
  """Returns top, left, height and width of a random part of an image.

  The part's area is uniform in [least_area, 1] of the image's, the logarithm of
  its aspect ratio uniform between 3/4 and 4/3 (Szegedy et al., arXiv 1409.4842,
  section 6). A part that does not fit is drawn again; after ten tries it is the
  largest centred part with an allowed ratio.
  """
  for _ in range(_TRIES):
    area = height * width * rng.uniform(least_area, 1.0)
    ratio = math.exp(rng.uniform(*np.log(_RATIOS)))
    part_width = round(math.sqrt(area * ratio))
    part_height = round(math.sqrt(area / ratio))
    if 0 < part_width <= width and 0 < part_height <= height:
      top = int(rng.integers(0, height - part_height + 1))
      left = int(rng.integers(0, width - part_width + 1))
      return top, left, part_height, part_width
  ratio = min(max(width / height, _RATIOS[0]), _RATIOS[1])
  part_width = min(width, round(height * ratio))
  part_height = min(height, round(width / ratio))
  top, left = (height - part_height) // 2, (width - part_width) // 2
  return top, left, part_height, part_width


def decode_random_crop(
  encoded: bytes, rng: np.random.Generator, size: int, least_area: float
) -> np.ndarray:
  """Returns a random part of a photo, resized.

  Decoding halves the resolution as long as the part stays as large as `size`,
  which both filters and saves time; a bilinear resize by a factor of less than
  two does the rest. The part is turned upright last, as the photo's EXIF
  orientation says.

  Args:
    encoded: JPEG, or anything Pillow reads.
    rng: generator that draws the part.
    size: height and width of the result, pixels.
    least_area: least area of the part, as a share of the image's.

  Returns:
    uint8 [size, size, 3], RGB.

  Raises:
    DecodeError: it cannot be decoded.
  """
  import cv2
  import simplejpeg

  cv2.setNumThreads(0)  # a worker process has one core
  turned = 1
  try:
    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
    pictures.check_size(height, width)
    top, left, part_height, part_width = random_crop(
      rng, height, width, least_area
    )
    scaling = next(
      (s for s in _SCALINGS if min(part_height, part_width) >= s * size), 1
    )
    image = simplejpeg.decode_jpeg(
      encoded,
      # Both sizes are rounded up, as the decoder itself does.
      min_height=-(-height // scaling) if scaling > 1 else 0,
      min_width=-(-width // scaling) if scaling > 1 else 0,
      min_factor=scaling,
    )
    turned = pictures.orientation(encoded)
  except DecodeError:
    raise
  except ValueError:  # not a JPEG, or a rare kind of JPEG
    image = pictures.decode(encoded)
    height, width, _ = image.shape
    top, left, part_height, part_width = random_crop(
      rng, height, width, least_area
    )
    scaling = 1
  part = image[
    top // scaling : max((top + part_height) // scaling, top // scaling + 1),
    left // scaling : max((left + part_width) // scaling, left // scaling + 1),
  ]
  # Bilinear aliases beyond a factor of two, which only other formats reach.
  shrinks = min(part.shape[:2]) >= 2 * size
  part = cv2.resize(
    part, (size, size), interpolation=cv2.INTER_AREA if shrinks else 1
  )
  return pictures.turn(part, turned)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """Calls `decode_centre_crop` with these numbers.

  Attributes:
    size: height and width of the result, pixels.
    resize: shorter side before the crop, pixels.
  """

  size: int
  resize: int

  def __call__(self, encoded: bytes) -> np.ndarray:
    return decode_centre_crop(encoded, self.size, self.resize)


@dataclasses.dataclass(frozen=True)
class GreyCrop:
  """Decodes a picture to grey in three channels, with a black frame.

  So networks that were trained on grey images see it as one of them.

  Attributes:
    size: height and width of the result, pixels.
    inner: height and width within the frame, to which the centre of the picture
      is resized; `size` for no frame.
  """

  size: int
  inner: int

  def __call__(self, encoded: bytes) -> np.ndarray:
    from PIL import Image

    crop = decode_centre_crop(encoded, self.inner, self.inner)
    before = (self.size - self.inner) // 2
    after = self.size - self.inner - before
    grey = np.pad(
      np.asarray(Image.fromarray(crop).convert('L')), (before, after)
    )
    return np.repeat(grey[..., None], 3, axis=-1)


def decode_centre_crop(encoded: bytes, size: int, resize: int) -> np.ndarray:
  """Returns the centre of a photo whose shorter side is resized to `resize`.

  The photo is turned upright first, as its EXIF orientation says. The result
  equals that of torchvision's Resize and CenterCrop on PIL images, pixel by
  pixel: the filter is bilinear and as wide as the reduction, and the longer
  side is rounded down.

  Args:
    encoded: JPEG, or anything Pillow reads.
    size: height and width of the result, pixels.
    resize: length of the shorter side, pixels, at least `size`.

  Returns:
    uint8 [size, size, 3], RGB.

  Raises:
    DecodeError: it cannot be decoded.
  """
  from PIL import Image

  image = decode_whole(encoded)
  height, width, _ = image.shape
  if width <= height:
    new = (resize, int(resize * height / width))
  else:
    new = (int(resize * width / height), resize)
  left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
  resized = Image.fromarray(image)
  bilinear = Image.Resampling.BILINEAR
  if max(new) > _STRIP * resize:
    # The ends of a strip would take gigabytes, and are not seen.
    across, down = width / new[0], height / new[1]
    seen = (
      left * across,
      top * down,
      (left + size) * across,
      (top + size) * down,
    )
    return np.asarray(resized.resize((size, size), bilinear, box=seen))
  if new != (width, height):
    resized = resized.resize(new, bilinear)
  return np.asarray(resized.crop((left, top, left + size, top + size)))


def decode_whole(encoded: bytes, *, upright: bool = True) -> np.ndarray:
  """Decodes a whole picture; the same pixels with either decoder.

  Args:
    encoded: JPEG, or anything Pillow reads.
    upright: whether it is turned as its EXIF orientation says; default: yes.

  Returns:
    uint8 [h, w, 3], RGB.

  Raises:
    DecodeError: it cannot be decoded.
  """
  try:
    import simplejpeg  # the faster one; who only serves may be without it

    height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
    pictures.check_size(height, width)
    image = simplejpeg.decode_jpeg(encoded)
  except DecodeError:
    raise
  except (ModuleNotFoundError, ValueError):
    return pictures.decode(encoded, upright=upright)
  turned = pictures.orientation(encoded) if upright else 1
  return pictures.turn(image, turned)
