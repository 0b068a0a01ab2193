"""Keeps what a search has done, a line of JSON a step, so that it can resume.

The file is written anew after every step, whole or not at all: a search that is
killed at any moment goes on with the next step, and ends as it would have.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import json
from typing import Any

from etils import epath

from slimjax import files


class Trace:
  """The steps of a search, in a file or in memory alone."""

  def __init__(
    self,
    path: epath.PathLike | None,
    problem: Mapping[str, Any],
    *,
    writes: bool = True,
  ):
    """Reads what is there.

    Args:
      path: file of the trace; None keeps it in memory.
      problem: what the search is about, as JSON has it: the first line.
      writes: whether this process writes; default: yes.

    Raises:
      ValueError: the file is of another search, or no trace.
    """
    self._path = None if path is None else files.expand(path, 'the trace')
    self._writes = writes
    head = json.loads(json.dumps(dict(problem)))
    self._lines: list[dict[str, Any]] = [head]
    if self._path is not None and self._path.exists():
      lines = _read(self._path)
      _check_same(self._path, lines[0], head)
      self._lines = lines

  def __len__(self) -> int:
    """Returns the number of steps done."""
    return len(self._lines) - 1

  def __iter__(self) -> Iterator[dict[str, Any]]:
    """Yields the steps done."""
    return iter(self._lines[1:])

  def add(self, step: Mapping[str, Any]) -> None:
    """Adds a step, and writes the file."""
    self._lines.append(json.loads(json.dumps(dict(step))))
    if self._path is not None and self._writes:
      text = ''.join(json.dumps(line) + '\n' for line in self._lines)
      files.write_text(self._path, text)


def _read(path: epath.Path) -> list[dict[str, Any]]:
  try:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not all(isinstance(line, dict) for line in lines) or not lines:
      raise ValueError('it has no objects')
  except ValueError as error:
    raise ValueError(f'{path} is no trace of a search: {error}') from error
  return lines


def _check_same(path: epath.Path, old: Any, new: Any) -> None:
  keys = [
    key
    for key in sorted({*old, *new})
    if old.get(key, '(none)') != new.get(key, '(none)')
  ]
  if keys:
    said = '\n  '.join(
      f'{key}: {_short(old.get(key, "(none)"))} before,'
      f' {_short(new.get(key, "(none)"))} now'
      for key in keys[:8]
    )
    raise ValueError(
      f'{path} is of another search, which cannot resume with this one:\n '
      f' {said}\nTake another folder, or the options as they were.'
    )


def _short(value: Any) -> str:
  text = str(value)
  return text if len(text) <= 60 else f'{text[:57]}...'
