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

from slimjax import configuration
from slimjax import files
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
    others: {name: {width: score of each run}} of the task's other metrics.
  """

  config: dict[str, Any]
  workdirs: list[str]
  seeds: list[int]
  headline: str
  unit: str
  examples: int
  errors: dict[Width, list[float]]
  macs: dict[Width, int]
  others: dict[str, dict[Width, list[float]]]


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
class Score:
  """Another score than the headline at one width, beside the published one.

  Attributes:
    name: name of the metric.
    width: width of the network.
    score: mean over the runs.
    published: the published score.
    difference: score - published; None if they cannot be compared.
  """

  name: str
  width: Width
  score: float
  published: float
  difference: float | None


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
    scores: other scores that are published.
  """

  entry: Entry
  row: published.PublishedRow | None
  reasons: list[str]
  lines: list[Line]
  total_params: int
  same_total: bool | None
  scores: list[Score]

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
    entry, row = record['entry'], record['row'] or {}
    for section, name in (
      (entry, 'errors'), (entry, 'macs'), (row, 'errors'), (row, 'macs'),
      (row, 'params'),
    ):  # fmt: skip
      if name in section:
        section[name] = {label(w): x for w, x in section[name].items()}
    for section in (entry, row):
      for name, by_width in section.get('others', {}).items():
        section['others'][name] = {label(w): x for w, x in by_width.items()}
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
  headline, *others = build_task(configuration.parse(config)).metrics
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
    others={
      metric.name: {
        canonical(row['width']): [row[metric.name]] for row in results
      }
      for metric in others
      if all(metric.name in row for row in results)
    },
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
        errors=_joined(other.errors, entry.errors),
        others={
          name: _joined(scores, entry.others[name])
          for name, scores in other.others.items()
          if name in entry.others
        },
      )
      break
    else:
      groups.append(entry)
  return groups


def _joined(
  some: Mapping[Width, list[float]], more: Mapping[Width, list[float]]
) -> dict[Width, list[float]]:
  return {width: scores + more[width] for width, scores in some.items()}


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
    if entry.headline != row.headline:
      reasons.append(f'{entry.headline} here, {row.headline} published')
  sized = row is not None and published.same_size(row, run)
  lines = [
    _line(model, entry, width, row, comparable=not reasons, sized=sized)
    for width in entry.errors
  ]
  total = count_parameters(model)
  same_total = None
  if sized and row is not None and row.total_params is not None:
    same_total = published.same_params(total, row.total_params)
  scores = _scores(entry, row, comparable=not reasons) if row else []
  return Comparison(entry, row, reasons, lines, total, same_total, scores)


def _scores(
  entry: Entry, row: published.PublishedRow, *, comparable: bool
) -> list[Score]:
  """Returns the published scores that a run has, beside its own."""
  found = []
  for name, by_width in row.others.items():
    for width, ours in entry.others.get(name, {}).items():
      score, expected = statistics.mean(ours), by_width[width]
      difference = score - expected if comparable else None
      found.append(Score(name, width, score, expected, difference))
  return found


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
