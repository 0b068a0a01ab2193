"""Writes what a run ends with: results.json, a table and a plot."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from etils import epath
import numpy as np
import rich.console
import rich.table

from slimjax import files
from slimjax import plots
from slimjax import units
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.tasks.base import image_size
from slimjax.tasks.base import Metric
from slimjax.tasks.base import Task
from slimjax.training.log import NonFiniteError
from slimjax.variables.profile import Profile
from slimjax.variables.profile import profile_model
from slimjax.widths import label
from slimjax.widths import Width

RESULTS = 'results.json'
_UNLIMITED = 10_000  # columns that no table has
Scores = Mapping[Width, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Result:
  """A width in the table at the end of a run.

  Attributes:
    width: a float, or the channels of every layer.
    profile: cost of the width.
    scores: scores by the names of the task's metrics.
    examples: number of examples that were scored.
  """

  width: Width
  profile: Profile
  scores: Mapping[str, float]
  examples: int


def results_of(
  model: SlimNet, task: Task, scores: Scores, dataset: Dataset
) -> list[Result]:
  """Returns the table of some scores, thinnest width first."""
  size = image_size(task, dataset)
  return [
    Result(
      width=width,
      profile=profile_model(model, width=width, image_size=size),
      scores={
        metric.name: of_width[metric.name]
        for metric in task.metrics
        if metric.name in of_width
      },
      examples=int(of_width['examples']),
    )
    for width, of_width in scores.items()
  ]


def mean_error(task: Task, scores: Scores) -> float:
  """Returns what decides the best checkpoint: the mean over the widths."""
  headline = task.metrics[0]
  errors = [headline.error(s[headline.name]) for s in scores.values()]
  return float(np.mean(errors))


def validation_records(
  scores: Mapping[Width, Mapping[str, float]], step: int, epoch: float
) -> list[dict[str, Any]]:
  """Returns one record per width, thinnest first.

  Raises:
    NonFiniteError: a score is infinite or not a number.
  """
  for width, of_width in scores.items():
    for name, value in of_width.items():
      if not math.isfinite(value):
        raise NonFiniteError(
          f'step {step}: the validation {name} of width {label(width)} is'
          f' {value}'
        )
  return [
    {
      'split': 'validation',
      'step': step,
      'epoch': epoch,
      'width': width,
      **of_width,
    }
    for width, of_width in scores.items()
  ]


def write_details(
  task: Task,
  totals: Mapping[Width, Any],
  dataset: Dataset,
  workdir: epath.Path,
) -> list[Any]:
  """Writes what else a task tells at the end, and returns what is printed."""
  write = getattr(task, 'write_details', None)
  return write(totals, dataset, workdir) if write else []


def write_results(results: Sequence[Result], workdir: epath.Path) -> None:
  """Writes WORKDIR/results.json: the table at the end."""
  records: list[dict[str, Any]] = [
    {
      'width': result.width,
      **result.scores,
      'examples': result.examples,
      'macs': result.profile.macs,
      'params': result.profile.params,
    }
    for result in results
  ]
  files.write_json(workdir / RESULTS, records)


def print_results(
  results: Sequence[Result], metrics: Sequence[Metric], title: str
) -> None:
  """Prints one line per width: scores, MACs, parameters.

  Where borders leave no room for all of it, there are none: three heads of a
  detector and their MACs need the 80 columns of a terminal.
  """
  table = rich.table.Table(title=title)
  metrics = [m for m in metrics if all(m.name in r.scores for r in results)]
  names = [metric.title for metric in metrics]
  for name in ('width', *names, 'MACs', 'parameters'):
    table.add_column(name, justify='right')
  for result in results:
    table.add_row(
      label(result.width),
      *(metric.text(result.scores[metric.name]) for metric in metrics),
      units.count(result.profile.macs),
      units.count(result.profile.params),
    )
  console = rich.console.Console()
  unlimited = console.options.update(width=_UNLIMITED)
  if console.measure(table, options=unlimited).maximum > console.width:
    table.box, table.pad_edge = None, False
    table.padding = (0, 2, 0, 0)
  console.print(table)


def plot_results(
  results: Sequence[Result],
  headline: Metric,
  path: epath.Path,
  title: str,
) -> None:
  """Saves the headline metric against MACs, one point per width, as PNG."""
  results = sorted(results, key=lambda result: result.profile.macs)
  macs = [result.profile.macs for result in results]
  values = [result.scores[headline.name] for result in results]
  figure = plots.figure((6, 4))
  axes = figure.add_subplot()
  axes.plot(macs, values, marker='o', color='#1f5fa8')
  for result, x, y in zip(results, macs, values, strict=True):
    axes.annotate(
      f'{label(result.width)}x',
      (x, y),
      xytext=(6, 6),
      textcoords='offset points',
    )
  axes.set(xlabel='multiply-accumulates', ylabel=headline.axis, title=title)
  axes.xaxis.set_major_formatter(lambda x, _: units.count(x))
  if min(values) >= 0:
    axes.set_ylim(0, max(values) * 1.25 + 0.1)
  axes.margins(x=0.12)
  axes.grid(alpha=0.3)
  plots.save(figure, path)
