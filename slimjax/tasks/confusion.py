"""Tells which classes are taken for which: a file, a picture, a table."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any
import warnings

from etils import epath
import numpy as np
import rich.markup
import rich.table

from slimjax import files
from slimjax import plots
from slimjax.widths import label
from slimjax.widths import Width

JSON = 'confusion.json'
PICTURE = 'confusion.png'
# The most classes that a matrix and a picture have; a cell with its number
# needs more room; a table has the most lines that fit a screen.
_DENSE = 50
_NUMBERED = 15
_LINES = 20


@dataclasses.dataclass(frozen=True)
class Confusion:
  """How often images of each class were taken for each class, at one width.

  Attributes:
    pairs: int [n, 2], label and prediction, each pair once.
    counts: int [n], how often.
    classes: number of classes.
  """

  pairs: np.ndarray
  counts: np.ndarray
  classes: int

  @classmethod
  def of(
    cls, labels: np.ndarray, predicted: np.ndarray, classes: int
  ) -> 'Confusion':
    """Counts the pairs of labels int [m] and predictions int [m]."""
    codes = np.asarray(labels, np.int64) * classes + predicted
    pairs, counts = np.unique(codes, return_counts=True)
    return cls(np.stack(np.divmod(pairs, classes), -1), counts, classes)

  @property
  def examples(self) -> np.ndarray:
    """Returns the number of images of each class, int [classes]."""
    return self._count(np.ones(len(self.counts), bool))

  @property
  def wrong(self) -> np.ndarray:
    """Returns the number of images of each class taken for others."""
    return self._count(self.pairs[:, 0] != self.pairs[:, 1])

  @property
  def errors(self) -> np.ndarray:
    """Returns the error of each class in percent; NaN of one without images."""
    examples = self.examples
    return np.where(
      examples > 0, 100.0 * self.wrong / np.maximum(examples, 1), np.nan
    )

  def matrix(self) -> np.ndarray:
    """Counts by label and prediction, int [classes, classes]."""
    found = np.zeros((self.classes, self.classes), np.int64)
    found[tuple(self.pairs.T)] = self.counts
    return found

  def _count(self, chosen: np.ndarray) -> np.ndarray:
    found = np.zeros(self.classes, np.int64)
    np.add.at(found, self.pairs[chosen, 0], self.counts[chosen])
    return found


def write_json(
  found: Mapping[Width, Confusion], names: Sequence[str], path: epath.Path
) -> None:
  """Writes the errors of every class, and what was taken for what.

  The file holds {'class_names', 'widths': [{'width', 'classes': [{'name',
  'examples', 'wrong', 'error' in percent}], 'confused': [[label, prediction,
  count], ...] of wrong predictions, most frequent first, 'matrix': counts by
  label and prediction, for up to 50 classes}]}.
  """
  records = [
    {'width': width, **_record(confusion, names)}
    for width, confusion in found.items()
  ]
  files.write_json(
    path, {'class_names': list(names), 'widths': records}, indent=None
  )


def _record(confusion: Confusion, names: Sequence[str]) -> dict[str, Any]:
  columns = zip(
    names,
    confusion.examples.tolist(),
    confusion.wrong.tolist(),
    confusion.errors.tolist(),
    strict=True,
  )
  off = confusion.pairs[:, 0] != confusion.pairs[:, 1]
  order = np.argsort(-confusion.counts[off], kind='stable')
  triples = np.column_stack([confusion.pairs, confusion.counts])[off][order]
  record: dict[str, Any] = {
    'classes': [
      {
        'name': name,
        'examples': examples,
        'wrong': wrong,
        'error': error if math.isfinite(error) else None,
      }
      for name, examples, wrong, error in columns
    ],
    'confused': triples.tolist(),
  }
  if confusion.classes <= _DENSE:
    record['matrix'] = confusion.matrix().tolist()
  return record


def table(
  found: Mapping[Width, Confusion], names: Sequence[str]
) -> rich.table.Table:
  """Returns the error of each class at every width; of many, the worst."""
  widest = list(found.values())[-1]
  rows = list(range(len(names)))
  title = 'error per class'
  if len(names) > _LINES:
    worst = np.argsort(-np.nan_to_num(widest.errors, nan=-1.0), kind='stable')
    rows = worst[:_LINES].tolist()
    title += f', the worst {_LINES} of {len(names):,} (all are in {JSON})'
  made = rich.table.Table(title=title)
  made.add_column('class')
  for name in ('images', *(label(width) for width in found)):
    made.add_column(name, justify='right')
  errors = [confusion.errors for confusion in found.values()]
  for row in rows:
    cells = [f'{e[row]:.2f} %' if np.isfinite(e[row]) else '' for e in errors]
    made.add_row(
      rich.markup.escape(names[row]), f'{widest.examples[row]:,}', *cells
    )
  return made


def plot(
  found: Mapping[Width, Confusion],
  names: Sequence[str],
  path: epath.Path,
) -> None:
  """Saves the matrices of all widths as PNG, unless there are too many classes.

  A row is what the images of one class were taken for, in percent of them.
  """
  if len(names) > _DENSE:
    return
  columns = min(len(found), 2)
  rows = -(-len(found) // columns)
  side = max(3.2, 1.4 + 0.15 * len(names))
  figure = plots.figure((columns * side * 1.05, rows * side))
  grid = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in grid[len(found) :]:
    axes.set_axis_off()
  for axes, (width, confusion) in zip(grid, found.items(), strict=False):
    _draw(axes, confusion, names)
    error = 100.0 * confusion.wrong.sum() / confusion.examples.sum()
    axes.set_title(f'{label(width)}x, {error:.2f} % wrong', fontsize=9)
  figure.supxlabel('predicted', fontsize=9)
  figure.supylabel('true', fontsize=9)
  with warnings.catch_warnings():
    # Letters that the font lacks are shown as boxes.
    warnings.filterwarnings('ignore', message='Glyph')
    plots.save(figure, path)


def _draw(axes: Any, confusion: Confusion, names: Sequence[str]) -> None:
  matrix = confusion.matrix()
  shares = 100.0 * matrix / np.maximum(confusion.examples, 1)[:, None]
  axes.imshow(shares, cmap='Blues', vmin=0.0, vmax=100.0)
  size = 8 if len(names) <= _NUMBERED else 5
  shown = [name if len(name) <= 16 else f'{name[:15]}…' for name in names]
  shown = [name.replace('$', r'\$') for name in shown]  # begins no formula
  axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=size)
  axes.set_yticks(range(len(names)), shown, fontsize=size)
  if len(names) > _NUMBERED:
    return
  for row, column in zip(*np.nonzero(matrix), strict=True):
    axes.text(
      column,
      row,
      f'{matrix[row, column]}',
      ha='center',
      va='center',
      fontsize=7,
      color='white' if shares[row, column] > 60 else 'black',
    )
