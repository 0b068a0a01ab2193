"""Timing of several implementations against each other, turn by turn.

A machine's speed drifts by tens of per cent within minutes, so that two
averages taken one after the other say little. Here every round times each
implementation once, in rotating order, and what is compared are the times of
one round.

Each implementation lives in a process of its own, which is told over a pipe to
run one part and says how long it took; all others sleep meanwhile. In one
process the thread pools of PyTorch (OpenMP) and XLA, the heap they share and
Python's collector would all have a say.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import gc
import math
import multiprocessing
import os
import pathlib
import statistics
import time
from typing import Any
from typing import NamedTuple


def _nothing() -> tuple:
  return ()


class Part(NamedTuple):
  """What is timed: `run(*before())`, of which `before` is not."""

  run: Callable[..., Any]
  before: Callable[[], tuple] = _nothing


Parts = Mapping[str, Part]

# Idle threads of a pool spin for some milliseconds before they sleep.
SETTLE_S = 0.02


class Run(NamedTuple):
  """Wall seconds of one call, averaged over some in a row.

  `foreign` is the CPU time that all other processes of the machine took during
  `span` seconds: a disturbed run can be told from a slow one.
  """

  seconds: float
  span: float
  foreign: float


def cores() -> int:
  """Returns the number of cores that this process may run on."""
  return len(os.sched_getaffinity(0))


def _busy_s() -> float:
  """Returns the CPU time all processes of the machine took so far."""
  stat = pathlib.Path('/proc/stat')
  if not stat.exists():
    return math.nan
  user, nice, system, _, _, irq, softirq, steal, *_ = map(
    int, stat.read_text().split('\n')[0].split()[1:]
  )
  ticks = user + nice + system + irq + softirq + steal
  return ticks / os.sysconf('SC_CLK_TCK')


def _time_part(part: Part, repeats: int) -> Run:
  busy, own = _busy_s(), time.process_time()
  begin, elapsed = time.perf_counter(), 0.0
  for _ in range(repeats):
    given = part.before()
    start = time.perf_counter()
    part.run(*given)
    elapsed += time.perf_counter() - start
  span = time.perf_counter() - begin
  own = time.process_time() - own
  return Run(elapsed / repeats, span, _busy_s() - busy - own)


def _serve(connection, factory, args):
  try:
    parts = factory(*args)
    connection.send(list(parts))
    gc.collect()
    gc.disable()
    while (request := connection.recv()) is not None:
      name, repeats = request
      connection.send(_time_part(parts[name], repeats))
  except Exception as error:
    connection.send(error)
    raise


class Worker:
  """The parts that `factory(*args)` returns, in a process of their own."""

  def __init__(self, factory: Callable[..., Parts], *args):
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, factory, args), daemon=True
    )
    self._process.start()
    theirs.close()
    self.parts = self._receive()

  def _receive(self):
    answer = self._connection.recv()
    if isinstance(answer, Exception):
      raise answer
    return answer

  def time(self, name: str, repeats: int = 1) -> Run:
    """Times the part `name`."""
    self._connection.send((name, repeats))
    return self._receive()

  def close(self) -> None:
    self._connection.send(None)
    self._process.join()


@dataclasses.dataclass(frozen=True)
class Spread:
  """Median, quartiles and the least of some values."""

  median: float
  low: float
  high: float
  least: float

  @classmethod
  def of(cls, values: list[float]) -> 'Spread':
    if len(values) == 1:
      return cls(*values * 4)
    low, median, high = statistics.quantiles(values, n=4, method='inclusive')
    return cls(median, low, high, min(values))

  def show(self, digits: int) -> str:
    """Returns 'median (lower quartile - upper quartile)'."""
    values = (self.median, self.low, self.high)
    return '{} ({} - {})'.format(*(f'{value:.{digits}f}' for value in values))


@dataclasses.dataclass(frozen=True)
class Timing:
  """One part.

  Attributes:
    part: its name.
    seconds: seconds of each round, by side.
    foreign: cores that other processes kept busy during the runs.
  """

  part: str
  seconds: dict[str, list[float]]
  foreign: float

  def ms(self, side: str) -> Spread:
    """Returns the milliseconds of a side."""
    return Spread.of([1e3 * value for value in self.seconds[side]])

  def ratio(self, side: str, base: str) -> Spread:
    """Returns a side's time over another's in the same round."""
    both = zip(self.seconds[side], self.seconds[base], strict=True)
    return Spread.of([value / other for value, other in both])

  def as_json(self, base: str) -> dict[str, Any]:
    """Returns the spreads, ratios to the side `base`."""
    return {
      'part': self.part,
      'ms': {side: dataclasses.asdict(self.ms(side)) for side in self.seconds},
      'ratio': {
        side: dataclasses.asdict(self.ratio(side, base))
        for side in self.seconds
        if side != base
      },
      'foreign': self.foreign,
    }


class SideBySide:
  """Times parts of the same names on several sides; a context manager."""

  def __init__(
    self,
    sides: Mapping[str, tuple[Callable[..., Parts], tuple]],
  ):
    self.workers = {
      label: Worker(factory, *args) for label, (factory, args) in sides.items()
    }

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for worker in self.workers.values():
      worker.close()

  @property
  def parts(self) -> list[str]:
    """All parts, those of the first side first."""
    every = [part for worker in self.workers.values() for part in worker.parts]
    return list(dict.fromkeys(every))

  def time(
    self, part: str, rounds: int, *, warmup: int = 2, run_s: float = 0.1
  ) -> Timing:
    """Times one part on the sides that have it.

    Args:
      part: its name.
      rounds: times that each side is timed.
      warmup: untimed runs before that; the first one compiles.
      run_s: a part shorter than this is repeated within a round.
    """
    workers = {k: v for k, v in self.workers.items() if part in v.parts}
    repeats = {}
    for label, worker in workers.items():
      worker.time(part, warmup)
      repeats[label] = max(1, round(run_s / worker.time(part).seconds))
    order = list(workers)
    runs: dict[str, list[Run]] = {label: [] for label in order}
    for _ in range(rounds):
      for label in order:
        time.sleep(SETTLE_S)
        runs[label].append(workers[label].time(part, repeats[label]))
      order.append(order.pop(0))
    every = [run for side in runs.values() for run in side]
    return Timing(
      part,
      {label: [run.seconds for run in runs[label]] for label in workers},
      sum(run.foreign for run in every) / sum(run.span for run in every),
    )
