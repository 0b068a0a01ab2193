"""What a search found: nets.json, a table and a plot."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np
import rich.console
import rich.table

from slimjax import files
from slimjax import plots
from slimjax import units
from slimjax.models.net import SlimNet
from slimjax.searching.costs import Cost
from slimjax.searching.problem import Found
from slimjax.searching.scoring import Scorer
from slimjax.tasks.base import Metric
from slimjax.widths import label

NETS = 'nets.json'
_UNIFORM = 8  # uniform widths to compare with


@dataclasses.dataclass(frozen=True)
class Describer:
  """Tells what is known of channels: cost, loss and error of the supernet.

  Attributes:
    scorer: scorer of the images; its bound holds all that is described.
    macs, params: multiply-accumulates and parameters of channels.
    table: latencies, if there is a table.
    headline: error of the task.
  """

  scorer: Scorer
  macs: Cost
  params: Cost
  table: Cost | None
  headline: Metric

  def __call__(
    self, named: Mapping[str, Sequence[int]]
  ) -> list[dict[str, Any]]:
    """Returns a record per network, by the names of the networks."""
    counts = np.array(list(named.values()))
    predicted = [None] * len(counts)
    if self.table is not None:
      predicted = self.table(counts).tolist()
    return [
      {
        'name': name,
        'channels': [int(c) for c in channels],
        'macs': int(macs),
        'params': int(params),
        'predicted_ms': ms,
        'measured_ms': None,
        'loss': told['loss'],
        'error': told[self.headline.name],
      }
      for (name, channels), macs, params, ms, told in zip(
        named.items(),
        self.macs(counts),
        self.params(counts),
        predicted,
        self.scorer.summaries(counts),
        strict=True,
      )
    ]


def names_of(found: Sequence[Found], unit: str) -> dict[str, Sequence[int]]:
  """Returns the networks by the names of their targets: '150M', '2.5ms'."""
  targets = [one.target for one in found]
  if unit == 'ms':
    names = [f'{target:g}ms' for target in targets]
  else:
    names = [units.count(target).replace(' ', '') for target in targets]
  if len(set(names)) < len(names):  # three digits do not tell them apart
    names = [f'{target!r}{unit}' for target in targets]
  channels = [one.channels for one in found]
  return dict(zip(names, channels, strict=True))


def uniform_widths(model: SlimNet) -> dict[str, Sequence[int]]:
  """Returns the channels of uniform widths, over the model's range, by name."""
  ends = [width for width in model.widths if isinstance(width, float)]
  if not ends:
    return {}
  spread = np.linspace(min(ends), max(ends), _UNIFORM)
  widths = [round(float(width), 3) for width in spread]
  return {label(width): model.channels(width) for width in widths}


def write_nets(
  path: epath.PathLike,
  about: Mapping[str, Any],
  nets: Sequence[Mapping[str, Any]],
  uniform: Sequence[Mapping[str, Any]],
) -> None:
  """Writes what was found, as `slimjax.nets` reads it.

  Args:
    path: path of nets.json.
    about: origin of the networks: model, run, image size, device.
    nets: networks found; `name`, `channels` and what is known of each.
    uniform: uniform widths to compare with, likewise; `width`.
  """
  files.write_json(
    path, {**about, 'nets': list(nets), 'uniform': list(uniform)}, indent=1
  )


def print_nets(
  nets: Sequence[Mapping[str, Any]],
  uniform: Sequence[Mapping[str, Any]],
  headline: Metric,
  console: rich.console.Console | None = None,
) -> None:
  """Prints one line per network: what it costs, how wrong it is."""
  table = rich.table.Table(
    title='found (with the weights of the supernet), and uniform widths'
  )
  ms = any(net.get('predicted_ms') is not None for net in nets)
  for name in (
    'network',
    'MACs',
    'parameters',
    *(('predicted ms', 'measured ms') if ms else ()),
    'loss',
    headline.axis,
  ):
    table.add_column(name, justify='right')
  times = ('predicted_ms', 'measured_ms') if ms else ()
  known = lambda value: '?' if value is None else f'{value:.2f}'
  for net in (*nets, *uniform):
    table.add_row(
      str(net['name']),
      units.count(net['macs']),
      units.count(net['params']),
      *(known(net[time]) for time in times),
      f'{net["loss"]:.4f}',
      units.digits(net['error'], headline.unit),
    )
  (console or rich.console.Console()).print(table)


def plot_nets(
  path: epath.PathLike,
  steps: Sequence[Mapping[str, Any]],
  nets: Sequence[Mapping[str, Any]],
  uniform: Sequence[Mapping[str, Any]],
  *,
  unit: str,
  headline: Metric,
  title: str,
) -> None:
  """Saves error and loss against the cost, uniform widths beside, as PNG.

  Args:
    path: path of the file, with the suffix .png.
    steps: steps of the search, whose scores are drawn thin.
    nets: networks found.
    uniform: uniform widths.
    unit: 'MACs' or 'ms', what the targets were of.
    headline: error of the task.
    title: name of the network.
  """
  figure = plots.figure((9, 4))
  left, right = figure.subplots(1, 2)
  cost = 'macs' if unit == 'MACs' else 'predicted_ms'
  for axes, key, ylabel in (
    (left, 'error', headline.axis),
    (right, 'loss', 'loss'),
  ):
    for points, mark, name in (
      (uniform, 's--', 'uniform'),
      (nets, 'o-', 'found'),
    ):
      ordered = sorted(points, key=lambda net: net[cost])
      axes.plot(
        [net[cost] for net in ordered],
        [net[key] for net in ordered],
        mark,
        label=name,
      )
    axes.set(xlabel=unit, ylabel=ylabel)
    if unit == 'MACs':
      axes.xaxis.set_major_formatter(lambda x, _: units.count(x))
    axes.grid(alpha=0.3)
  right.plot(
    [step['cost'] for step in steps],
    [step['score'] for step in steps],
    color='0.6',
    linewidth=0.8,
    label='steps',
    zorder=0,
  )
  right.legend(fontsize=8)
  figure.suptitle(title, fontsize=10)
  plots.save(figure, path)
