"""Reads any picture that Pillow knows, as it is shown: upright, in 8 bits.

What is in a file is found out by trying, not by its suffix. Whatever is not
shown says why, in a word or two that stand in the log.
"""

import io
import warnings

import numpy as np

# The largest picture that is decoded; it is Pillow's own limit.
MAX_PIXELS = 178_956_970
_ORIENTATION = 0x0112  # the tag of EXIF
_EXIF = b'Exif\0\0'
# What Pillow opens but does not decode by itself.
_NO_PICTURES = ('BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'PDF', 'WMF')
_HEIC = (b'heic', b'heix', b'hevc', b'heim', b'heis', b'mif1', b'msf1')
_KINDS = (
  (b'version https://git-lfs', 'a pointer of Git LFS (git lfs pull gets it)'),
  (b'%PDF', 'PDF'),
  (b'PK\x03\x04', 'a ZIP archive'),
  (b'\x1f\x8b', 'compressed by gzip'),
  (b'\xff\xd8\xff', 'damaged JPEG'),
  (b'\x89PNG', 'damaged PNG'),
  (b'GIF8', 'damaged GIF'),
)


class DecodeError(ValueError):
  """The picture cannot be decoded; the text is the reason."""


def decode(encoded: bytes, *, upright: bool = True) -> np.ndarray:
  """Decodes a picture with Pillow.

  It is turned as its EXIF orientation says; transparent parts are white; the
  first frame of an animation is taken. Grey of 16 bits is scaled from its whole
  range; grey of 32 bits, whose range no format fixes, from its darkest to its
  brightest pixel.

  Args:
    encoded: content of the file.
    upright: whether it is turned; default: yes.

  Returns:
    uint8 [h, w, 3], RGB.

  Raises:
    DecodeError: it cannot be decoded.
  """
  from PIL import Image
  from PIL import UnidentifiedImageError

  _hush()
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      pixels = _to_rgb(image)
      turned = (
        orientation(encoded)
        if image.format == 'JPEG'
        else image.getexif().get(_ORIENTATION, 1)
      )
  except UnidentifiedImageError as error:
    raise DecodeError(f'is {kind_of(encoded)}') from error
  except Image.DecompressionBombError as error:
    raise DecodeError(f'too large: more than {MAX_PIXELS:,} pixels') from error
  # Pillow's many plugins raise all of these.
  except (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
  ) as error:
    raise DecodeError(f'damaged: {error or type(error).__name__}') from error
  return turn(pixels, turned) if upright else pixels


def check_size(height: int, width: int) -> None:
  """Raises DecodeError if a picture has more than `MAX_PIXELS`."""
  if height * width > MAX_PIXELS:
    raise DecodeError(
      f'too large: {width:,} x {height:,} pixels are more than {MAX_PIXELS:,}'
    )


def orientation(jpeg: bytes) -> int:
  """Returns the EXIF orientation of a JPEG, 1 to 8; 1 if there is none."""
  start = jpeg.find(_EXIF, 0, 1 << 16)
  # Its segment begins with a marker and its length, which counts itself.
  if start < 4 or jpeg[start - 4 : start - 2] != b'\xff\xe1':
    return 1
  from PIL import Image

  end = start - 2 + int.from_bytes(jpeg[start - 2 : start], 'big')
  exif = Image.Exif()
  try:
    exif.load(jpeg[start:end])
    return exif.get(_ORIENTATION, 1)
  except Exception:  # whatever Pillow makes of damaged data
    return 1


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
  """Returns an image [h, w, c] turned upright, by its EXIF orientation."""
  turned = {
    2: lambda: image[:, ::-1],
    3: lambda: image[::-1, ::-1],
    4: lambda: image[::-1],
    5: lambda: image.transpose(1, 0, 2),
    6: lambda: np.rot90(image, -1),
    7: lambda: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda: np.rot90(image),
  }
  return turned[orientation]() if orientation in turned else image


def is_picture(file: io.IOBase) -> bool:
  """Returns whether an open file is a picture, by its first bytes alone."""
  from PIL import Image

  _hush()
  try:
    with Image.open(file) as image:  # type: ignore[arg-type]
      return image.format not in _NO_PICTURES
  except Image.DecompressionBombError:
    return True  # what is too large is said when it is decoded
  except Exception:  # no plugin takes it
    return False


def kind_of(head: bytes) -> str:
  """Returns what a file is that is no picture, such as 'HTML' or 'HEIC'.

  Args:
    head: first bytes of the file; a few hundred are enough.
  """
  if not head:
    return 'empty'
  for magic, kind in _KINDS:
    if head.startswith(magic):
      return kind
  if head[4:8] == b'ftyp':
    brand = head[8:12]
    if brand in (b'avif', b'avis'):
      return 'AVIF'
    return 'HEIC' if brand in _HEIC else 'a video'
  text = head[:512].lstrip().lower()
  if text.startswith((b'<!doctype html', b'<html', b'<head', b'<body')):
    return 'HTML'
  if b'<svg' in text:
    return 'SVG'
  control = [byte for byte in text if byte < 32 and byte not in b'\t\n\r\f']
  return 'of a kind that Pillow does not read' if control else 'text'


def _to_rgb(image) -> np.ndarray:
  """Returns the pixels of a PIL image as uint8 [h, w, 3]."""
  from PIL import Image

  if image.mode.startswith('I;16') or (image.mode, image.format) == (
    'I',
    'PNG',
  ):
    grey = np.asarray(image) / 257.0
  elif image.mode in ('I', 'F'):
    grey = _stretched(np.asarray(image, np.float64))
  else:
    if image.has_transparency_data:
      white = Image.new('RGBA', image.size, 'white')
      image = Image.alpha_composite(white, image.convert('RGBA'))
    return np.asarray(image.convert('RGB'))
  return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)


def _stretched(grey: np.ndarray) -> np.ndarray:
  """Returns grey values scaled to 0 to 255."""
  if not np.isfinite(grey).all():
    raise ValueError('some of its pixels are not numbers')
  low, high = grey.min(), grey.max()
  return (grey - low) * (255.0 / (high - low) if high > low else 1.0)


def _hush() -> None:
  """Keeps Pillow from warning of each file: what fails is logged with a name.

  The filter is set anew each time, for others may reset it.
  """
  warnings.filterwarnings('ignore', module=r'PIL\.')
