"""Answers pictures of files and folders, and shows the answers."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import json
import os
import pathlib
from typing import Any

from etils import epath
import numpy as np

from slimjax import plots
from slimjax.data import folders
from slimjax.files import expand
from slimjax.files import make_folder
from slimjax.runtime.decoding import PictureError
from slimjax.runtime.kinds import Kind
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.predictor import Predictor
from slimjax.widths import label
from slimjax.widths import Width

SURE = 0.5  # the least score of an object that is shown
_PANEL = 480  # the least shorter side of a drawn picture, pixels


@dataclasses.dataclass(frozen=True)
class Answer:
  """The answer to one file.

  Attributes:
    path: the file.
    by_width: the answers by width, as `Predictor.predict` gives them for one
      picture. Empty if the file cannot be read.
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


def kind_asked(
  predictor: Predictor, top: int | None, min_score: float | None
) -> Kind:
  """Returns what is answered to a person: objects of which it is sure."""
  if min_score is None and predictor.network.manifest.detects:
    min_score = SURE
  return predictor.kind(top=top, min_score=min_score)


def answer(
  predictor: Predictor,
  paths: Sequence[str],
  widths: Sequence[Width],
  kind: Kind,
) -> Iterator[Answer]:
  """Yields the answers to files, in their order.

  The answer to a file that cannot be read is the reason; the others are
  answered all the same. Files are read in batches, each once for all widths.

  Args:
    predictor: a predictor of `slimjax.load`.
    paths: paths of the files.
    widths: widths to answer at.
    kind: what is answered: `predictor.kind(...)`.
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
      by_width = _predict(kind, [*images.values()], widths)
    places = {path: place for place, path in enumerate(images)}
    for path in chosen:
      if path in problems:
        yield Answer(path, {}, problems[path])
      else:
        said = {w: kind.of_one(s, places[path]) for w, s in by_width.items()}
        yield Answer(path, said)


def _predict(
  kind: Kind, images: Sequence[np.ndarray], widths: Sequence[Width]
) -> dict[Width, Any]:
  """Returns the answers to images at each width."""

  def predict(width):
    return kind.predict(images, width)

  # Threads do it: the first batch compiles a program at each width.
  with ThreadPoolExecutor(min(len(widths), os.cpu_count() or 1)) as pool:
    return dict(zip(widths, pool.map(predict, widths), strict=True))


def json_lines(answer: Answer, kind: Kind) -> Iterator[str]:
  """Yields an answer as JSON, a line for each width, or for its problem."""
  if answer.problem:
    yield json.dumps({'picture': answer.path, 'error': answer.problem})
  for width, said in answer.by_width.items():
    line = {'picture': answer.path, 'width': width, **kind.line(said)}
    yield json.dumps(line)


def print_lines(answers: Iterable[Answer], kind: Kind) -> int:
  """Prints answers as JSON, and returns how many files cannot be read."""
  unreadable = 0
  for answer in answers:
    unreadable += bool(answer.problem)
    print(*json_lines(answer, kind), sep='\n', flush=True)
  return unreadable


def print_table(
  answers: Iterable[Answer], widths: Sequence[Width], kind: Kind, console: Any
) -> int:
  """Prints a table: a row for each picture, a column for each width.

  Args:
    answers: answers, as `answer` yields them.
    widths: widths of the answers.
    kind: what is answered.
    console: a `rich.console.Console`.

  Returns:
    The number of files that cannot be read.
  """
  import rich.markup
  import rich.table

  table = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
  table.add_column('picture', overflow='fold')
  for width in widths:
    table.add_column(f'at {label(width)}')
  unreadable = 0
  for answer in answers:
    texts = map(kind.text, answer.by_width.values())
    cells = [rich.markup.escape(text) for text in texts]
    if answer.problem:
      unreadable += 1
      cells = [f'[red]{rich.markup.escape(answer.problem)}[/red]']
    name = folders.printable(os.fsencode(answer.path))
    table.add_row(rich.markup.escape(name), *cells)
  console.print(table)
  return unreadable


def draw_answers(
  answers: Iterable[Answer], predictor: Predictor, folder: str
) -> Iterator[Answer]:
  """Yields answers of a detector, and writes their pictures as PNG.

  A picture has the name of its file, and a number behind it if that is taken.
  Small ones are enlarged. Several widths stand side by side, with what is known
  of them: the headline metric and the latency.

  Args:
    answers: answers, as `answer` yields them.
    predictor: the predictor that they are of.
    folder: folder to write to, which is made.

  Raises:
    ValueError: the network detects nothing.
  """
  from slimjax.detection import drawing

  manifest = predictor.network.manifest
  if not manifest.detects:
    raise ValueError(
      f'{predictor.source} detects no objects: there is nothing to draw'
    )
  place = expand(folder, 'the folder of the pictures')
  make_folder(place)
  taken: Counter[str] = Counter()
  for answer in answers:
    yield answer
    if answer.problem:
      continue
    picture = predictor.read(answer.path)
    many = len(answer.by_width) > 1
    shorter = _PANEL if many else max(min(picture.shape[:2]), _PANEL)
    drawn = [
      drawing.draw(picture, said, skeleton=manifest.skeleton, shorter=shorter)
      for said in answer.by_width.values()
    ]
    whole = drawn[0]
    if many:
      titles = [_title(manifest, width) for width in answer.by_width]
      whole = drawing.beside(drawn, titles)
    name = pathlib.PurePath(answer.path).stem
    taken[name] += 1
    number = f'_{taken[name]}' if taken[name] > 1 else ''
    plots.save_picture(whole, place / f'{name}{number}.png')


def _title(manifest: Manifest, width: Width) -> str:
  """Returns what is known of a width, in a line."""
  entry = manifest.entry(width)
  parts = []
  if entry.error is not None:
    parts.append(manifest.headline.text(entry.error))
  if entry.latency_ms is not None:
    parts.append(f'{entry.latency_ms:.1f} ms')
  return f'{label(width)}x' + (f': {", ".join(parts)}' if parts else '')
