"""Says what a search looks for: units, steps, targets; and what it found."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from slimjax import units as shown
from slimjax.models.net import SlimNet
from slimjax.searching.costs import Cost
from slimjax.variables.masking import units

Channels = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
  """A network to slim, and how.

  Attributes:
    start: channels of every layer at the beginning, the most there are.
    units: places of the layers that are slimmed together, in order.
    names: a name per unit, that of its first layer.
    steps: channels by which each unit is slimmed at a time.
    minimum: fewest channels of a layer.
    cost: cost of channels, [n, layers] -> [n].
    targets: costs to reach, largest first.
  """

  start: Channels
  units: tuple[tuple[int, ...], ...]
  names: tuple[str, ...]
  steps: tuple[int, ...]
  minimum: int
  cost: Cost
  targets: tuple[float, ...]

  def slimmed(self, channels: Channels) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is left when each unit loses channels, and whether it may.

    A unit loses the fewest of its steps that save more than the noise, one if
    all cost something. Latencies have stairs, also upwards, where a device is
    slower at fewer channels. Where no unit can save, each loses one step.

    Returns:
      Channels int32 [units, layers], those that may not as they were; and bool
      [units].
    """
    counts = np.tile(np.asarray(channels, np.int32), (len(self.units), 1))
    allowed = np.zeros(len(self.units), bool)
    single = counts.copy()
    (now,) = self.cost([channels])
    for row, (places, step) in enumerate(
      zip(self.units, self.steps, strict=True)
    ):
      left = np.arange(channels[places[0]] - step, self.minimum - 1, -step)
      if not len(left):
        continue
      options = np.tile(counts[row], (len(left), 1))
      options[:, [*places]] = left[:, None]
      single[row] = options[0]
      saving = now - self.cost(options) > self.cost.noise * now
      if np.any(saving):
        counts[row] = options[np.argmax(saving)]
        allowed[row] = True
    if not np.any(allowed):
      return single, np.any(single != counts, axis=1)
    return counts, allowed

  def thinnest(self) -> Channels:
    """Returns the channels that steps of each unit end with."""
    channels = [*self.start]
    for places, step in zip(self.units, self.steps, strict=True):
      most = self.start[places[0]]
      steps = max(0, (most - self.minimum) // step)
      for place in places:
        channels[place] = most - steps * step
    return tuple(channels)

  def text(self, cost: float) -> str:
    """Returns a cost in words: '150 MMACs', '2.31 ms'."""
    if self.cost.unit == 'ms':
      return f'{cost:.2f} ms'
    return f'{shown.count(cost)} {self.cost.unit}'

  def describe(self) -> dict[str, Any]:
    """Returns what a trace records of it, as JSON has it."""
    return {
      'start': [*self.start],
      'units': [*self.names],
      'steps': [*self.steps],
      'minimum': self.minimum,
      'unit': self.cost.unit,
      'targets': [*self.targets],
      'cost': getattr(self.cost, 'digest', ''),
    }


@dataclasses.dataclass(frozen=True)
class Found:
  """A network that a search found.

  Attributes:
    channels: channels of every layer.
    cost: its cost, in the unit of the targets.
    score: its loss or error on the images of the search.
    target: target that it is the first under.
  """

  channels: Channels
  cost: float
  score: float
  target: float


# Scores [n] of channels [n, layers].
Score = Callable[[Any], np.ndarray]


def make_problem(
  model: SlimNet,
  cost: Cost,
  targets: Sequence[float],
  *,
  step: int | Mapping[str, int] | None = None,
  minimum: int = 8,
  keep: Sequence[str] = (),
) -> Problem:
  """Returns the problem of slimming a network.

  Args:
    model: the network; it starts with all its channels.
    cost: see `Problem`.
    targets: costs to reach, in any order.
    step: channels of a step of every unit, or by the name of any of its layers
      (others take the default); default: a twelfth of its channels, rounded to
      multiples of 8 (Yu and Huang, arXiv 1903.11728).
    minimum: fewest channels of a layer; default: 8.
    keep: names of layers that are not slimmed. Those that none of the model's
      widths slims are kept anyway.

  Raises:
    ValueError: a name is of no layer, there is no target, or one cannot be
      reached.
  """
  names = [name for name, _ in model.layer_names()]
  by_name = dict(step) if isinstance(step, Mapping) else {}
  strange = [n for n in itertools.chain(keep, by_name) if n not in names]
  if strange:
    raise ValueError(
      f'{strange[0]!r} is no layer that sets a width; there are'
      f' {", ".join(names)}'
    )
  full = model.full_channels
  thin = model.channels(model.ordered_widths[0])
  several = len(model.widths) > 1
  found, steps = [], []
  for places in units(model):
    here = [names[place] for place in places]
    first = places[0]
    if any(name in keep for name in here):
      continue
    if several and full[first] == thin[first]:
      continue
    default = max(8, 8 * round(full[first] / 96))
    given = [by_name[name] for name in here if name in by_name]
    chosen = step if isinstance(step, int) else [*given, default][0]
    found.append(places)
    steps.append(int(chosen))
  problem = Problem(
    start=full,
    units=tuple(found),
    names=tuple(names[places[0]] for places in found),
    steps=tuple(steps),
    minimum=minimum,
    cost=cost,
    targets=tuple(sorted(map(float, targets), reverse=True)),
  )
  _check(problem)
  return problem


def _check(problem: Problem) -> None:
  if not problem.targets or problem.targets[-1] <= 0:
    raise ValueError(
      f'targets must be costs above zero, got {problem.targets or "none"}'
    )
  if any(step < 1 for step in problem.steps) or problem.minimum < 1:
    raise ValueError(
      f'steps and minimum must be at least 1, got {problem.steps} and'
      f' {problem.minimum}'
    )
  most, least = problem.cost([problem.start, problem.thinnest()])
  if problem.targets[0] >= most:
    raise ValueError(
      f'the target {problem.text(problem.targets[0])} is no less than the'
      f' whole network, {problem.text(most)}'
    )
  if problem.targets[-1] < least:
    raise ValueError(
      f'the target {problem.text(problem.targets[-1])} cannot be reached: with'
      f' at least {problem.minimum} channels in steps of {problem.steps} the'
      f' least is {problem.text(least)}'
    )
