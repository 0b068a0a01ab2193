"""Predicts the latency of any channels on a device, by a table of its blocks.

Each block of the network is timed alone at a grid of input and output channels;
between the grid's points its time is interpolated. A network takes the sum of
its blocks' times, scaled and shifted by what some whole networks took; others,
which took no part in that, tell how wrong it is.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import datetime
import json
from typing import Any

from etils import epath
import numpy as np

from slimjax import files
from slimjax.data import fingerprint
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.runtime.bundle import versions
from slimjax.runtime.measuring import describe_device
from slimjax.runtime.measuring import time_in_turns
from slimjax.searching.blocks import block_call
from slimjax.searching.blocks import blocks_of
from slimjax.searching.blocks import empty_call
from slimjax.searching.blocks import Geometry
from slimjax.searching.blocks import MULTIPLE
from slimjax.searching.blocks import network_call
from slimjax.searching.blocks import random_nets
from slimjax.searching.grids import Grid
from slimjax.searching.grids import spread
from slimjax.training.compiling import quiet

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class LatencyTable:
  """What the blocks of a network take on a device.

  Attributes:
    model: class of the network.
    layers: number of layers that set a width.
    image_size: height and width in pixels.
    batch_size: images in a call.
    device: the device, in words.
    measured: time of the measurement, ISO 8601.
    versions: {package: version} of those that ran.
    grids: times of each geometry.
    blocks: (grid, input, output) of each block: numbers of a grid and, as
      `Axis`, of layers or constants.
    launch_ms: time of a call that does nothing.
    scale, offset_ms: see `fit`; default: 1 and 0.
    check: errors on whole networks that took no part in the fit; default: none.
    noise: see `searching.costs.Cost`; default: 0.1 %.
  """

  model: str
  layers: int
  image_size: tuple[int, int]
  batch_size: int
  device: str
  measured: str
  versions: dict[str, str]
  grids: tuple[Grid, ...]
  blocks: tuple[tuple[int, Any, Any], ...]
  launch_ms: float
  scale: float = 1.0
  offset_ms: float = 0.0
  check: dict[str, Any] = dataclasses.field(default_factory=dict)
  noise: float = 1e-3

  @property
  def unit(self) -> str:
    return 'ms'

  @property
  def digest(self) -> str:
    """Returns a hash of the numbers that predictions depend on."""
    return fingerprint.of([json.dumps(dataclasses.asdict(self)).encode()])

  @property
  def errors(self) -> str:
    """Returns how wrong the table is, in words."""
    if 'mean_error' not in self.check:
      return 'of unknown error, as no network was kept back to tell it'
    return (
      f'wrong by {100 * self.check["mean_error"]:.0f} % on the mean,'
      f' {100 * self.check["worst_error"]:.0f} % at most, on'
      f' {self.check["networks"]} networks that the table was not fitted on'
    )

  def __call__(self, counts: Any) -> np.ndarray:
    """Returns the milliseconds [n] of channels [n, layers]."""
    counts = np.atleast_2d(np.asarray(counts))
    total = np.full(len(counts), self.launch_ms)
    for grid, inputs, outputs in self.blocks:
      total += self.grids[grid](_of(counts, inputs), _of(counts, outputs))
    return self.scale * total + self.offset_ms

  def fit(self, counts: Any, ms: Any) -> 'LatencyTable':
    """Returns the table with scale and offset by what whole networks took."""
    bare = dataclasses.replace(self, scale=1.0, offset_ms=0.0)
    told = bare(counts)
    # Relative errors count: small networks matter as much as large ones.
    weight = 1 / np.asarray(ms, float)
    lines = np.stack([told, np.ones_like(told)], axis=1) * weight[:, None]
    (scale, offset), *_ = np.linalg.lstsq(lines, np.ones_like(told), rcond=None)
    if scale <= 0:  # too noisy for a line: a factor is left
      scale, offset = float(np.median(np.asarray(ms) / told)), 0.0
    return dataclasses.replace(
      self, scale=float(scale), offset_ms=float(offset)
    )

  def check_model(self, model: SlimNet, image_size: tuple[int, int]) -> None:
    """Raises ValueError unless the table is of such a network."""
    name, layers = type(model).__name__, len(model.layer_names())
    mine = (self.model, self.layers, self.image_size)
    if mine != (name, layers, tuple(image_size)):
      raise ValueError(
        f'the table of latencies is of {self.model} with {self.layers} layers'
        f' at {self.image_size} pixels, not of {name} with {layers} at'
        f' {tuple(image_size)}; measure another, with another --device_table'
      )

  def save(self, path: epath.PathLike) -> None:
    """Writes the table as JSON, whole or not at all."""
    files.write_json(
      path, {'schema': SCHEMA, **dataclasses.asdict(self)}, indent=1
    )

  @classmethod
  def load(cls, path: epath.PathLike) -> 'LatencyTable':
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is something else.
    """
    try:
      content = json.loads(files.expand(path).read_text())
      if content.pop('schema') != SCHEMA:
        raise ValueError(f'its schema is not {SCHEMA}')
      grids = tuple(
        Grid(**{name: _tuples(value) for name, value in grid.items()})
        for grid in content.pop('grids')
      )
      blocks = _tuples(content.pop('blocks'))
      size = tuple(content.pop('image_size'))
      return cls(grids=grids, blocks=blocks, image_size=size, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(f'{path} is no table of latencies: {error!r}') from error


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _of(counts: np.ndarray, axis: Any) -> np.ndarray:
  layer, constant = axis
  if layer is None:
    return np.full(len(counts), constant)
  return counts[:, layer] * constant


def measure(
  model: SlimNet,
  *,
  image_size: Size,
  batch_size: int = 1,
  grid: int = 4,
  nets: int = 12,
  rounds: int = 5,
  say: Callable[[str], None] = quiet,
) -> LatencyTable:
  """Returns a table of this device, fitted and checked on whole networks.

  Blocks and networks take turns, so that what drifts hits them alike; the least
  of all times counts.

  Args:
    model: network of any widths.
    image_size: pixels, or (height, width).
    batch_size: images in a call; default: 1.
    grid: points of the grid along each axis; default: 4.
    nets: whole networks, the thinnest, the widest and random ones between; half
      of them are for the fit. Default: 12.
    rounds: turns of each block, of ten calls; default: 5.
    say: function that is told how far it is; default: none.

  Raises:
    ValueError: the network has other products than convolutions and dense
      layers.
  """
  size = pair(image_size)
  blocks = blocks_of(model, size)
  points = _points(model, blocks, grid)
  geometries = list(points)
  cells = [
    (geometry, (first, last))
    for geometry, (inputs, outputs) in points.items()
    for first in inputs
    for last in outputs
  ]
  counts = random_nets(model, nets)
  calls: dict[Any, Callable[[], Any]] = {'launch': empty_call()}
  for number, (geometry, channels) in enumerate(cells, 1):
    say(f'compiling block {number} of {len(cells)}')
    calls[geometry, channels] = block_call(geometry, channels, batch_size)
  for number, of_net in enumerate(counts):
    say(f'compiling network {number + 1} of {len(counts)}')
    calls[number] = network_call(model, of_net, size, batch_size)
  say(f'timing {len(calls)} programs')
  times = time_in_turns(calls, rounds=rounds)
  least = {name: float(np.min(of_one)) for name, of_one in times.items()}
  launch = least['launch']
  grids = tuple(
    Grid(
      inputs,
      outputs,
      tuple(
        tuple(max(least[geometry, (i, o)] - launch, 0.0) for o in outputs)
        for i in inputs
      ),
    )
    for geometry, (inputs, outputs) in points.items()
  )
  table = LatencyTable(
    model=type(model).__name__,
    layers=len(model.layer_names()),
    image_size=size,
    batch_size=batch_size,
    device=describe_device('jax'),
    measured=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    versions=versions(('slimjax', 'jax', 'jaxlib')),
    grids=grids,
    blocks=tuple(
      (geometries.index(b.geometry), b.inputs, b.outputs) for b in blocks
    ),
    launch_ms=launch,
  )
  whole = np.array([least[number] for number in range(len(counts))])
  return fitted(table, counts, whole)


def fitted(
  table: LatencyTable, counts: np.ndarray, ms: np.ndarray
) -> LatencyTable:
  """Returns the table fitted on half of some networks, checked on the others.

  Args:
    table: the table.
    counts: channels [n, layers], the extremes first.
    ms: milliseconds that they took, [n].
  """
  fit = [0, 1, *range(2, len(ms), 2)]
  rest = [n for n in range(len(ms)) if n not in fit]
  found = table.fit(counts[fit], ms[fit])
  check: dict[str, Any] = {'networks': len(rest)}
  if rest:
    errors = np.abs(found(counts[rest]) / ms[rest] - 1)
    check |= {
      'mean_error': float(np.mean(errors)),
      'worst_error': float(np.max(errors)),
      'measured_ms': ms[rest].tolist(),
      'predicted_ms': found(counts[rest]).tolist(),
    }
  return dataclasses.replace(found, check=check)


def time_nets(
  model: SlimNet,
  channels: Sequence[Sequence[int]],
  *,
  image_size: Size,
  batch_size: int = 1,
  rounds: int = 5,
) -> list[float]:
  """Returns the milliseconds that whole networks take here, in turns."""
  size = pair(image_size)
  calls = {
    number: network_call(model, of_net, size, batch_size)
    for number, of_net in enumerate(channels)
  }
  times = time_in_turns(calls, rounds=rounds)
  return [float(np.min(times[number])) for number in calls]


def _points(
  model: SlimNet, blocks: Any, grid: int
) -> dict[Geometry, tuple[tuple[int, ...], tuple[int, ...]]]:
  """Returns the grid of every geometry, from the channels its blocks may have.

  The thinnest is one multiple: a search goes below the thinnest trained width.
  """
  full = model.full_channels
  ranges: dict[Geometry, list[set]] = {}
  for block in blocks:
    both = ranges.setdefault(block.geometry, [set(), set()])
    for found, (layer, constant) in zip(
      both, (block.inputs, block.outputs), strict=True
    ):
      found |= (
        {constant}
        if layer is None
        else {min(MULTIPLE, full[layer]), full[layer]}
      )
  return {
    g: (spread(i, grid, MULTIPLE), spread(o, grid, MULTIPLE))
    for g, (i, o) in ranges.items()
  }
