"""Shows a run while it trains: lines or a bar, times, a profile."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import sys
import time
from typing import Any

from etils import epath
import jax
import rich.console
import rich.progress
import rich.table

from slimjax import units
from slimjax.configuration import Run
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.tasks.base import image_size
from slimjax.tasks.base import Metric
from slimjax.tasks.base import Task
from slimjax.training.devices import peak_tflops
from slimjax.training.plans import WidthPlan
from slimjax.variables.profile import profile_model
from slimjax.widths import label
from slimjax.widths import switch_name


class Progress:
  """Shows a bar on a terminal, plain lines elsewhere; nothing if disabled."""

  def __init__(
    self,
    total_steps: int,
    first_step: int,
    *,
    headline: Metric,
    enabled: bool = True,
  ):
    """Shows the steps done before.

    Args:
      total_steps: number of steps of the run.
      first_step: number of optimiser steps done before.
      headline: the metric that lines show beside the loss.
      enabled: whether this process shows anything; default: yes.
    """
    self._total = total_steps
    self._headline = headline
    self._enabled = enabled
    self._bar = None
    if enabled and sys.stdout.isatty():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('step {task.completed}/{task.total}'),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn('{task.description}'),
      )
      self._task = self._bar.add_task(
        'compiling', total=total_steps, completed=first_step
      )
      self._bar.start()

  def step(self, step: int) -> None:
    if self._bar is not None:
      self._bar.update(self._task, completed=step)

  def line(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Shows one record per width, of one step and split."""
    first, headline = records[0], self._headline
    shown: dict[str, tuple[Callable[[float], str], str]] = {
      'loss': ('{:.3f}'.format, 'loss'),
      headline.name: (headline.text, headline.title),
    }
    shown = {name: how for name, how in shown.items() if name in first}
    text = '  '.join(
      ' '.join(
        [switch_name(record['width'])]
        + [write(record[name]) for name, (write, _) in shown.items()]
      )
      for record in records
    )
    titles = ', '.join(title for _, title in shown.values())
    if 'images_per_second' in first:
      text = (
        f'{first["images_per_second"]:.0f} img/s  {first["step_ms"]:.0f} ms'
        f'  lr {first["learning_rate"]:.4f}  {titles}: {text}'
      )
      if self._bar is not None:
        self._bar.update(self._task, description=text)
        return
    head = f'{first["split"]:<10} step {first["step"]}/{self._total}'
    self.say(f'{head}  epoch {first["epoch"]:.1f}  {text}')

  def say(self, text: str) -> None:
    if self._bar is not None:
      self._bar.console.print(text, highlight=False)
    elif self._enabled:
      print(text, flush=True)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


class Clock:
  """Measures the time per step, without pauses (evaluation, saving)."""

  def __init__(self, step: int, waited: Callable[[], float]):
    """Starts at a step; `start` starts the time.

    Args:
      step: number of steps done before.
      waited: function that returns the seconds waited for images so far.
    """
    self._waited = waited
    self._step, self._first = step, step
    self._last = (0.0, 0.0)  # seconds run and waited, at the last reading
    self._began: float | None = None
    self._paused = 0.0
    self._waited_before = 0.0

  def start(self) -> None:
    """Starts the clock."""
    self._began = time.perf_counter()
    self._waited_before = self._waited()

  @contextlib.contextmanager
  def paused(self):
    """Leaves out the time spent inside the context."""
    before = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - before

  def _now(self) -> tuple[float, float]:
    if self._began is None:
      raise ValueError('the clock was not started')
    running = time.perf_counter() - self._began - self._paused
    return running, self._waited() - self._waited_before

  def read(self, step: int, batch_size: int) -> dict[str, float]:
    """Returns the times in a line of metrics, since the line before."""
    now = self._now()
    seconds, waited = (a - b for a, b in zip(now, self._last, strict=True))
    per_step = seconds / max(step - self._step, 1)
    self._step, self._last = step, now
    return {
      'images_per_second': batch_size / per_step,
      'step_ms': 1000.0 * per_step,
      'input_wait': 100.0 * waited / seconds,
    }

  def summary(
    self, batch_size: int, macs: int, devices: Sequence[jax.Device]
  ) -> list[str]:
    """Returns the lines that end a run's output.

    Args:
      batch_size: images in a step.
      macs: multiply-accumulates of one image, forward, all widths together.
      devices: devices that shared the work.
    """
    seconds, waited = self._now()
    images = batch_size * (self._step - self._first) / seconds
    # A multiply-accumulate is two operations; backward has twice the products.
    tflops = images * macs * 6 / 1e12 / len(devices)
    peak = peak_tflops(devices[0])
    kind = devices[0].device_kind
    used = (
      f'the peak of {kind!r} is not in slimjax/training/devices.py, so that'
      ' their utilisation is not known'
      if peak is None
      else f'a model FLOPs utilisation of {100 * tflops / peak:.1f} % of the'
      f' {peak:.0f} TFLOP/s of {kind}'
    )
    return [
      f'{images:.0f} images/s in {seconds:.0f} s of training, of which'
      f' {100 * waited / seconds:.1f} % waited for input',
      f'{tflops:.4g} TFLOP/s for each of {len(devices)} devices; {used}',
    ]


class Trace:
  """Profiles a few steps, for TensorBoard or XProf."""

  def __init__(self, folder: epath.Path, first_step: int, steps: int):
    """Plans the steps to trace.

    Args:
      folder: folder to write to.
      first_step: number of steps done before; tracing begins two steps later.
      steps: number of steps to trace; 0 writes nothing.
    """
    self._folder = folder
    self._begin = first_step + 3 if steps else None
    self._end = first_step + 3 + steps
    self._running = False

  def before(self, step: int, *, wait: Callable[[], Any]) -> None:
    """Starts or stops before a step; `wait` lets the device finish first."""
    if step == self._begin:
      wait()
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif step == self._end and self._running:
      wait()
      self.end()

  def end(self) -> None:
    """Stops early, if the run does."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


def say_plan(
  run: Run,
  dataset: Dataset,
  task: Task,
  model: SlimNet,
  plan: WidthPlan,
  steps_per_epoch: int,
) -> None:
  """Prints what will be trained: data, steps, and the cost of every width."""
  for line in (dataset.describe(), *dataset.notes):
    print(line, flush=True)
  examples = len(dataset.splits['train'])
  images = steps_per_epoch * run.batch_size
  total = run.epochs * steps_per_epoch
  print(
    f'{run.epochs} epochs of {steps_per_epoch} steps of {run.batch_size}'
    f' images: {total:,} steps, {total * run.batch_size / examples:.1f} passes'
    f' over the training images'
    + (
      ''
      if images == examples
      else f' (an epoch leaves the last {examples - images} to the next)'
    ),
    flush=True,
  )
  table = rich.table.Table(title=run.model['name'], box=None, pad_edge=False)
  for name in ('width', 'MACs', 'parameters'):
    table.add_column(name, justify='right')
  size = image_size(task, dataset)
  for width in plan.widths[::-1]:
    profile = profile_model(model, width=width, image_size=size)
    table.add_row(
      label(width),
      units.count(profile.macs),
      units.count(profile.params),
    )
  rich.console.Console().print(table)
