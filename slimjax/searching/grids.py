"""Interpolates between the channels at which something was measured."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Grid:
  """The times of a geometry.

  Attributes:
    inputs: input channels of the grid's points, ascending.
    outputs: output channels, likewise.
    ms: milliseconds [inputs, outputs], without the launch.
  """

  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  ms: tuple[tuple[float, ...], ...]

  def __call__(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Returns milliseconds [n], bilinear; beyond the grid its edge's."""
    ms = np.asarray(self.ms)
    low, share = _place(self.inputs, inputs)
    high = np.minimum(low + 1, len(self.inputs) - 1)
    left, across = _place(self.outputs, outputs)
    right = np.minimum(left + 1, len(self.outputs) - 1)
    one = (1 - share) * ms[low, left] + share * ms[high, left]
    other = (1 - share) * ms[low, right] + share * ms[high, right]
    return (1 - across) * one + across * other


def _place(points: Sequence[int], values: Any) -> tuple[Any, Any]:
  """Returns the last point at or below values, and how far to the next."""
  known = np.asarray(points, float)
  if len(known) == 1:
    return np.zeros(np.shape(values), int), np.zeros(np.shape(values))
  low = np.clip(np.searchsorted(known, values, 'right') - 1, 0, len(known) - 2)
  share = (values - known[low]) / (known[low + 1] - known[low])
  return low, np.clip(share, 0.0, 1.0)


def spread(ends: set[int], points: int, multiple: int) -> tuple[int, ...]:
  """Returns the points of a grid between two ends, at multiples.

  Args:
    ends: channels, of which the least and the most count.
    points: number of points, as far as there are as many multiples.
    multiple: whole number that points between the ends are multiples of.
  """
  least, most = min(ends), max(ends)
  even = np.linspace(least, most, points) if most > least else [least]
  inner = {int(round(p / multiple) * multiple) for p in even[1:-1]}
  return tuple(sorted({least, most, *(p for p in inner if least < p < most)}))
