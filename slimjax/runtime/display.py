"""Shows a benchmark: a table on the terminal, and a plot."""

import os
from typing import Any

from slimjax import plots
from slimjax import units
from slimjax.runtime.table import Row
from slimjax.runtime.table import Table
from slimjax.widths import label


def print_table(table: Table, console: Any) -> None:
  """Prints one line per width and batch size.

  Args:
    table: table of `slimjax.runtime.measure`.
    console: a `rich.console.Console`.
  """
  import rich.table

  shown = rich.table.Table(
    title=f'{table.backend} on {table.device}',
    caption='* dominated: another width is as good and faster',
    box=None,
    padding=(0, 1, 0, 0),
    pad_edge=False,
  )
  for name in (
    '\nwidth',
    '\nbatch',
    'p50\nms',
    'p95\nms',
    'of p95\n95 % CI',
    'p99\nms',
    '\nimg/s',
    'build\ns',
    'wts.\nB',
    'peak\nB',
    '\nMACs',
    f'{table.headline.title}\n{table.headline.unit}',
  ):
    shown.add_column(name, justify='right', no_wrap=True)

  def known(value, scale, digits):
    return '?' if value is None else f'{value / scale:.{digits}f}'

  def in_units(value):
    # The space is left out: the line is full.
    return '?' if value is None else units.count(value).replace(' ', '')

  for row in table.rows:
    shown.add_row(
      label(row.width),
      str(row.batch_size),
      f'{row.p50_ms:.2f}',
      f'{row.p95_ms:.2f}',
      f'{row.p95_ci[0]:.2f}-{row.p95_ci[1]:.2f}',
      f'{row.p99_ms:.2f}',
      f'{row.images_per_second:.0f}',
      known(row.compile_s, 1, 1),
      in_units(row.weight_bytes),
      in_units(row.peak_bytes),
      in_units(row.macs),
      _score(table, row) + ('*' if table.dominated(row) else ''),
    )
  console.print(shown)
  if table.backend == 'auto':
    rows = [
      f'{label(row.width)} at {row.batch_size}'
      for row in table.rows
      if row.backend == 'onnxruntime'
    ]
    console.print(
      f'faster by ONNX Runtime: {", ".join(rows) or "none"}', highlight=False
    )


def _score(table: Table, row: Row) -> str:
  if row.error is None:
    return '?'
  return units.digits(table.headline.score(row.error), table.headline.unit)


def plot(table: Table, path: str | os.PathLike, title: str) -> None:
  """Saves the metric (or MACs, if it is unknown) against latency, as PNG.

  Bars reach to the 95th percentile; dominated widths are crosses, off the line.

  Args:
    table: table of `slimjax.runtime.measure`.
    path: path of the file, with the suffix .png.
    title: name of the network.
  """
  figure = plots.figure((6.5, 4.2))
  axes = figure.add_subplot()
  measured = all(row.error is not None for row in table.rows)
  for index, batch_size in enumerate(table.batch_sizes):
    rows = sorted(table.of_batch(batch_size), key=lambda row: row.p50_ms)
    heights = [
      row.macs / 1e6
      if row.error is None or not measured
      else table.headline.score(row.error)
      for row in rows
    ]
    color = f'C{index}'
    worthwhile = [
      (row.p50_ms, height)
      for row, height in zip(rows, heights, strict=True)
      if not table.dominated(row)
    ]
    axes.plot(
      *zip(*worthwhile, strict=True),
      color=color,
      alpha=0.4,
      label=f'batch {batch_size}',
    )
    for row, height in zip(rows, heights, strict=True):
      axes.errorbar(
        row.p50_ms,
        height,
        xerr=[[0.0], [max(row.p95_ms - row.p50_ms, 0.0)]],
        fmt='x' if table.dominated(row) else 'o',
        color=color,
        capsize=2,
        elinewidth=0.8,
      )
      axes.annotate(
        label(row.width),
        (row.p50_ms, height),
        xytext=(4, 5),
        textcoords='offset points',
        fontsize=8,
      )
  axes.set(
    xlabel='latency of a request, ms (median; bar to the 95th percentile)',
    ylabel=table.headline.axis if measured else 'million multiply-accumulates',
    title=f'{title}: {table.backend} on {table.device}',
  )
  axes.title.set_fontsize(9)
  axes.set_ylim(bottom=0)
  axes.margins(x=0.1)
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)
  plots.save(figure, path)
