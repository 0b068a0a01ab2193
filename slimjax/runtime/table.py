"""Holds what was measured of a bundle on a device.

A `Table` has one `Row` per width and batch size.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import os
from typing import Any

from slimjax import files
from slimjax.widths import canonical
from slimjax.widths import Width

SCHEMA = 1
QUANTILES = (0.5, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class Row:
  """What was measured of one width at one batch size.

  Attributes:
    width: a float, or the channels of every layer.
    batch_size: number of images in a request.
    p50_ms, p95_ms, p99_ms: quantiles of the latency of a request, from images
      on the host to outputs on the host.
    p50_ci, p95_ci, p99_ci: 95 % confidence intervals of these, ms.
    images_per_second: throughput of one request after another.
    requests: number of requests timed.
    compile_s: seconds its program took to compile; None if the backend
      compiles nothing.
    weight_bytes: size of the prepared weights.
    temp_bytes: the program's peak temporary memory; None if unknown.
    macs: multiply-accumulates for one image.
    params: number of parameters.
    error: number to minimise, on validation images; None if unknown.
  """

  width: Width
  batch_size: int
  p50_ms: float
  p95_ms: float
  p99_ms: float
  p50_ci: tuple[float, float]
  p95_ci: tuple[float, float]
  p99_ci: tuple[float, float]
  images_per_second: float
  requests: int
  compile_s: float | None
  weight_bytes: int
  temp_bytes: int | None
  macs: int
  params: int
  error: float | None

  def quantile_ms(self, quantile: float) -> float:
    """Returns the latency at a quantile, interpolated in its logarithm."""
    known = (self.p50_ms, self.p95_ms, self.p99_ms)
    if quantile <= QUANTILES[0]:
      return known[0]
    for i in (1, 2):
      low, high = QUANTILES[i - 1], QUANTILES[i]
      if quantile <= high:
        share = (quantile - low) / (high - low)
        return known[i - 1] * (known[i] / known[i - 1]) ** share
    return known[2]

  @property
  def peak_bytes(self) -> int | None:
    """Returns bytes of weights and temporary memory; None if unknown."""
    if self.temp_bytes is None:
      return None
    return self.weight_bytes + self.temp_bytes

  @property
  def badness(self) -> float:
    """Returns the error, or minus the MACs if unknown; less is better."""
    return -float(self.macs) if self.error is None else self.error


@dataclasses.dataclass(frozen=True)
class Table:
  """The widths of a network as measured on one device.

  Attributes:
    rows: one for each width and batch size.
    device: the device it was measured on, in words.
    backend: 'jax' or 'onnxruntime'.
    measured: time of the measurement, ISO 8601.
    versions: {package: version} of those that ran; default: empty.
    error_title: title of `error`, with its unit; default: 'error, %'.
  """

  rows: tuple[Row, ...]
  device: str
  backend: str
  measured: str
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  error_title: str = 'error, %'

  @property
  def batch_sizes(self) -> tuple[int, ...]:
    """Returns the batch sizes measured, smallest first."""
    return tuple(sorted({row.batch_size for row in self.rows}))

  def of_batch(self, batch_size: int) -> tuple[Row, ...]:
    """Returns the rows of one batch size.

    Raises:
      ValueError: it was not measured.
    """
    rows = tuple(row for row in self.rows if row.batch_size == batch_size)
    if not rows:
      raise ValueError(
        f'batch size {batch_size} was not measured, only {self.batch_sizes}'
      )
    return rows

  def dominated(self, row: Row) -> bool:
    """Returns whether another width is better or faster, and no worse."""
    return any(_dominates(o, row) for o in self.of_batch(row.batch_size))

  def save(self, path: str | os.PathLike) -> None:
    """Writes the table as JSON, whole or not at all."""
    content = {'schema': SCHEMA, **dataclasses.asdict(self)}
    files.write_json(path, content, indent=1)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Table':
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is something else.
    """
    try:
      content = json.loads(files.expand(path).read_text())
      schema = content.pop('schema')
      if schema != SCHEMA:
        raise ValueError(f'its schema is {schema}, not {SCHEMA}')
      rows = tuple(_row(row) for row in content.pop('rows'))
      return cls(rows=rows, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{path} is no table of slimjax.benchmark: {error!r}'
      ) from error


def _row(content: dict[str, Any]) -> Row:
  row: dict[str, Any] = {
    name: tuple(value) if name.endswith('_ci') else value
    for name, value in content.items()
  }
  row['width'] = canonical(row['width'])
  return Row(**row)


def _dominates(one: Row, other: Row) -> bool:
  if one.badness > other.badness or one.p50_ms > other.p50_ms:
    return False
  return one.badness < other.badness or one.p50_ms < other.p50_ms


def candidates(rows: Sequence[Row]) -> list[Row]:
  """Returns the rows that no other dominates, fastest and worst first."""
  left = [r for r in rows if not any(_dominates(other, r) for other in rows)]
  left.sort(key=lambda row: (row.p50_ms, -row.badness))
  # One of several rows that are equal in both is enough.
  return [
    row
    for i, row in enumerate(left)
    if not i or not math.isclose(row.badness, left[i - 1].badness)
  ]
