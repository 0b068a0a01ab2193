"""Writes files whole or not at all, locally or wherever etils' epath reaches.

The content goes into a draft beside the file, which then takes its place. A
reader, and the next process after one that was killed, find the old content or
the new, never a part. A power cut may still lose what was written last.
"""

import json
import os
from typing import Any

from etils import epath


def expand(path: epath.PathLike, what: str = 'the path') -> epath.Path:
  """Returns a path as a user means it: `~` is the home folder.

  Every path that a program or a public function is given goes through here.

  Args:
    path: a path, local or wherever epath reaches.
    what: name of the path in errors, such as 'workdir'; default: 'the path'.

  Raises:
    ValueError: it is empty.
  """
  if not os.fspath(path):
    raise ValueError(f'{what} is empty; name a folder or a file')
  return epath.Path(path).expanduser()


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file whole or not at all.

  Args:
    path: the file; it is replaced if it exists. Its folder must exist. No two
      processes may write it at the same time: they would share the draft.
    data: content to write.

  Raises:
    OSError: it could not be written. The file is as it was, and no draft stays.
  """
  path = expand(path)
  draft = path.with_name(f'{path.name}.draft')
  try:
    draft.write_bytes(data)
    draft.replace(path)
  except BaseException:
    draft.unlink(missing_ok=True)
    raise


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file in UTF-8, whole or not at all; see `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(
  path: epath.PathLike, value: Any, *, indent: int | None = 2
) -> None:
  """Writes a value as JSON with a newline, whole or not at all.

  Args:
    path: see `write_bytes`.
    value: any value that `json.dumps` takes.
    indent: spaces of each level, or None for one line; default: 2.

  Raises:
    TypeError: the value is nothing JSON has; nothing is written.
  """
  write_text(path, json.dumps(value, indent=indent) + '\n')
