"""Writes the metrics of a run: metrics.jsonl, TensorBoard events, averages."""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import errno
import json
import math
import os
from typing import Any

from etils import epath
import jax

from slimjax import files
from slimjax.tasks.base import Task
from slimjax.training import processes
from slimjax.training.events import Events
from slimjax.widths import label
from slimjax.widths import Width

METRICS = 'metrics.jsonl'
_ESSENTIAL = {'split', 'step', 'width'}
_MOST_SAID = 3
_SAFE = 'What was logged before, and every whole checkpoint, is safe'


class MetricsWriter:
  """Appends to WORKDIR/metrics.jsonl and to TensorBoard events.

  One JSON object per line: split, step, epoch, width, loss and the task's other
  metrics, and for training also learning_rate, gradient_norm,
  images_per_second, step_ms and input_wait, the share of time (percent) that
  the loop waited for images.
  """

  def __init__(
    self,
    workdir: epath.Path,
    *,
    first_step: int,
    enabled: bool = True,
    on_metrics: Callable[[dict[str, Any]], Any] | None = None,
  ):
    """Keeps what was written up to `first_step`, where the run resumes.

    A file that has lines when a run begins at zero, or lines that cannot be
    read, is kept aside as well; the attribute `said` has a line on each.

    Args:
      workdir: folder of the run.
      first_step: number of optimiser steps done before.
      enabled: whether this process writes (one of several does); default: yes.
      on_metrics: function called with every record that is written; default:
        none.
    """
    self._enabled = enabled
    self._on_metrics = on_metrics
    self.said: list[str] = []
    if not enabled:
      return
    self._path = workdir / METRICS
    records = read_metrics(workdir, self.said.append)
    kept = [r for r in records if r['step'] <= first_step]
    if self.said or (records and not first_step):
      old = files.unused(workdir / f'before-{METRICS}')
      files.write_bytes(old, files.read_bytes(self._path))
      self.said.append(f'{METRICS} as it was is kept in {old.name}')
    files.write_text(self._path, ''.join(json.dumps(r) + '\n' for r in kept))
    self._events = Events(workdir / 'tensorboard', first_step=first_step)
    if self._events.is_first:
      self._events.write(kept)
    with files.writing(self._path, _SAFE):
      self._file = self._path.open('a')

  def write(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the records to their files; `width` is a float or a tuple.

    Raises:
      WriteError: they could not be written, or the workdir is gone.
    """
    if not self._enabled:
      return
    self._events.write(records)
    with files.writing(self._path, _SAFE):
      if not self._path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
      self._file.write(''.join(json.dumps(r) + '\n' for r in records))
      self._file.flush()
    if self._on_metrics is not None:
      for record in records:
        self._on_metrics(dict(record))

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    # After an error, what cannot be written would only be told once again.
    safe = contextlib.suppress(OSError) if kind else contextlib.nullcontext()
    with safe:
      self.close()

  def close(self) -> None:
    """Closes the files, in which everything is."""
    if not self._enabled:
      return
    try:
      self._events.close()
    finally:
      with files.writing(self._path, _SAFE):
        self._file.close()


def read_metrics(
  workdir: epath.PathLike, say: Callable[[str], Any] = files.tell
) -> list[dict[str, Any]]:
  """Returns the records of a run, as far as they are whole.

  Args:
    workdir: folder of the run.
    say: function that is told of lines that are left out; default: on stderr. A
      last line that a kill cut short is not told.
  """
  path = files.expand(workdir, 'workdir') / METRICS
  try:
    lines, left_out = files.read_json_lines(path)
  except FileNotFoundError:
    return []
  records = []
  for number, line in lines:
    if isinstance(line, dict) and line.keys() >= _ESSENTIAL:
      records.append(line)
    else:
      left_out.append(f'{path}, line {number}: not a record of metrics')
  for text in left_out[:_MOST_SAID]:
    say(f'left out: {text}')
  if len(left_out) > _MOST_SAID:
    say(f'left out: {len(left_out) - _MOST_SAID} more lines of {path}')
  return records


class NonFiniteError(RuntimeError):
  """A loss or a gradient is infinite or not a number."""


class TrainLog:
  """Sums the training metrics since the last line of the log.

  They are read some steps late (`processes.run_ahead`), when the device is done
  with them, so that the loop does not wait. The sums are saved in the position
  of a checkpoint.
  """

  def __init__(
    self,
    task: Task,
    widths: Mapping[str, Width],
    *,
    record: Callable[[int], dict[str, Any] | None],
    last_good: Callable[[], int | None],
    state: Mapping[str, Any] | None = None,
  ):
    """Starts, or resumes, the sums.

    Args:
      task: task that summarises the sums.
      widths: {switch: width}, thinnest first.
      record: step -> the times in a line of that step, or None if no line is
        due.
      last_good: function that waits for the last checkpoint; returns its step.
      state: sums of a run that resumes, from `state`; default: none.
    """
    self._task = task
    self._widths = dict(widths)
    self._record = record
    self._last_good = last_good
    self._sums = {s: dict(m) for s, m in (state or {}).items()}
    self._pending: collections.deque[tuple[int, Any]] = collections.deque()

  def add(self, step: int, metrics: Any) -> list[dict[str, Any]]:
    """Takes the metrics of a step, and returns the lines that are due.

    Raises:
      NonFiniteError: the metrics of a step are not finite.
    """
    for array in jax.tree.leaves(metrics):
      array.copy_to_host_async()
    self._pending.append((step, metrics))
    return self.read(leave=processes.run_ahead())

  def read(self, *, leave: int = 0) -> list[dict[str, Any]]:
    """Waits for all steps but the last few, and returns the lines now due."""
    lines: list[dict[str, Any]] = []
    while len(self._pending) > leave:
      step, metrics = self._pending.popleft()
      lines += self._read(step, jax.tree.map(float, metrics))
    return lines

  def state(self) -> dict[str, Any]:
    """Returns the sums of the steps read, as JSON."""
    return {switch: dict(sums) for switch, sums in self._sums.items()}

  def _read(self, step: int, metrics: Any) -> list[dict[str, Any]]:
    self._check(step, metrics)
    for switch, sums in metrics['widths'].items():
      _add(self._sums.setdefault(switch, {}), sums)
    record = self._record(step)
    if record is None:
      return []
    widest = [*self._widths.values()][-1]  # beside which random ones are told
    extra = {f'random_{name}': value for name, value in self._random().items()}
    lines = [
      {
        'split': 'train',
        'step': step,
        'width': width,
        **self._task.summarise(self._sums[switch]),
        **(extra if width == widest else {}),
        'learning_rate': metrics['learning_rate'],
        'gradient_norm': metrics['gradient_norm'],
        **record,
      }
      for switch, width in self._widths.items()
      if switch in self._sums
    ]
    self._sums = {}
    return lines

  def _random(self) -> dict[str, float]:
    """Returns the summary of all random widths together, if there are any."""
    total: dict[str, Any] = {}
    for switch, sums in self._sums.items():
      if switch not in self._widths:
        _add(total, sums)
    return self._task.summarise(total) if total else {}

  def _check(self, step: int, metrics: Any) -> None:
    name = lambda switch: (
      f'width {label(self._widths[switch])}'
      if switch in self._widths
      else 'a random width'
    )
    bad = [
      f'the loss of {name(switch)} is {sums["loss"][0]}'
      for switch, sums in metrics['widths'].items()
      if not math.isfinite(sums['loss'][0])
    ]
    if not bad and not math.isfinite(metrics['gradient_norm']):
      bad = [f'the gradient norm is {metrics["gradient_norm"]}']
    if bad:
      raise NonFiniteError(
        f'step {step}: {", ".join(bad)}; the last good checkpoint is of step'
        f' {self._last_good()}. Lower the learning rate, or clip the gradient'
        ' (config.optimizer.clip_norm)'
      )


def _add(total: dict[str, Any], sums: Mapping[str, Any]) -> None:
  """Adds sums and counts to those of `total`."""
  for name, (value, count) in sums.items():
    old = total.get(name, (0.0, 0.0))
    total[name] = (old[0] + value, old[1] + count)
