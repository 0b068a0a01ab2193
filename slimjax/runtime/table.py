"""What was measured of a bundle on a device: `Table`, one `Row` a program."""

from collections.abc import Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from slimjax.widths import canonical
from slimjax.widths import Width

SCHEMA = 1
QUANTILES = (0.5, 0.95, 0.99)


@dataclasses.dataclass(frozen=True)
class Row:
  """One width at one batch size.

  Attributes:
    width: a float, or the channels of every layer.
    batch_size: images in a request.
    p50_ms, p95_ms, p99_ms: latency of a request, from images on the host to
      logits on the host.
    p50_ci, p95_ci, p99_ci: 95 % confidence intervals of these, ms.
    images_per_second: one request after another.
    requests: that were timed.
    compile_s: of its program; None if the backend compiles nothing.
    weight_bytes: prepared weights.
    temp_bytes: the program's peak temporary memory; None if unknown.
    macs: multiply-accumulates for one image.
    params: parameters.
    error: top-1 validation error, percent; None if unknown.
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
    """Latency at a quantile, between those measured on a logarithmic scale."""
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
    """Prepared weights and the program's temporary memory."""
    if self.temp_bytes is None:
      return None
    return self.weight_bytes + self.temp_bytes

  @property
  def badness(self) -> float:
    """What a better width has less of: error, or minus MACs if unknown."""
    return -float(self.macs) if self.error is None else self.error


@dataclasses.dataclass(frozen=True)
class Table:
  """The widths of a network as measured on one device.

  Attributes:
    rows: one for each width and batch size.
    device: what it was measured on, in words.
    backend: 'jax' or 'onnxruntime'.
    measured: time, ISO 8601.
    versions: of the packages that ran.
  """

  rows: tuple[Row, ...]
  device: str
  backend: str
  measured: str
  versions: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def batch_sizes(self) -> tuple[int, ...]:
    return tuple(sorted({row.batch_size for row in self.rows}))

  def of_batch(self, batch_size: int) -> tuple[Row, ...]:
    """The rows of one batch size.

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
    """Whether another width is as good and faster, or as fast and better."""
    return any(_dominates(o, row) for o in self.of_batch(row.batch_size))

  def save(self, path: str | os.PathLike) -> None:
    """Writes JSON, whole or not at all."""
    path = pathlib.Path(path)
    content = {'schema': SCHEMA, **dataclasses.asdict(self)}
    draft = path.with_name(path.name + '.draft')
    draft.write_text(json.dumps(content, indent=1) + '\n')
    draft.replace(path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Table':
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is something else.
    """
    path = pathlib.Path(path)
    try:
      content = json.loads(path.read_text())
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
  """Those that no other dominates, fastest and worst first."""
  left = [r for r in rows if not any(_dominates(other, r) for other in rows)]
  left.sort(key=lambda row: (row.p50_ms, -row.badness))
  # Equal in both: one of them will do.
  return [
    row
    for i, row in enumerate(left)
    if not i or not math.isclose(row.badness, left[i - 1].badness)
  ]
