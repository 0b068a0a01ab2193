"""Holds what was measured of a bundle on a device.

A `Table` has one `Row` per width and batch size.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import datetime
import functools
import math
import os
import pathlib
from typing import Any

from slimjax import checks
from slimjax import files
from slimjax.runtime import strict_json
from slimjax.runtime.backends import BACKENDS
from slimjax.runtime.headline import Headline
from slimjax.runtime.parsing import parse_headline
from slimjax.runtime.parsing import parse_width
from slimjax.widths import label
from slimjax.widths import Width

SCHEMA = 2
QUANTILES = (0.5, 0.95, 0.99)
# The largest file of a table, bytes, and the longest latency, ms: ten days.
_MOST = 2**25
_LONGEST = 1e9


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
    backend: name of the backend that answered; None if unknown.

  Raises:
    ValueError: a number is not in its range, or contradicts another.
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
  backend: str | None = None

  def __post_init__(self) -> None:
    checks.record('', vars(self), fields=_ROW)
    name = f'width {label(self.width)}, batch {self.batch_size}'
    if not self.p50_ms <= self.p95_ms <= self.p99_ms:
      raise ValueError(
        f'{name}: p50_ms, p95_ms and p99_ms must not fall, got {self.p50_ms:g},'
        f' {self.p95_ms:g}, {self.p99_ms:g}'
      )
    # Half of the requests take p50 at least, so their mean takes half of it.
    fastest = 2e3 * self.batch_size / self.p50_ms
    if self.images_per_second > fastest * (1 + 1e-9):
      raise ValueError(
        f'{name}: images_per_second {self.images_per_second:g} is more than a'
        f' p50_ms of {self.p50_ms:g} allows, {fastest:g}'
      )

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
    backend: 'jax', 'onnxruntime', or 'auto' if the rows have their own.
    measured: time of the measurement, ISO 8601.
    versions: {package: version} of those that ran; default: empty.
    headline: metric of the errors; default: error, %, less is better.

  Raises:
    ValueError: a width was measured twice at one batch size, or rows of a width
      contradict each other.
  """

  rows: tuple[Row, ...]
  device: str
  backend: str
  measured: str
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  headline: Headline = dataclasses.field(default_factory=Headline)

  def __post_init__(self) -> None:
    known: dict[Width, Row] = {}
    cells = set()
    for row in self.rows:
      if (row.width, row.batch_size) in cells:
        raise ValueError(
          f'width {label(row.width)} stands twice at batch {row.batch_size}'
        )
      cells.add((row.width, row.batch_size))
      first = known.setdefault(row.width, row)
      for name in ('weight_bytes', 'macs', 'params', 'error'):
        if getattr(first, name) != getattr(row, name):
          raise ValueError(
            f'{name} of width {label(row.width)} is {getattr(first, name)} at'
            f' one batch size, {getattr(row, name)} at another'
          )

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
      OSError: the file cannot be read.
      ValueError: it is no table, or a number in it cannot be; the text names
        the file and the field.
    """
    path = pathlib.Path(files.expand(path))
    try:
      content = strict_json.read(path, most=_MOST)
    except ValueError as error:
      raise ValueError(f'{error}; {_NEEDED}') from error
    try:
      return _parse(content)
    except ValueError as error:
      raise ValueError(
        f'{path} is no table of slimjax.benchmark: {error}; {_NEEDED}'
      ) from error


_NEEDED = 'python -m slimjax.benchmark BUNDLE writes one'
_line = functools.partial(checks.text, most=1000, lines=False)
_count = functools.partial(checks.whole, least=0, most=2**63 - 1)
_some = functools.partial(checks.whole, least=1, most=2**63 - 1)
_ms = functools.partial(checks.real, above=0, most=_LONGEST)


def _interval(name: str, value: Any) -> tuple[float, float]:
  low, high = checks.listed(name, value, check=_ms, least=2, most=2)
  if low > high:
    raise ValueError(f'{name} must be two numbers in order, got {value}')
  return low, high


_ROW: dict[str, checks.Check] = {
  'width': parse_width,
  'batch_size': _some,
  'p50_ms': _ms,
  'p95_ms': _ms,
  'p99_ms': _ms,
  'p50_ci': _interval,
  'p95_ci': _interval,
  'p99_ci': _interval,
  'images_per_second': functools.partial(checks.real, above=0),
  'requests': _some,
  'compile_s': functools.partial(
    checks.optional, check=functools.partial(checks.real, least=0)
  ),
  'weight_bytes': _count,
  'temp_bytes': functools.partial(checks.optional, check=_count),
  'macs': _count,
  'params': _count,
  'error': functools.partial(checks.optional, check=checks.real),
  'backend': functools.partial(
    checks.optional,
    check=functools.partial(checks.choice, allowed=BACKENDS[:2]),
  ),
}


def _row(name: str, value: Any) -> Row:
  fields = checks.record(name, value, fields=_ROW, defaults={'backend': None})
  try:
    return Row(**fields)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from error


def _time(name: str, value: Any) -> str:
  value = _line(name, value)
  try:
    datetime.datetime.fromisoformat(value)
  except ValueError as error:
    raise ValueError(
      f'{name} must be a time in ISO 8601, got {checks.shown(value)}'
    ) from error
  return value


_TABLE: dict[str, checks.Check] = {
  'schema': functools.partial(checks.whole, least=1, most=SCHEMA),
  'rows': functools.partial(checks.listed, check=_row, least=1),
  'device': _line,
  'backend': functools.partial(checks.choice, allowed=BACKENDS),
  'measured': _time,
  'versions': functools.partial(checks.mapping, check=_line),
  'headline': parse_headline,
}


def _parse(content: Any) -> Table:
  if isinstance(content, Mapping) and content.get('schema') == 1:
    # Schema 1 had the title and the unit in one text.
    content = dict(content)
    words = _line('error_title', content.pop('error_title', 'error, %'))
    title, _, unit = words.rpartition(', ')
    headline = Headline(title, unit) if title else Headline(words, '')
    content['headline'] = dataclasses.asdict(headline)
  fields = checks.record('', content, fields=_TABLE, defaults={'versions': {}})
  del fields['schema']
  return Table(**fields)


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
