"""Rows of different lengths in one flat array."""

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
  """Rows of different lengths in one flat array: cheap to hold and to send.

  Attributes:
    values: all rows, one after the other.
    starts: int64 [rows + 1], where each begins; the last is the end.
  """

  values: np.ndarray
  starts: np.ndarray

  @classmethod
  def of(
    cls, values: np.ndarray, lengths: Sequence[int] | np.ndarray
  ) -> 'Ragged':
    """Returns rows of some lengths, which together are `values`."""
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return cls(values, starts.astype(np.int64))

  def __len__(self) -> int:
    return len(self.starts) - 1

  def __getitem__(self, row: int) -> np.ndarray:
    return self.values[self.starts[row] : self.starts[row + 1]]

  def lengths(self) -> np.ndarray:
    """Returns the length of each row, int64 [rows]."""
    return np.diff(self.starts)

  def take(self, rows: np.ndarray) -> 'Ragged':
    """Returns some of the rows, in the order asked for."""
    lengths = self.lengths()[rows]
    found = Ragged.of(self.values, lengths)
    shift = np.repeat(self.starts[:-1][rows] - found.starts[:-1], lengths)
    places = np.arange(found.starts[-1]) + shift
    return Ragged(self.values[places], found.starts)
