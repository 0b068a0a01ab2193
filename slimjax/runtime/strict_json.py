"""Reads JSON that somebody else may have written.

What the standard library lets pass is refused: files of any size, a key that
stands twice, NaN and infinity, nesting that ends in a RecursionError.
"""

import json
import math
import pathlib
from typing import Any

from slimjax import units


def read(path: pathlib.Path, *, most: int) -> Any:
  """Returns what the JSON of a file says.

  Args:
    path: a local file.
    most: largest size in bytes; what is larger is not read.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is larger, or it is no JSON; the text names the file.
  """
  try:
    with path.open('rb') as file:
      data = file.read(most + 1)
  except OSError as error:
    raise OSError(
      f'{path} cannot be read: {error.strerror or error}'
    ) from error
  if len(data) > most:
    raise ValueError(f'{path} is larger than {units.size(most)}; none is')
  try:
    return json.loads(
      data.decode('utf-8'),
      object_pairs_hook=_unique,
      parse_constant=_refuse,
      parse_float=_finite,
    )
  except RecursionError as error:
    raise ValueError(f'{path} is nested too deeply') from error
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'the key {twice[:60]!r} stands there twice')
  return found


def _refuse(constant: str) -> None:
  raise ValueError(f'{constant} is no number of JSON')


def _finite(digits: str) -> float:
  number = float(digits)
  if not math.isfinite(number):
    raise ValueError(f'the number {digits[:30]} is too large')
  return number
