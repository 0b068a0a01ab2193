"""What a run tells: metrics files, lines or a bar, a table and a plot."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import sys
import time
from typing import Any

from etils import epath
import rich.console
import rich.progress
import rich.table

from slimjax.profile import Profile
from slimjax.widths import switch_name
from slimjax.widths import Width

METRICS = 'metrics.jsonl'


class MetricsWriter:
  """Appends to WORKDIR/metrics.jsonl and to TensorBoard events.

  One JSON object a line: split, step, epoch, width, loss, top1_error,
  top5_error (percent), and for training also learning_rate, gradient_norm,
  images_per_second and step_ms.
  """

  def __init__(self, workdir: epath.Path, *, first_step: int):
    """Keeps what was written up to `first_step`, where the run goes on."""
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

  def close(self) -> None:
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
  """A live bar on a terminal, plain lines elsewhere."""

  def __init__(self, total_steps: int, first_step: int):
    self._total = total_steps
    self._bar = None
    if sys.stdout.isatty():
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
    else:
      print(text, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()


class Clock:
  """Seconds per step of the steps since the last reading."""

  def __init__(self, step: int):
    self._step, self._time = step, time.perf_counter()

  def read(self, step: int) -> float:
    now = time.perf_counter()
    seconds = (now - self._time) / max(step - self._step, 1)
    self._step, self._time = step, now
    return seconds

  def skip(self) -> None:
    """Leaves out the time since the last reading (evaluation, saving)."""
    self._time = time.perf_counter()


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
