"""Decodes pictures for a network, by a rule that a manifest can hold.

So a bundle answers files without the data set or the code of its training.
"""

from collections.abc import Callable
from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from slimjax import files
from slimjax.runtime.rules import CENTRE_CROP
from slimjax.runtime.rules import GREY_CROP
from slimjax.runtime.rules import ON_CANVAS

Decode = Callable[[bytes], np.ndarray]


class PictureError(ValueError):
  """A picture cannot be read or decoded.

  Attributes:
    reason: the reason, without the name of the file.
  """

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(f'{os.fspath(path)}: {reason}')
    self.reason = reason


def read_picture(path: str | os.PathLike, decode: Decode) -> np.ndarray:
  """Returns the picture of a file, decoded.

  Args:
    path: path of the file.
    decode: an encoded picture -> uint8 [h, w, 3].

  Raises:
    PictureError: it cannot be read or decoded; the text names the file.
  """
  try:
    encoded = files.expand(path).read_bytes()
  except OSError as error:
    raise PictureError(path, error.strerror or str(error)) from error
  return decode_picture(encoded, decode, path)


def decode_picture(
  encoded: bytes, decode: Decode, name: str | os.PathLike
) -> np.ndarray:
  """Returns an encoded picture, decoded.

  Args:
    encoded: content of a file, such as a JPEG.
    decode: an encoded picture -> uint8 [h, w, 3].
    name: name of the picture, for errors.

  Raises:
    PictureError: it cannot be decoded; the text has the name.
  """
  from slimjax.data.jpeg import DecodeError

  try:
    return decode(encoded)
  except DecodeError as error:
    raise PictureError(name, str(error)) from error


def describe_decode(decode: Decode | None) -> dict[str, Any] | None:
  """Returns a rule as JSON: its name and its numbers.

  Args:
    decode: a rule such as `slimjax.data.dataset.Dataset.decode`.

  Returns:
    None if there is none, or if it is a user's own function.
  """
  from slimjax.data.coco.canvas import OnCanvas
  from slimjax.data.jpeg import CentreCrop
  from slimjax.data.jpeg import GreyCrop

  if isinstance(decode, OnCanvas):
    return {
      'rule': ON_CANVAS,
      'canvases': [[*canvas] for canvas in decode.canvases],
      'side': decode.side,
      'longest': decode.longest,
      'orientation': 'exif',
    }
  if isinstance(decode, GreyCrop):
    return {'rule': GREY_CROP, 'size': decode.size, 'inner': decode.inner}
  if not isinstance(decode, CentreCrop):
    return None
  return {
    'rule': CENTRE_CROP,
    'resize': decode.resize,
    'size': decode.size,
    'orientation': 'exif',
  }


def other_sizes(decode: Decode | None) -> tuple[tuple[int, int], ...]:
  """Returns (height, width) of the images that a rule gives beside the first.

  Args:
    decode: a rule, such as `describe_decode` takes; None if there is none.
  """
  return getattr(decode, 'others', ())


def make_decode(rule: Mapping[str, Any] | None) -> Decode | None:
  """Returns the function that `describe_decode` described, or None.

  Raises:
    ValueError: this version has no such rule.
  """
  from slimjax.data.coco.canvas import OnCanvas
  from slimjax.data.jpeg import CentreCrop
  from slimjax.data.jpeg import GreyCrop

  if rule is None:
    return None
  if rule['rule'] == ON_CANVAS:
    first, *others = ((height, width) for height, width in rule['canvases'])
    return OnCanvas(first, rule['side'], rule['longest'], tuple(others))
  if rule['rule'] == GREY_CROP:
    return GreyCrop(size=rule['size'], inner=rule['inner'])
  if rule['rule'] != CENTRE_CROP:
    raise ValueError(
      f'pictures are decoded by the rule {rule["rule"]!r}, which this version'
      ' of slimjax does not have; update it, or give arrays'
    )
  return CentreCrop(size=rule['size'], resize=rule['resize'])
