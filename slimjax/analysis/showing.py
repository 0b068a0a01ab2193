"""Prints runs beside the published rows of their configurations."""

from collections.abc import Sequence

import rich.console
import rich.table

from slimjax import units
from slimjax.analysis.compare import Comparison
from slimjax.analysis.compare import Line
from slimjax.widths import label


def show(comparison: Comparison, console: rich.console.Console) -> None:
  """Prints what a run is, whether it can be compared, and a line per width.

  Args:
    comparison: comparison that `compare` returns.
    console: console to print to.
  """
  entry, row = comparison.entry, comparison.row
  config = entry.config
  name = f'{config["model"]["name"]} on {config["data"]["name"]}'
  say(console, f'\n{name}: {", ".join(entry.workdirs)}', style='bold')
  seeds = ', '.join(map(str, entry.seeds))
  say(
    console,
    f'{config["epochs"]} epochs; {"seed" if len(entry.seeds) == 1 else "seeds"}'
    f' {seeds}; {entry.examples} examples scored at each width',
  )
  if row is not None:
    say(
      console,
      f'published: {row.title}, {row.measured}, {row.source}',
    )
  if comparison.reasons:
    say(console, 'not comparable:')
    for reason in comparison.reasons:
      say(console, f'  {reason}')
  console.print(_table(comparison.lines, entry.headline, entry.unit))
  for score in comparison.scores:
    difference = _text(score.difference, '+.2f')
    say(
      console,
      f'{score.name} at {label(score.width)}: {score.score:.2f}, published'
      f' {score.published}, difference {difference}',
    )
  total = (
    f'all widths together: {comparison.total_params / 1e6:.1f} M parameters'
  )
  if row is not None and comparison.same_total is not None:
    total += f', published {row.total_params} M'
  say(console, total)
  if comparison.wrong_counts:
    wrong = ', '.join(comparison.wrong_counts)
    say(console, f'not the published network: {wrong}', style='red')


def say(
  console: rich.console.Console, text: str, style: str | None = None
) -> None:
  """Prints a text as it is: no markup, no highlighting, no wrapping."""
  console.print(
    text, highlight=False, markup=False, soft_wrap=True, style=style
  )


def _table(lines: Sequence[Line], headline: str, unit: str) -> rich.table.Table:
  table = rich.table.Table()
  for column in (
    'width', headline, 'published', 'difference', 'MACs', 'conv and fc',
  ):  # fmt: skip
    table.add_column(column, justify='right')
  for line in lines:
    deviation = (
      ''
      if line.deviation is None
      else f' ± {units.digits(line.deviation, unit)}'
    )
    table.add_row(
      label(line.width),
      f'{units.digits(line.error, unit)}{deviation} {unit}'.rstrip(),
      _text(line.published_error, '.1f', f' {unit}'),
      _text(line.difference, '+.2f'),
      _counts(line.macs, line.published_macs, '.0f', line.same_counts),
      _counts(line.params, line.published_params, '.1f', line.same_counts),
    )
  return table


def _counts(
  ours: int, printed: float | None, form: str, same: bool | None
) -> str:
  text = f'{ours / 1e6:.2f} M'
  if same is None:
    return text
  return f'{text} {"=" if same else "≠"} {printed:{form}} M'


def _text(number: float | None, form: str, unit: str = '') -> str:
  return '-' if number is None else f'{number:{form}}{unit}'
