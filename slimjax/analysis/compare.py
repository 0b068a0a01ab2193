"""Compares finished runs with the published rows of their configurations.

Runs that differ in nothing but the seed are one entry: the mean of their errors
and its standard deviation.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import statistics
from typing import Any

from etils import epath
import rich.console
import rich.table

from slimjax import configuration
from slimjax import files
from slimjax import units
from slimjax.analysis import published
from slimjax.models.net import SlimNet
from slimjax.training.runs import build_model
from slimjax.training.runs import build_task
from slimjax.training.runs import defaults
from slimjax.variables.format import used_parameters
from slimjax.variables.profile import count_parameters
from slimjax.widths import canonical
from slimjax.widths import label
from slimjax.widths import Width

# What the published rows are about.
PUBLISHED_HEADLINE = 'top1_error'


@dataclasses.dataclass(frozen=True)
class Entry:
  """Runs of one configuration that differ in the seed alone.

  Attributes:
    config: configuration of the first run, as JSON has it.
    workdirs: folders of the runs.
    seeds: one per run, in the same order.
    headline: name of the task's first metric, which is compared.
    unit: unit of the headline.
    examples: number of examples scored at each width.
    errors: {width: the headline of each run}, thinnest width first.
    macs: {width: multiply-accumulates of one example}.
  """

  config: dict[str, Any]
  workdirs: list[str]
  seeds: list[int]
  headline: str
  unit: str
  examples: int
  errors: dict[Width, list[float]]
  macs: dict[Width, int]


@dataclasses.dataclass(frozen=True)
class Line:
  """One width of an entry beside the published one; None where there is none.

  Attributes:
    width: a float, or the channels of every layer.
    error: the headline, mean over the runs.
    deviation: standard deviation of the error; None for a single run.
    published_error: the published headline.
    difference: error - published_error; None if they cannot be compared.
    macs: multiply-accumulates of one example.
    published_macs: the published ones, millions.
    params: parameters of convolutions and fully connected layers.
    published_params: the published ones, millions.
    same_counts: whether MACs and parameters are the published ones; None if
      the run does not claim it.
  """

  width: Width
  error: float
  deviation: float | None
  published_error: float | None
  difference: float | None
  macs: int
  published_macs: float | None
  params: int
  published_params: float | None
  same_counts: bool | None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """An entry beside its published row.

  Attributes:
    entry: the runs.
    row: the published row, or None.
    reasons: reasons why errors cannot be compared; empty if they can.
    lines: one per width, thinnest first.
    total_params: parameters of all widths together.
    same_total: whether `total_params` is the published number; None if the run
      does not claim it.
  """

  entry: Entry
  row: published.PublishedRow | None
  reasons: list[str]
  lines: list[Line]
  total_params: int
  same_total: bool | None

  @property
  def wrong_counts(self) -> list[str]:
    """Returns what differs from the published network in size, in words."""
    wrong = [
      f'width {label(line.width)}'
      for line in self.lines
      if line.same_counts is False
    ]
    return wrong + ['all widths together'] * (self.same_total is False)

  def as_json(self) -> dict[str, Any]:
    """Returns the comparison with widths as JSON's keys have them."""
    record = dataclasses.asdict(self)
    for name in ('errors', 'macs'):
      by_width = getattr(self.entry, name)
      record['entry'][name] = {label(w): x for w, x in by_width.items()}
    return record


def read(workdir: epath.PathLike) -> Entry:
  """Reads a finished run.

  Args:
    workdir: folder of the run.

  Raises:
    FileNotFoundError: there is no run, or it is not finished.
    ValueError: its results do not have the headline of its task.
  """
  workdir = files.expand(workdir, 'workdir')
  for name, what in (
    ('config.json', 'holds no run'),
    ('results.json', 'holds a run that is not finished'),
  ):
    if not (workdir / name).exists():
      raise FileNotFoundError(f'{workdir} {what} (no {name})')
  again = 'The command that trained the run writes it again'
  config = files.read_json(workdir / 'config.json', again)
  results = files.read_json(workdir / 'results.json', again)
  if not isinstance(results, list) or not all(
    isinstance(row, dict) for row in results or [None]
  ):
    raise ValueError(f'{workdir / "results.json"} has no rows. {again}')
  headline = build_task(configuration.parse(config)).metrics[0]
  if headline.name not in results[0]:
    raise ValueError(
      f'{workdir / "results.json"} has no {headline.name}; it has'
      f' {", ".join(results[0])}'
    )
  return Entry(
    config=config,
    workdirs=[str(workdir)],
    seeds=[config['seed']],
    headline=headline.name,
    unit=headline.unit,
    examples=results[0]['examples'],
    errors={canonical(row['width']): [row[headline.name]] for row in results},
    macs={canonical(row['width']): row['macs'] for row in results},
  )


def group(entries: Sequence[Entry]) -> list[Entry]:
  """Joins runs that differ in the seed alone, in the order given.

  Raises:
    ValueError: two runs have the same seed, so that one would count twice.
  """
  groups: list[Entry] = []
  for entry in entries:
    for i, other in enumerate(groups):
      if not _same_but_seed(other, entry):
        continue
      if entry.seeds[0] in other.seeds:
        raise ValueError(
          f'{entry.workdirs[0]} has the seed {entry.seeds[0]} of'
          f' {other.workdirs[other.seeds.index(entry.seeds[0])]}: they are one'
          ' run; leave one out'
        )
      groups[i] = dataclasses.replace(
        other,
        workdirs=other.workdirs + entry.workdirs,
        seeds=other.seeds + entry.seeds,
        errors={w: e + entry.errors[w] for w, e in other.errors.items()},
      )
      break
    else:
      groups.append(entry)
  return groups


def _same_but_seed(one: Entry, other: Entry) -> bool:
  found = configuration.differences(
    _seedless(one), _seedless(other), defaults(other.config)
  )
  return one.headline == other.headline and not (found.refused or found.said)


def _seedless(entry: Entry) -> dict[str, Any]:
  data = {k: v for k, v in entry.config['data'].items() if k != 'split_seed'}
  return {**entry.config, 'seed': None, 'data': data}


def compare(entry: Entry) -> Comparison:
  """Returns an entry beside its published row."""
  run = configuration.parse(entry.config)
  model = build_model(run)
  row = published.find(run)
  if row is None:
    reasons = ['no table has this network with these widths']
  else:
    reasons = published.differences(row, run)
    if entry.headline != PUBLISHED_HEADLINE:
      reasons.append(f'{entry.headline} here, {PUBLISHED_HEADLINE} published')
  sized = row is not None and published.same_size(row, run)
  lines = [
    _line(model, entry, width, row, comparable=not reasons, sized=sized)
    for width in entry.errors
  ]
  total = count_parameters(model)
  same_total = None
  if sized and row is not None and row.total_params is not None:
    same_total = published.same_params(total, row.total_params)
  return Comparison(entry, row, reasons, lines, total, same_total)


def _line(
  model: SlimNet,
  entry: Entry,
  width: Width,
  row: published.PublishedRow | None,
  *,
  comparable: bool,
  sized: bool,
) -> Line:
  errors, macs = entry.errors[width], entry.macs[width]
  params = used_parameters(model, width)['params']
  error = statistics.mean(errors)
  none: Mapping[Any, float] = {}
  expected = (row.errors if row else none).get(width)
  published_macs = (row.macs if row else none).get(width)
  published_params = (row.params if row else none).get(width)
  same = None
  if sized and published_macs is not None and published_params is not None:
    same = published.same_macs(macs, published_macs) and published.same_params(
      params, published_params
    )
  return Line(
    width=width,
    error=error,
    deviation=statistics.stdev(errors) if len(errors) > 1 else None,
    published_error=expected,
    difference=(
      error - expected if comparable and expected is not None else None
    ),
    macs=macs,
    published_macs=published_macs,
    params=params,
    published_params=published_params,
    same_counts=same,
  )


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
      f'published: {row.title}, top-1 error on ImageNet, {row.source}',
    )
  if comparison.reasons:
    say(console, 'not comparable:')
    for reason in comparison.reasons:
      say(console, f'  {reason}')
  console.print(_table(comparison.lines, entry.unit))
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


def _table(lines: Sequence[Line], unit: str) -> rich.table.Table:
  table = rich.table.Table()
  for column in (
    'width', 'error', 'published', 'difference', 'MACs', 'conv and fc',
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
