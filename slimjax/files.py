"""Reads and writes files, locally or wherever etils' epath reaches.

A file is written whole or not at all: the content goes into a draft beside it,
which then takes its place. A reader, and the next process after one that was
killed, find the old content or the new, never a part. A power cut may still
lose what was written last.

What fails is told with the path, the reason and what to do about it.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import sys
from typing import Any

from etils import epath

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_MENDS = (
  (_FULL, 'Make room on the disk'),
  (_FORBIDDEN, 'See who owns the folder, and who may use it'),
  (_GONE, 'See whether the folder was moved, deleted or unmounted'),
)


class ReadError(OSError):
  """A file is there and cannot be read now; it may be whole all the same."""


class WriteError(OSError):
  """A file or a folder could not be written; what was there before still is."""


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


def mend(error: BaseException) -> str:
  """Returns what to do about trouble with a file, as a sentence's begin.

  Args:
    error: an OSError, or an error of a library that quotes one.
  """
  number, text = getattr(error, 'errno', None), str(error)
  for numbers, said in _MENDS:
    if number in numbers or any(os.strerror(n) in text for n in numbers):
      return said
  return 'See to the cause'


def reason(error: BaseException) -> str:
  """Returns why a file cannot be used, in a few words."""
  if isinstance(error, MemoryError):
    return 'there is not enough memory'
  said = getattr(error, 'strerror', None) or str(error)
  return ' '.join(said.split()) or type(error).__name__


@contextlib.contextmanager
def writing(path: epath.PathLike, safe: str) -> Iterator[None]:
  """Turns an error of writing inside the context into a `WriteError`.

  Args:
    path: file or folder that is written.
    safe: sentence that says what is safe, without a full stop.
  """
  try:
    yield
  except (OSError, MemoryError) as error:
    if _is_told(error):
      raise
    raise WriteError(
      f'{os.fspath(path)} could not be written: {reason(error)}. {safe}.'
      f' {mend(error)}, and give the same command again'
    ) from error


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
  """Turns trouble with reading into a `ReadError`.

  A file that is not there, nor the folder it would be in, is a
  FileNotFoundError, which callers explain.
  """
  try:
    yield
  except NotADirectoryError as error:
    raise FileNotFoundError(*error.args) from error
  except (OSError, MemoryError) as error:
    if isinstance(error, FileNotFoundError) or _is_told(error):
      raise
    raise ReadError(
      f'{os.fspath(path)} cannot be read now: {reason(error)}. Nothing was'
      f' changed. {mend(error)}, and give the same command again'
    ) from error


def _is_told(error: BaseException) -> bool:
  """Returns whether our code raised an error, with a text for people."""
  return isinstance(error, OSError) and error.errno is None


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a file whole or not at all.

  Args:
    path: the file; it is replaced if it exists. Its folder must exist. No two
      processes may write it at the same time: they would share the draft.
    data: content to write.

  Raises:
    WriteError: it could not be written. The file is as it was, and no draft
      stays.
  """
  path = expand(path)
  draft = path.with_name(f'{path.name}.draft')
  with writing(path, 'What was there before is unchanged'):
    try:
      draft.write_bytes(data)
      draft.replace(path)
    except BaseException:
      with contextlib.suppress(OSError):  # the first error is the one to tell
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
    WriteError: see `write_bytes`.
  """
  write_text(path, json.dumps(value, indent=indent) + '\n')


def make_folder(path: epath.PathLike) -> None:
  """Makes a folder, and those above it, unless it is there.

  Raises:
    WriteError: it cannot be made.
  """
  with writing(path, 'Nothing was changed'):
    expand(path).mkdir(parents=True, exist_ok=True)


def remove(path: epath.PathLike) -> None:
  """Removes a file if it is there; raises WriteError if it stays."""
  with writing(path, 'It is still there'):
    expand(path).unlink(missing_ok=True)


def unused(path: epath.Path) -> epath.Path:
  """Returns a path that does not exist: this one, or with a number behind."""
  new, number = path, 1
  while new.exists():
    number += 1
    new = path.with_name(f'{path.name}-{number}')
  return new


def rename(path: epath.Path, name: str) -> epath.Path:
  """Renames a file or a folder, by `unused`, and returns the new path.

  Raises:
    WriteError: it could not be renamed.
  """
  new = unused(path.with_name(name))
  with writing(path, 'It still has its old name'):
    path.rename(new)
  return new


def tell(text: str) -> None:
  """Prints a line on stderr, where it is in the way of no program's answers."""
  print(text, file=sys.stderr, flush=True)


def read_bytes(path: epath.PathLike) -> bytes:
  """Returns what a file holds.

  Raises:
    FileNotFoundError: there is no such file.
    ReadError: it cannot be read now.
  """
  with reading(path):
    return expand(path).read_bytes()


def read_json(path: epath.PathLike, hint: str) -> Any:
  """Returns the value that a JSON file holds.

  Args:
    path: the file.
    hint: sentence that says how to get the file right again.

  Raises:
    FileNotFoundError: there is no such file.
    ReadError: it cannot be read now.
    ValueError: it is not JSON; the message names file, line and column.
  """
  data = read_bytes(path)
  try:
    return json.loads(data.decode())
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{os.fspath(path)} is not the JSON that was written, but cut off or'
      f' changed ({error}; {len(data):,} bytes). {hint}'
    ) from error


def read_json_lines(
  path: epath.PathLike,
) -> tuple[list[tuple[int, Any]], list[str]]:
  """Reads a file with a JSON value on each line, as far as it is whole.

  Returns:
    The values with the numbers of their lines, from 1; and what was left out, a
    line for each. A last line without its end, which a kill cut short, is left
    out and not told: it is written again.

  Raises:
    FileNotFoundError: there is no such file.
    ReadError: it cannot be read now.
  """
  # Only this ends a line; str.splitlines would also cut at U+2028 and others.
  *lines, _ = read_bytes(path).split(b'\n')
  found, left_out = [], []
  for number, line in enumerate(lines, 1):
    try:
      found.append((number, json.loads(line.decode())))
    except (ValueError, RecursionError):
      what = repr(line[:40].decode(errors='replace')) if line else 'empty'
      left_out.append(f'{os.fspath(path)}, line {number}: {what}, not JSON')
  return found, left_out
