"""Chooses the width of each request: `slimjax.runtime.Controller`."""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import math
import threading
import time

from slimjax import checks
from slimjax.runtime.headline import Headline
from slimjax.runtime.table import candidates
from slimjax.runtime.table import Row
from slimjax.runtime.table import Table
from slimjax.widths import canonical
from slimjax.widths import label
from slimjax.widths import Width

# The most requests that the present speed is estimated from, and the seconds
# after which a request no longer counts.
_WINDOW = 32
_STALE_S = 10.0
# Requests at a width before a wider one is tried.
_SETTLE = 12
# A wider width is tried when it is expected to take at most this share of the
# budget.
_HEADROOM = 0.9
# Misses, less the hits that excuse them, at which a thinner width is taken.
_PATIENCE = 2.5
# Seconds for which a width that failed is not tried again: the first time, and
# the longest.
_BACKOFF_S = (1.0, 60.0)
# A width that failed is tried earlier once requests take less than this share
# of what they took right after: the load it failed under has gone.
_RELIEF = 0.75


@dataclasses.dataclass
class _Trial:
  """How a width fared when it was tried.

  Attributes:
    backoff_s: seconds for which it is left alone if it fails again; default:
      the first of `_BACKOFF_S`.
    not_before: time of the clock at which it may be tried again; default: any.
    slowdown: median ratio of measured latency to the table's at the thinner
      width taken instead, right after; default: 0.
  """

  backoff_s: float = _BACKOFF_S[0]
  not_before: float = -math.inf
  slowdown: float = 0.0


class Controller:
  """Picks the best width whose latency stays within a budget, as load changes.

  ```
  width = controller.pick()
  ...                               # answer a request at this width, timed
  controller.observe(latency_ms)
  ```

  It starts from what was measured (`Table`). A device that is busy or hot takes
  longer: the median of the last requests beside the table's says how many times
  as long, their tail what comes on top, and both are expected of the other
  widths too. A width that misses the budget more often than `quantile` allows
  is left for the widest thinner one that is expected to hold it. A wider one
  is taken when it is expected to hold the budget with room to spare; if it
  fails, it is left alone for twice as long as the last time, or until the
  device is clearly faster than it was then.

  Any number of threads may share one: it takes note of one request at a time,
  behind a lock, and requests that wait for each other on one device are one
  load. Requests of another kind (another batch size, another device) have a
  controller of their own. With several threads, say the width of a request to
  `observe`: the pick may have changed since.
  """

  def __init__(
    self,
    table: Table | Sequence[Row],
    *,
    budget_ms: float,
    quantile: float = 0.95,
    memory_mb: float | None = None,
    min_accuracy: float | None = None,
    batch_size: int = 1,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts at the best width that holds the budget in the table.

    Args:
      table: table of `slimjax.benchmark`, or rows of one batch size.
      budget_ms: the longest that a request should take, ms.
      quantile: share of the requests that should be within the budget; default:
        0.95.
      memory_mb: the most that the prepared weights and the peak temporary
        memory of the width in use may take; default: no limit.
      min_accuracy: the least accuracy, percent (100 - error), that is taken,
        even if no such width holds the budget; for tables whose errors are in
        percent. Default: none.
      batch_size: number of images in a request; default: 1.
      clock: function that gives the time in seconds; default: a monotonic one.

    Raises:
      ValueError: an argument is out of range, or the table lacks what a
        constraint needs.
    """
    checks.real('budget_ms', budget_ms, above=0)
    checks.real('quantile', quantile, least=0.5, below=1)
    self._headline = Headline()
    if isinstance(table, Table):
      self._headline = table.headline
      table = table.of_batch(batch_size)
    if not table:
      raise ValueError('the table has no rows; slimjax.benchmark measures them')
    self.budget_ms = budget_ms
    self.quantile = quantile
    self._clock = clock
    self._lock = threading.Lock()
    self._notes: list[str] = []
    allowed = self._within_memory(list(table), memory_mb)
    allowed = self._accurate(allowed, min_accuracy)
    # The fastest is first; what is dominated is never taken.
    self._rows = candidates(allowed)
    self._index = self._best_of_table()
    self._ratios: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
    self._strikes = 0.0
    self._since = 0  # requests at this width
    self._trials = [_Trial() for _ in self._rows]
    # Whether this width was stepped up to, and has yet to prove itself.
    self._tried = False
    # The trial of the width that was just left, if it was one.
    self._failed: _Trial | None = None

  def _within_memory(self, rows, memory_mb):
    if memory_mb is None:
      return rows
    checks.real('memory_mb', memory_mb, above=0)
    unknown = _labels(row for row in rows if row.peak_bytes is None)
    if unknown:
      raise ValueError(
        f'memory_mb is given, but the table has no peak memory of {unknown}'
        " (onnxruntime does not tell it; the backend 'jax' does)"
      )
    fitting = [row for row in rows if row.peak_bytes <= 1e6 * memory_mb]
    if not fitting:
      fitting = [min(rows, key=lambda row: row.peak_bytes)]
      self._notes.append(
        f'no width fits into {memory_mb:g} MB; the smallest,'
        f' {label(fitting[0].width)}, takes'
        f' {fitting[0].peak_bytes / 1e6:.1f} MB'
      )
    return fitting

  def _accurate(self, rows, min_accuracy):
    if min_accuracy is None:
      return rows
    checks.real('min_accuracy, in percent,', min_accuracy, least=0, most=100)
    if (self._headline.unit, self._headline.direction) != ('%', 'min'):
      raise ValueError(
        f'min_accuracy is 100 - error, but the table has {self._headline.axis}:'
        ' give only the rows that are good enough, [row for row in'
        ' table.of_batch(1) if table.headline.score(row.error) ...]'
      )
    unknown = _labels(row for row in rows if row.error is None)
    if unknown:
      raise ValueError(
        f'min_accuracy is given, but the table has no errors of {unknown}'
      )
    fitting = [row for row in rows if 100 - row.error >= min_accuracy]
    if not fitting:
      fitting = [min(rows, key=lambda row: row.error)]
      self._notes.append(
        f'no width that is left is right {min_accuracy:g} % of the time; the'
        f' best, {label(fitting[0].width)}, is {100 - fitting[0].error:.2f} %'
      )
    return fitting

  def _best_of_table(self) -> int:
    fitting = [
      i
      for i, row in enumerate(self._rows)
      if row.quantile_ms(self.quantile) <= self.budget_ms
    ]
    return max(fitting, default=0)

  @property
  def widths(self) -> tuple[Width, ...]:
    """Returns the widths that may be picked, fastest first."""
    return tuple(row.width for row in self._rows)

  def pick(self) -> Width:
    """Returns the width for the next request."""
    return self._rows[self._index].width

  def observe(self, latency_ms: float, width: Width | None = None) -> None:
    """Takes note of how long a request took.

    Args:
      latency_ms: latency of a request at the width picked last.
      width: width it was answered at; default: the one picked last. A request
        of another width, under way when the pick changed, is left out.

    Raises:
      ValueError: the latency is not a positive number.
    """
    checks.real('latency_ms', latency_ms, above=0)
    width = None if width is None else canonical(width)
    with self._lock:
      if width is None or width == self._rows[self._index].width:
        self._take(latency_ms)

  def _take(self, latency_ms: float) -> None:
    """Takes note of a request of this width, under the lock."""
    now = self._clock()
    row = self._rows[self._index]
    self._forget(now)
    self._ratios.append((now, latency_ms / row.p50_ms))
    self._since += 1
    if latency_ms > self.budget_ms:
      self._strikes += 1
    else:
      # Where just as many miss as may, strikes and excuses balance.
      excuse = (1 - self.quantile) / self.quantile
      self._strikes = max(0.0, self._strikes - excuse)
    if self._since == _SETTLE and self._failed is not None:
      self._failed.slowdown, _ = self._slowdown(_SETTLE)
      self._failed = None
    if self._strikes >= _PATIENCE:
      self._step_down(now)
    elif self._since >= _SETTLE and self._strikes < 1:
      if self._tried and self._since >= 2 * _WINDOW:
        self._tried = False
        trial = self._trials[self._index]
        trial.backoff_s = max(trial.backoff_s / 2, _BACKOFF_S[0])
      self._step_up(now)

  def _forget(self, now):
    while self._ratios and now - self._ratios[0][0] > _STALE_S:
      self._ratios.popleft()

  def _slowdown(self, last: int) -> tuple[float, float]:
    """Returns the median ratio of the last requests, and the tail's excess."""
    ratios = sorted(ratio for _, ratio in list(self._ratios)[-last:])
    if not ratios:
      return 1.0, 0.0
    median = ratios[(len(ratios) - 1) // 2]
    tail = ratios[math.ceil(self.quantile * len(ratios)) - 1]
    return median, tail - median

  def _expected_ms(self, index: int) -> float:
    """Returns a width's latency at the quantile if the load stays."""
    median, tail = self._slowdown(_WINDOW)
    here, there = self._rows[self._index], self._rows[index]
    if not self._ratios:
      return there.quantile_ms(self.quantile)
    # A slow device is slower in proportion; an interruption lasts as long.
    return there.p50_ms * median + here.p50_ms * tail

  def _step_down(self, now):
    if self._index == 0:
      self._strikes = _PATIENCE  # no more: there is nothing to flee to
      return
    failed = None
    if self._tried:
      failed = self._trials[self._index]
      failed.not_before = now + failed.backoff_s
      failed.backoff_s = min(2 * failed.backoff_s, _BACKOFF_S[1])
      failed.slowdown = 0.0
    # The slowdown now, not over the window: the load has just changed.
    median, _ = self._slowdown(5)
    fitting = [
      i
      for i in range(self._index)
      if self._rows[i].p50_ms * median <= _HEADROOM * self.budget_ms
    ]
    self._go(max(fitting, default=0), tried=False)
    self._failed = failed

  def _step_up(self, now):
    slowdown, _ = self._slowdown(_WINDOW)
    fitting = [
      i
      for i in range(self._index + 1, len(self._rows))
      if self._may_try(self._trials[i], now, slowdown)
      and self._expected_ms(i) <= _HEADROOM * self.budget_ms
    ]
    if fitting:
      self._go(max(fitting), tried=True)

  def _may_try(self, trial, now, slowdown):
    return now >= trial.not_before or slowdown < _RELIEF * trial.slowdown

  def _go(self, index, *, tried):
    # The ratios stay: they are of the device, not of the width.
    self._index = index
    self._strikes = 0.0
    self._since = 0
    self._tried = tried

  def explain(self) -> str:
    """Returns why the width is what it is, one line per width."""
    with self._lock:
      return self._explain()

  def _explain(self) -> str:
    self._forget(self._clock())
    median, _ = self._slowdown(_WINDOW)
    lines = [
      f'{100 * self.quantile:g} % of requests within {self.budget_ms:g} ms; the'
      f' device takes {median:.2f} times what the table says'
      f' ({len(self._ratios)} requests)',
      *self._notes,
    ]
    expected = [self._expected_ms(i) for i in range(len(self._rows))]
    if min(expected) > self.budget_ms:
      lines.append('no width meets the budget; the fastest is the least bad')
    for i, (row, ms) in enumerate(zip(self._rows, expected, strict=True)):
      error = ''
      if row.error is not None:
        error = f', {self._headline.text(row.error)}'
      wait = self._trials[i].not_before - self._clock()
      note = f', failed: not for {wait:.1f} s' if wait > 0 else ''
      mark = '->' if i == self._index else '  '
      lines.append(
        f'{mark} {label(row.width)}: {ms:.2f} ms expected{error}{note}'
      )
    return '\n'.join(lines)


def _labels(rows: Iterable[Row]) -> str:
  """Returns what the first widths are called, and how many more there are."""
  names = [label(row.width) for row in rows]
  shown, more = names[:4], len(names) - 4
  return ', '.join(shown) + (f' and {more} more' if more > 0 else '')
