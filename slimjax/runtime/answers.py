"""Answers pictures of files and folders, and shows the answers."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax
import numpy as np

from slimjax.data import folders
from slimjax.files import expand
from slimjax.runtime.classes import Guess
from slimjax.runtime.decoding import PictureError
from slimjax.runtime.predictor import Predictor
from slimjax.runtime.tensors import named_outputs
from slimjax.widths import label
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Answer:
  """The answer to one file.

  Attributes:
    path: the file.
    by_width: the classes by width, the most probable first; if the network does
      not predict logits of classes, its outputs, a tree of arrays. Empty if the
      file cannot be read.
    problem: reason why the file cannot be read; default: '', it can.
  """

  path: str
  by_width: Mapping[Width, Any]
  problem: str = ''


def find_pictures(paths: Iterable[str]) -> tuple[list[str], list[str]]:
  """Returns files, and of folders all the pictures in them, at any depth.

  What is a picture in a folder is decided as it is for data sets of folders.

  Returns:
    The files, and a line for each folder of which something was left out.

  Raises:
    ValueError: a folder holds no picture.
  """
  files, notes = [], []
  for path in (str(expand(path)) for path in paths):
    if not os.path.isdir(path):
      files.append(path)
      continue
    found, left_out = folders.list_pictures(epath.Path(path))
    said = folders.counted(left_out)
    if not found:
      raise ValueError(
        f'there are no pictures in {path}' + (f', only: {said}' if said else '')
      )
    files += [os.path.join(path, name) for name in found]
    if said:
      notes.append(f'{path}: left out: {said}')
  return files, notes


def answer(
  predictor: Predictor,
  paths: Sequence[str],
  widths: Sequence[Width],
  *,
  top: int = 5,
) -> Iterator[Answer]:
  """Yields the answers to files, in their order.

  The answer to a file that cannot be read is the reason; the others are
  answered all the same. Files are read in batches, each once for all widths.

  Args:
    predictor: a predictor of `slimjax.load`.
    paths: paths of the files.
    widths: widths to answer at.
    top: number of classes of each; default: 5.
  """
  size = predictor.network.batch_sizes[-1]
  for start in range(0, len(paths), size):
    images: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    chosen = paths[start : start + size]
    for path in chosen:
      try:
        images[path] = predictor.read(path)
      except PictureError as error:
        problems[path] = error.reason
    by_width = {}
    if images:
      batch = np.stack([*images.values()])
      by_width = _predict(predictor, batch, widths, top)
    places = {path: place for place, path in enumerate(images)}
    for path in chosen:
      if path in problems:
        yield Answer(path, {}, problems[path])
      else:
        yield Answer(path, _of_one(by_width, places[path]))


def _predict(
  predictor: Predictor, images: np.ndarray, widths: Sequence[Width], top: int
) -> dict[Width, Any]:
  """Returns the predictions for images at each width."""

  def predict(width):
    return predictor.predict(images, width=width, top=top)

  # Threads do it: the first batch compiles a program at each width.
  with ThreadPoolExecutor(min(len(widths), os.cpu_count() or 1)) as pool:
    return dict(zip(widths, pool.map(predict, widths), strict=True))


def _of_one(by_width: Mapping[Width, Any], place: int) -> dict[Width, Any]:
  """Returns the answers to one image of a batch."""
  return {
    width: said[place]
    if isinstance(said, list)
    else jax.tree.map(lambda array: array[place], said)
    for width, said in by_width.items()
  }


def json_lines(answer: Answer) -> Iterator[str]:
  """Yields an answer as JSON, a line for each width, or for its problem."""
  if answer.problem:
    yield json.dumps({'picture': answer.path, 'error': answer.problem})
  for width, said in answer.by_width.items():
    line: dict[str, Any] = {'picture': answer.path, 'width': width}
    if _are_guesses(said):
      line['classes'] = [dataclasses.asdict(guess) for guess in said]
    else:
      arrays = named_outputs(said)
      line['outputs'] = {
        name.removeprefix('/') or 'output': array.tolist()
        for name, array in arrays.items()
      }
    yield json.dumps(line)


def print_answers(
  answers: Iterable[Answer], widths: Sequence[Width], console: Any
) -> None:
  """Prints a table: a row for each picture, a column for each width.

  Args:
    answers: answers, as `answer` yields them.
    widths: widths of the answers.
    console: a `rich.console.Console`.
  """
  import rich.markup
  import rich.table

  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  table.add_column('picture', overflow='fold')
  for width in widths:
    table.add_column(f'at {label(width)}')
  for answer in answers:
    if answer.problem:
      cells = [f'[red]{rich.markup.escape(answer.problem)}[/red]']
    else:
      cells = [rich.markup.escape(_text(s)) for s in answer.by_width.values()]
    name = folders.printable(os.fsencode(answer.path))
    table.add_row(rich.markup.escape(name), *cells)
  console.print(table)


def _text(said: Any) -> str:
  if _are_guesses(said):
    return '\n'.join(f'{g.name} {100 * g.probability:.1f} %' for g in said)
  lines = []
  for name, array in named_outputs(said).items():
    shape = f'{list(array.shape)}, ' if array.ndim else ''
    lines.append(
      f'{name.removeprefix("/") or "output"}: {shape}mean {array.mean():.4g}'
    )
  return '\n'.join(lines)


def _are_guesses(said: Any) -> bool:
  return isinstance(said, list) and all(isinstance(g, Guess) for g in said)
