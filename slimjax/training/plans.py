"""Chooses the widths of a training step: a pure function of the step.

A plan is a frozen object: `plan(step)` gives the widths of a step, widest
first, and `plan.widths` all that have a program of their own, so that the
number of programs is known before the first step. A run that resumes asks it
again, and every process asks for itself.

A plan may also draw widths that have no program of their own. Then it says how
many (`random`), and the few static widths inside which they run (`bounds`); see
`slimjax.variables.masking`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

import numpy as np

from slimjax import checks
from slimjax.models.net import SlimNet
from slimjax.variables.format import SHARED
from slimjax.variables.format import variable_shapes
from slimjax.variables.masking import check_maskable
from slimjax.variables.masking import NORM
from slimjax.variables.masking import units
from slimjax.variables.slicing import Path
from slimjax.widths import Width


class WidthPlan(Protocol):
  """What the loop asks of a plan.

  Attributes:
    widths: the widths that have programs of their own, widest first.
    random: number of other widths in each step; may be missing, for none.
    bounds: widths inside which those run; may be missing, for none.
  """

  @property
  def widths(self) -> tuple[Width, ...]: ...

  def __call__(self, step: int) -> tuple[Width, ...]:
    """Returns the widths of a step, widest first.

    Args:
      step: optimiser steps done before it, from 0.
    """


@dataclasses.dataclass(frozen=True)
class AllWidths:
  """Every width in every step, as in the paper's algorithm 1.

  Attributes:
    widths: the model's widths, widest first.
  """

  widths: tuple[Width, ...]

  def __call__(self, step: int) -> tuple[Width, ...]:
    return self.widths


@dataclasses.dataclass(frozen=True)
class Sandwich:
  """The widest, the thinnest and random widths between them (US-Nets).

  Yu and Huang, ICCV 2019 (arXiv 1903.05134), section 3.2: each step trains both
  ends of the range and `random` widths drawn uniformly from it. A width is
  drawn exactly, from (seed, step) alone.

  Attributes:
    model: the network; its widths are the two ends of the range.
    widths: both, widest first.
    seed: seed of the run.
    random: number of random widths in a step; default: 2.
    bounds: widths inside which the random ones run, widest last; the thinner
      ones cost what the smallest that holds them costs.
    per_layer: whether every layer draws a width of its own (AutoSlim's
      supernet, arXiv 1903.11728); default: no.
  """

  model: SlimNet
  widths: tuple[float, float]
  seed: int
  bounds: tuple[float, ...]
  random: int = 2
  per_layer: bool = False

  def __call__(self, step: int) -> tuple[Width, ...]:
    widest, thinnest = self.widths
    draw = np.random.Generator(np.random.Philox(key=[self.seed, step])).uniform
    drawn: list[Width] = []
    for _ in range(self.random):
      if self.per_layer:
        fractions = draw(thinnest, widest, len(units(self.model)))
        drawn.append(self._channels(fractions))
      else:
        drawn.append(float(draw(thinnest, widest)))
    size = lambda width: sum(self.model.channels(width))
    return (widest, *sorted(drawn, key=size, reverse=True), thinnest)

  def _channels(self, fractions: np.ndarray) -> tuple[int, ...]:
    """Returns the channels of every layer, at the width of its unit."""
    channels = [0] * len(self.model.layer_names())
    for fraction, places in zip(fractions, units(self.model), strict=True):
      uniform = self.model.uniform_channels(float(fraction))
      for place in places:
        channels[place] = uniform[place]
    return tuple(channels)


def sandwich(
  model: SlimNet,
  widths: tuple[Width, ...],
  seed: int,
  *,
  random: int = 2,
  bounds: int = 4,
  per_layer: bool = False,
) -> Sandwich:
  """Returns the plan of a universally slimmable network.

  Args:
    model: the network, whose two widths are the ends of the range.
    widths: these, widest first.
    seed: seed of the run.
    random: number of random widths in a step; default: 2.
    bounds: number of programs for random widths, at evenly spaced widths; more
      are faster to run and longer to compile. Default: 4; layers that draw
      their own widths fit into the widest alone.
    per_layer: whether every layer draws a width of its own; default: no.

  Raises:
    ValueError: the model has other than two uniform widths, or a number is out
      of its range.
  """
  ends = [width for width in widths if isinstance(width, float)]
  if len(ends) != 2 or len(widths) != 2:
    raise ValueError(
      'config.model.widths must be the two ends of the range, such as'
      f' (0.25, 1.0), got {widths}'
    )
  checks.whole('random', random, least=0, most=64)
  checks.whole('bounds', bounds, least=1, most=64)
  checks.flag('per_layer', per_layer)
  widest, thinnest = ends
  step = (widest - thinnest) / bounds
  inner = [thinnest + step * number for number in range(1, bounds)]
  return Sandwich(
    model=model,
    widths=(widest, thinnest),
    seed=seed,
    bounds=(widest,) if per_layer else (*inner, widest),
    random=random,
    per_layer=per_layer,
  )


def check_random(model: SlimNet, frozen: frozenset[Path] = frozenset()) -> None:
  """Raises ValueError unless the network can train at random widths.

  Args:
    model: the network.
    frozen: paths of what is not trained; default: none.
  """
  check_maskable(model)
  shapes = variable_shapes(model)[NORM]
  own = {switch for switch, tree in shapes.items() if switch != SHARED and tree}
  if own:
    raise ValueError(
      'random widths need norms whose scale and bias all widths share:'
      " config.model.shared = ('norm',), got"
      f' {model.shared or "none"}'
    )
  if any(path[0] == NORM for path in frozen):
    raise ValueError(
      'a frozen norm normalises by running statistics, which a random width'
      ' does not have; leave the norms out of config.init.freeze'
    )


def check_plan(found: Any, known: Sequence[Width], what: str) -> None:
  """Raises ValueError if what a user's name stands for is no width plan.

  Args:
    found: object that it makes.
    known: widths of the model.
    what: key and name in errors, such as "config.plan.name 'a:b'".
  """
  widths = getattr(found, 'widths', None)
  if not callable(found) or not isinstance(widths, tuple) or not widths:
    raise ValueError(
      f'{what}: {type(found).__name__} is no width plan: plan(step) gives the'
      ' widths of a step, plan.widths is the tuple of all that it gives; see'
      ' slimjax.training.plans.WidthPlan'
    )
  strange = [width for width in widths if width not in known]
  if strange:
    raise ValueError(
      f'{what} gives the widths {strange}, which are not among those of the'
      f' model, {tuple(known)}'
    )


# Plans by the name in a configuration. They are called with those of `widths`
# (all that the model has, widest first), `model` and `seed` that they take, and
# with the other keys of the section `plan`.
PLANS: dict[str, Callable[..., WidthPlan]] = {
  'all': AllWidths,
  'sandwich': sandwich,
}
