"""What a run tells: metrics files, lines or a bar, a table and a plot."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import sys
import time
from typing import Any

from etils import epath
import jax
import rich.console
import rich.progress
import rich.table

from slimjax.devices import peak_tflops
from slimjax.profile import Profile
from slimjax.widths import switch_name
from slimjax.widths import Width

METRICS = 'metrics.jsonl'


class MetricsWriter:
  """Appends to WORKDIR/metrics.jsonl and to TensorBoard events.

  One JSON object a line: split, step, epoch, width, loss, top1_error,
  top5_error (percent), and for training also learning_rate, gradient_norm,
  images_per_second, step_ms and input_wait, the share of time (percent) that
  the loop waited for images.
  """

  def __init__(
    self, workdir: epath.Path, *, first_step: int, enabled: bool = True
  ):
    """Keeps what was written up to `first_step`, where the run goes on.

    Writes nothing if not `enabled`: of several processes, one writes.
    """
    self._enabled = enabled
    if not enabled:
      return
    from tensorboardX import SummaryWriter

    path = workdir / METRICS
    kept = [r for r in read_metrics(workdir) if r['step'] <= first_step]
    draft = path.with_name(METRICS + '.draft')
    draft.write_text(''.join(json.dumps(record) + '\n' for record in kept))
    draft.replace(path)
    self._file = path.open('a')
    self._events = SummaryWriter(
      str(workdir / 'tensorboard'),
      purge_step=first_step + 1,
      write_to_disk=True,
    )

  def write(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes and flushes the records; `width` is a float or a tuple."""
    if not self._enabled:
      return
    for record in records:
      self._file.write(json.dumps(record) + '\n')
      switch = switch_name(record['width'])
      for name, value in record.items():
        if name not in ('split', 'step', 'width'):
          self._events.add_scalar(
            f'{record["split"]}/{name}/{switch}', value, record['step']
          )
    self._file.flush()
    self._events.flush()

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def close(self) -> None:
    if self._enabled:
      self._file.close()
      self._events.close()


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
  """The records of a run; a last line cut short by a kill is left out."""
  path = workdir / METRICS
  if not path.exists():
    return []
  records = []
  for line in path.read_text().splitlines(keepends=True):
    if line.endswith('\n'):
      records.append(json.loads(line))
  return records


class Progress:
  """A live bar on a terminal, plain lines elsewhere; nothing if not enabled."""

  def __init__(
    self, total_steps: int, first_step: int, *, enabled: bool = True
  ):
    self._total = total_steps
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
    """Shows one record a width, of one step and split."""
    first = records[0]
    text = '  '.join(
      f'{switch_name(r["width"])} {r["loss"]:.3f} {r["top1_error"]:.1f}%'
      for r in records
    )
    if 'images_per_second' in first:
      text = (
        f'{first["images_per_second"]:.0f} img/s  {first["step_ms"]:.0f} ms'
        f'  lr {first["learning_rate"]:.4f}  loss, error: {text}'
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
  """Time per step, without what is paused (evaluation, saving)."""

  def __init__(self, step: int, waited: Callable[[], float]):
    """
    Args:
      step: before the first one.
      waited: seconds that the loop has waited for images so far.
    """
    self._waited = waited
    self._step, self._first = step, step
    self._last = (0.0, 0.0)  # running and waiting, at the last reading
    self._began: float | None = None
    self._paused = 0.0
    self._waited_before = 0.0

  def start(self) -> None:
    """Counts from here."""
    self._began = time.perf_counter()
    self._waited_before = self._waited()

  @contextlib.contextmanager
  def paused(self):
    """Leaves out what is done within."""
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
    """What a line of metrics says of the time since the last reading."""
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
    """Lines for the end of a run.

    Args:
      batch_size: images in a step.
      macs: multiply-accumulates of an image, forward, all widths together.
      devices: that shared the work.
    """
    seconds, waited = self._now()
    images = batch_size * (self._step - self._first) / seconds
    # Two operations a multiply-accumulate; backward is two products for one.
    tflops = images * macs * 6 / 1e12 / len(devices)
    peak = peak_tflops(devices[0])
    kind = devices[0].device_kind
    used = (
      f'the peak of {kind!r} is not in slimjax/devices.py, so that their'
      ' utilisation is not known'
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
  """A profile of a few steps, for TensorBoard or XProf."""

  def __init__(self, folder: epath.Path, first_step: int, steps: int):
    """
    Args:
      folder: to write to.
      first_step: steps done before; tracing begins two after.
      steps: how many; 0 writes nothing.
    """
    self._folder = folder
    self._begin = first_step + 3 if steps else None
    self._end = first_step + 3 + steps
    self._running = False

  def before(self, step: int, *, wait: Callable[[], Any]) -> None:
    """Starts or ends before a step; `wait` lets the device finish first."""
    if step == self._begin:
      wait()
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif step == self._end and self._running:
      wait()
      self.end()

  def end(self) -> None:
    """Ends early, if the run does."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


@dataclasses.dataclass(frozen=True)
class Row:
  """A width in the table at the end of a run."""

  width: Width
  profile: Profile
  top1_error: float
  top5_error: float
  examples: int


def print_table(rows: Sequence[Row], title: str) -> None:
  """Prints one line a width: errors in percent, MACs, parameters."""
  table = rich.table.Table(title=title)
  for name in ('width', 'top-1 error', 'top-5 error', 'MACs', 'parameters'):
    table.add_column(name, justify='right')
  for row in rows:
    width = (
      row.width if isinstance(row.width, float) else switch_name(row.width)
    )
    table.add_row(
      str(width),
      f'{row.top1_error:.2f} %',
      f'{row.top5_error:.2f} %',
      f'{row.profile.macs / 1e6:.2f} M',
      f'{row.profile.params / 1e6:.3f} M',
    )
  rich.console.Console().print(table)


def plot_errors(rows: Sequence[Row], path: epath.Path, title: str) -> None:
  """Saves top-1 error against MACs, one point a width, as PNG."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = sorted(rows, key=lambda row: row.profile.macs)
  macs = [row.profile.macs / 1e6 for row in rows]
  errors = [row.top1_error for row in rows]
  figure = Figure(figsize=(6, 4), dpi=150, layout='constrained')
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  axes.plot(macs, errors, marker='o', color='#1f5fa8')
  for row, x, y in zip(rows, macs, errors, strict=True):
    width = (
      row.width if isinstance(row.width, float) else switch_name(row.width)
    )
    axes.annotate(
      f'{width}x', (x, y), xytext=(6, 6), textcoords='offset points'
    )
  axes.set(
    xlabel='million multiply-accumulates',
    ylabel='top-1 error, %',
    title=title,
    ylim=(0, max(errors) * 1.25 + 0.1),
  )
  axes.margins(x=0.12)
  axes.grid(alpha=0.3)
  draft = path.with_name(path.name + '.draft')
  with draft.open('wb') as file:
    figure.savefig(file, format='png')
  draft.replace(path)
