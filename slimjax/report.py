"""Compares finished runs with the published rows of their configurations.

python -m slimjax.report runs/resnet50_seed0 runs/resnet50_seed1

Runs that differ in nothing but the seed are one entry: the mean of their errors
and its standard deviation. The exit status is 1 if a run is not finished, or
has other MACs or parameters than the published network.
"""

from collections.abc import Sequence
import dataclasses
import json
import statistics
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import rich.console
import rich.table

from slimjax import configuration
from slimjax import published
from slimjax.data import digits
from slimjax.models import create_model
from slimjax.models.common import SlimNet
from slimjax.profile import count_parameters
from slimjax.profile import profile_model
from slimjax.widths import canonical
from slimjax.widths import switch_name
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Entry:
  """Runs of one configuration, but for the seed.

  Attributes:
    config: of the first, as JSON.
    workdirs: of the runs.
    seeds: of the runs, in their order.
    examples: scored at each width.
    errors: top-1, percent, of each run by width, thinnest first.
  """

  config: dict[str, Any]
  workdirs: list[str]
  seeds: list[int]
  examples: int
  errors: dict[Width, list[float]]


@dataclasses.dataclass(frozen=True)
class Line:
  """One width of an entry beside the published one; None where there is none.

  Attributes:
    error: top-1, percent, mean over the runs.
    deviation: over the runs; None of a single run.
    published_error: likewise.
    difference: error - published_error, if the two can be compared.
    macs: of one image.
    published_macs: millions.
    params: of convolutions and classifier.
    published_params: millions.
    same_counts: whether both are as published, None if that is not asked.
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
    row: the published one, or None.
    reasons: why the errors can not be compared; empty if they can.
    total_params: of all widths together.
    same_total: whether they are as published, None if that is not asked.
  """

  entry: Entry
  row: published.PublishedRow | None
  reasons: list[str]
  lines: list[Line]
  total_params: int
  same_total: bool | None

  @property
  def wrong_counts(self) -> list[str]:
    """What has not the published size."""
    wrong = [
      f'width {line.width}' for line in self.lines if line.same_counts is False
    ]
    return wrong + ['all widths together'] * (self.same_total is False)


def read(workdir: epath.PathLike) -> Entry:
  """A finished run.

  Raises:
    FileNotFoundError: there is no run, or it is not finished.
  """
  workdir = epath.Path(workdir)
  for name, what in (
    ('config.json', 'holds no run'),
    ('results.json', 'holds a run that is not finished'),
  ):
    if not (workdir / name).exists():
      raise FileNotFoundError(f'{workdir} {what} (no {name})')
  config = json.loads((workdir / 'config.json').read_text())
  results = json.loads((workdir / 'results.json').read_text())
  return Entry(
    config=config,
    workdirs=[str(workdir)],
    seeds=[config['seed']],
    examples=results[0]['examples'],
    errors={_width(row['width']): [row['top1_error']] for row in results},
  )


def group(entries: Sequence[Entry]) -> list[Entry]:
  """Puts runs together that differ in the seed alone, in the order given.

  Raises:
    ValueError: a seed comes twice, so that a run would count twice.
  """
  groups: list[Entry] = []
  for entry in entries:
    for i, other in enumerate(groups):
      if configuration.differences(_seedless(other), _seedless(entry)):
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


def _seedless(entry: Entry) -> dict[str, Any]:
  data = {k: v for k, v in entry.config['data'].items() if k != 'split_seed'}
  return {**entry.config, 'seed': None, 'data': data}


def compare(entry: Entry) -> Comparison:
  """An entry beside its published row."""
  run = configuration.parse(entry.config)
  model = configuration.call(create_model, 'config.model', run.model)
  row = published.find(run)
  reasons = (
    published.differences(row, run)
    if row
    else ['no table has this network with these widths']
  )
  sized = row is not None and published.same_size(row, run)
  # All data but the digits are given their size.
  size = run.data.get('image_size') or digits.IMAGE_SIZE
  lines = [
    _line(model, width, errors, row, size, not reasons, sized)
    for width, errors in entry.errors.items()
  ]
  total = count_parameters(model)
  same_total = None
  if sized and row is not None and row.total_params is not None:
    same_total = published.same_params(total, row.total_params)
  return Comparison(entry, row, reasons, lines, total, same_total)


def _line(
  model: SlimNet,
  width: Width,
  errors: list[float],
  row: published.PublishedRow | None,
  image_size: int,
  comparable: bool,
  sized: bool,
) -> Line:
  profile = profile_model(model, width=width, image_size=image_size)
  error = statistics.mean(errors)
  expected = row.errors.get(width) if row else None
  macs = row.macs.get(width) if row else None
  params = row.params.get(width) if row else None
  same = None
  if sized and macs is not None and params is not None:
    same = published.same_macs(profile.macs, macs) and published.same_params(
      profile.conv_fc_params, params
    )
  return Line(
    width=width,
    error=error,
    deviation=statistics.stdev(errors) if len(errors) > 1 else None,
    published_error=expected,
    difference=(
      error - expected if comparable and expected is not None else None
    ),
    macs=profile.macs,
    published_macs=macs,
    params=profile.conv_fc_params,
    published_params=params,
    same_counts=same,
  )


def show(comparison: Comparison, console: rich.console.Console) -> None:
  """Prints what a run is, whether it can be compared, and a line a width."""
  entry, row = comparison.entry, comparison.row
  config = entry.config
  name = f'{config["model"]["name"]} on {config["data"]["name"]}'
  say = lambda text, **style: console.print(
    text, highlight=False, markup=False, soft_wrap=True, **style
  )
  say(f'\n{name}: {", ".join(entry.workdirs)}', style='bold')
  seeds = ', '.join(map(str, entry.seeds))
  say(
    f'{config["epochs"]} epochs; {"seed" if len(entry.seeds) == 1 else "seeds"}'
    f' {seeds}; {entry.examples} examples scored at each width'
  )
  if row is not None:
    say(f'published: {row.title}, top-1 error on ImageNet, {row.source}')
  if comparison.reasons:
    say('not comparable:')
    for reason in comparison.reasons:
      say(f'  {reason}')
  table = rich.table.Table()
  for column in (
    'width', 'error', 'published', 'difference', 'MACs', 'conv and fc',
  ):  # fmt: skip
    table.add_column(column, justify='right')
  for line in comparison.lines:
    deviation = '' if line.deviation is None else f' ± {line.deviation:.2f}'
    table.add_row(
      str(line.width)
      if isinstance(line.width, float)
      else switch_name(line.width),
      f'{line.error:.2f}{deviation} %',
      _text(line.published_error, '.1f', ' %'),
      _text(line.difference, '+.2f'),
      _counts(line.macs, line.published_macs, '.0f', line.same_counts),
      _counts(line.params, line.published_params, '.1f', line.same_counts),
    )
  console.print(table)
  total = (
    f'all widths together: {comparison.total_params / 1e6:.1f} M parameters'
  )
  if row is not None and comparison.same_total is not None:
    total += f', published {row.total_params} M'
  say(total)
  if comparison.wrong_counts:
    say(
      f'not the published network: {", ".join(comparison.wrong_counts)}',
      style='red',
    )


def _counts(ours, printed, form, same) -> str:
  text = f'{ours / 1e6:.2f} M'
  if same is None:
    return text
  return f'{text} {"=" if same else "≠"} {printed:{form}} M'


def _text(number: float | None, form: str, unit: str = '') -> str:
  return '-' if number is None else f'{number:{form}}{unit}'


def _width(value: Any) -> Width:
  return canonical(tuple(value) if isinstance(value, list) else value)


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) < 2:
    raise app.UsageError('which runs? python -m slimjax.report WORKDIR...')
  entries, missing = [], []
  for workdir in argv[1:]:
    try:
      entries.append(read(workdir))
    except FileNotFoundError as error:
      missing.append(str(error))
  console = rich.console.Console()
  comparisons = [compare(entry) for entry in group(entries)]
  for comparison in comparisons:
    show(comparison, console)
  for line in missing:
    console.print(
      line, style='red', highlight=False, markup=False, soft_wrap=True
    )
  if _JSON.value:
    path = epath.Path(_JSON.value)
    records = [dataclasses.asdict(comparison) for comparison in comparisons]
    draft = path.with_name(path.name + '.draft')
    draft.write_text(json.dumps(records, indent=1, default=str) + '\n')
    draft.replace(path)
  if missing or any(comparison.wrong_counts for comparison in comparisons):
    raise SystemExit(1)


if __name__ == '__main__':
  _JSON = flags.DEFINE_string('json', None, 'Also writes the numbers there.')
  app.run(main)
