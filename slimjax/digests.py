"""Keeps the digests of a folder's files, so that damage is noticed.

They lie in a file of the folder itself. Whoever reads the folder compares them
first: a byte that a disk changed would otherwise be a weight like any other.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
from typing import Any

from etils import epath

from slimjax import files

DIGESTS = 'digests.json'
_CHUNK_BYTES = 1 << 20


class DamageError(ValueError):
  """Files are not what was written: changed, cut off, or lost."""


def of_file(path: epath.Path | pathlib.Path) -> dict[str, Any]:
  """Returns the size and the SHA-256 of a file.

  Raises:
    FileNotFoundError: there is no such file.
    ReadError: it cannot be read now.
  """
  digest, size = hashlib.sha256(), 0
  with files.reading(path), path.open('rb') as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
      size += len(chunk)
  return {'bytes': size, 'sha256': digest.hexdigest()}


def of_folder(folder: epath.Path | pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns sizes and digests of all files below a folder, by path."""
  return {path: of_file(folder / path) for path in sorted(_walk(folder, ''))}


def _walk(folder: epath.Path | pathlib.Path, above: str) -> Iterator[str]:
  with files.reading(folder):
    found = list(folder.iterdir())
  for path in found:
    name = f'{above}{path.name}'
    if path.is_dir():
      yield from _walk(path, f'{name}/')
    else:
      yield name


def write(folder: epath.Path, parts: list[str], **about: Any) -> None:
  """Writes the digests of some folders in a folder, read back from the disk.

  Args:
    folder: folder that gets the file of digests.
    parts: names of the folders in it whose files are described.
    **about: values that the content belongs to, such as a step's number, which
      `check` compares.
  """
  content = {
    f'{part}/{path}': digest
    for part in parts
    for path, digest in of_folder(folder / part).items()
  }
  files.write_json(folder / DIGESTS, {**about, 'files': content}, indent=1)


def check(folder: epath.Path, **about: Any) -> bool:
  """Compares a folder with its digests.

  All of its bytes are read once, at the speed of the disk or of about 1 GB/s.

  Args:
    folder: folder of `write`.
    **about: values that must be those given to `write`.

  Returns:
    Whether there are digests to compare with: older code wrote none.

  Raises:
    DamageError: a file is not what was written, or the digests are not.
    ReadError: something cannot be read now, which says nothing about it.
  """
  try:
    content = json.loads(files.read_bytes(folder / DIGESTS))
  except FileNotFoundError:
    return False
  except (ValueError, RecursionError) as error:
    raise DamageError(f'{DIGESTS} is not JSON') from error
  known = content.get('files') if isinstance(content, dict) else None
  if not isinstance(known, dict):
    raise DamageError(f'{DIGESTS} holds no digests')
  for name, value in about.items():
    if content.get(name) != value:
      raise DamageError(
        f'it was written as {name} {content.get(name)!r}, not {value!r}'
      )
  for path, expected in known.items():
    _compare(folder, path, expected)
  return True


def _compare(folder: epath.Path, path: str, expected: Any) -> None:
  if not isinstance(expected, Mapping) or os.path.isabs(path) or '..' in path:
    raise DamageError(f'{DIGESTS} says nothing of {path!r}')
  if (folder / path).is_dir():
    raise DamageError(f'{path} is a folder')
  try:
    found = of_file(folder / path)
  except FileNotFoundError as error:
    raise DamageError(f'{path} is missing') from error
  if found['bytes'] != expected.get('bytes'):
    raise DamageError(
      f'{path} has {found["bytes"]} bytes, {expected.get("bytes")} were written'
    )
  if found != expected:
    raise DamageError(f'{path} has been changed since it was written')
