"""Gives the pixels of pictures as their annotations know them.

The boxes of a COCO file belong to the picture as it is stored: COCO's own tools
know no EXIF. A tool that shows pictures upright writes boxes of the turned one;
height and width in the file tell, where the turn swaps them.
"""

import dataclasses
import io
import os
from typing import Protocol

from etils import epath
import numpy as np

from slimjax.data.jpeg import decode_whole
from slimjax.data.jpeg import DecodeError
from slimjax.data.pictures import kind_of


class Pixels(Protocol):
  """Pictures by number, in any process."""

  def name(self, index: int) -> str:
    """Returns the name of a picture, for messages."""

  def read(self, index: int) -> np.ndarray:
    """Returns a picture, uint8 [h, w, 3].

    Raises:
      DecodeError: it cannot be read, or is not of the size annotated.
    """


@dataclasses.dataclass(frozen=True)
class ArrayPixels:
  """Pictures held in memory.

  Attributes:
    images: uint8 [h, w, 3] each.
  """

  images: tuple[np.ndarray, ...]

  def name(self, index: int) -> str:
    return f'picture {index}'

  def read(self, index: int) -> np.ndarray:
    return self.images[index]


@dataclasses.dataclass(frozen=True)
class FilePixels:
  """Pictures in a folder.

  Attributes:
    folder: the folder.
    files: paths in it, bytes [n].
    sizes: heights and widths that the annotations know, int [n, 2].
  """

  folder: str
  files: np.ndarray
  sizes: np.ndarray

  def name(self, index: int) -> str:
    return f'{self.folder}/{self.files[index].decode()}'

  def read(self, index: int) -> np.ndarray:
    path = epath.Path(self.folder) / os.fsdecode(self.files[index])
    try:
      encoded = path.read_bytes()
    except OSError as error:
      raise DecodeError(error.strerror or type(error).__name__) from error
    return decode_annotated(encoded, self.sizes[index])


def decode_annotated(encoded: bytes, size: np.ndarray) -> np.ndarray:
  """Decodes a picture as its annotations know it.

  Args:
    encoded: content of the file.
    size: height and width that the annotations know.

  Raises:
    DecodeError: it cannot be decoded, or has another size.
  """
  for upright in (False, True):
    picture = decode_whole(encoded, upright=upright)
    if np.array_equal(picture.shape[:2], size):
      return picture
  height, width = picture.shape[:2]
  raise DecodeError(
    f'it has {width} x {height} pixels, but its annotations say'
    f' {size[1]} x {size[0]}'
  )


def stored_size(encoded: bytes) -> tuple[int, int]:
  """Returns height and width of a picture as it is stored, not decoded.

  Raises:
    DecodeError: it is no picture.
  """
  from PIL import Image

  try:
    with Image.open(io.BytesIO(encoded)) as image:
      return image.height, image.width
  except (OSError, ValueError, SyntaxError) as error:
    raise DecodeError(f'is {kind_of(encoded)}') from error
