"""Multiply-accumulates and parameters of thousands of channel tuples at once.

The number of every product is a constant times the channels of a layer or two.
Which, two probe networks tell, whose layers have channels that no other has: an
axis that differs between them is the channels of one layer. So the cost of any
tuple is a polynomial of its channels, and nothing is traced for it.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any
from typing import Protocol

import jax
import numpy as np

from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.format import TRAINED
from slimjax.variables.masking import probe
from slimjax.variables.masking import units
from slimjax.variables.profile import Product
from slimjax.variables.profile import products
from slimjax.variables.profile import profile_model
from slimjax.variables.profile import trace

# First channels of the two probes.
_PROBES = (1000, 7000)
# An axis: the number of a layer, or None, and a constant factor.
Axis = tuple[int | None, int]


class Cost(Protocol):
  """What a search keeps under a target.

  It may also have an attribute `digest`, a hash of what was measured: by it a
  search that resumes knows its costs again.

  Attributes:
    unit: unit of the numbers, 'MACs' or 'ms'.
    noise: difference that means nothing, as a share of the cost.
  """

  @property
  def unit(self) -> str: ...

  @property
  def noise(self) -> float: ...

  def __call__(self, counts: Any) -> np.ndarray:
    """Returns the costs [n] of channels [n, layers]."""


@dataclasses.dataclass(frozen=True)
class Polynomial:
  """A sum of constants times the channels of some layers.

  Attributes:
    constants: the constants, float64 [terms]; whole numbers below 2 ** 53 are
      exact.
    factors: layers of each term, [terms, most]; -1 is no layer.
    unit: what is counted.
    noise: see `Cost`; nothing that is counted is noise.
  """

  constants: np.ndarray
  factors: np.ndarray
  unit: str
  noise: float = 0.0

  def __call__(self, counts: Any) -> np.ndarray:
    """Returns the sums, int64 [n], of channels [n, layers]."""
    counts = np.atleast_2d(np.asarray(counts, np.float64))
    ones = np.ones((len(counts), 1))
    padded = np.concatenate([counts, ones], axis=1)  # -1 is the column of ones
    terms = np.prod(padded[:, self.factors], axis=-1)  # [n, terms]
    return np.rint(terms @ self.constants).astype(np.int64)

  @classmethod
  def of(
    cls, terms: Iterable[tuple[Sequence[Axis], float]], unit: str
  ) -> 'Polynomial':
    """Returns the sum of some terms, like ones joined.

    Args:
      terms: axes whose product counts, and a factor.
      unit: what is counted.
    """
    sums: dict[tuple[int, ...], float] = {}
    for axes, factor in terms:
      layers = tuple(sorted(a for a, _ in axes if a is not None))
      constant = factor * math.prod(n for _, n in axes)
      sums[layers] = sums.get(layers, 0) + constant
    most = max([1, *map(len, sums)])
    factors = [[*layers, *[-1] * (most - len(layers))] for layers in sums]
    return cls(
      np.array(list(sums.values()), np.float64),
      np.array(factors, np.int64).reshape(len(sums), most),
      unit,
    )


@dataclasses.dataclass(frozen=True)
class Layered:
  """A product of a network whose axes are known to be layers' channels.

  Attributes:
    product: the product, in a probe network.
    axes: the axes of its `dims`.
    inputs: axes of what comes in, its left operand.
  """

  product: Product
  axes: tuple[Axis, ...]
  inputs: tuple[Axis, ...]


def macs_of(model: SlimNet, image_size: Size | None = None) -> Polynomial:
  """Returns the multiply-accumulates of any channels of a network.

  Args:
    model: the network.
    image_size: pixels, or (height, width); default: that of `model.example()`.

  Raises:
    ValueError: an axis is not the channels of one layer, such as where maps are
      joined.
  """
  size = None if image_size is None else pair(image_size)
  found = Polynomial.of(
    (
      (one.axes, one.product.times / one.product.divisor)
      for one in layered_products(model, size)
    ),
    'MACs',
  )
  _check(model, size, found, 'macs')
  return found


def params_of(model: SlimNet, image_size: Size | None = None) -> Polynomial:
  """Returns the parameters of any channels of a network; see `macs_of`."""
  size = None if image_size is None else pair(image_size)
  one, other = (_trained(_traced(model, first, size)[1]) for first in _PROBES)
  shapes = zip(one, other, strict=True)
  found = Polynomial.of(
    ((_axes(model, *both), 1.0) for both in shapes), 'parameters'
  )
  _check(model, size, found, 'params')
  return found


def layered_products(
  model: SlimNet, image_size: tuple[int, int] | None
) -> list[Layered]:
  """Returns the products of a network, with the layers of their axes."""
  one, other = (
    products(_traced(model, first, image_size)[0]) for first in _PROBES
  )
  found = []
  for a, b in zip(one, other, strict=True):
    shapes = [p.left for p in (a, b)]
    found.append(
      Layered(a, _axes(model, a.dims, b.dims), _axes(model, *shapes))
    )
  return found


@functools.lru_cache(maxsize=8)
def _traced(model: SlimNet, first: int, image_size: tuple[int, int] | None):
  bare = model.clone(shared=(), axis_name=None, remat=False)
  try:
    return trace(bare, probe(model, first), image_size)
  except ValueError as error:
    raise ValueError(
      f'{type(model).__name__} does not take any number of channels: {error}.'
      ' Only networks that do can be searched'
    ) from error


def _axes(
  model: SlimNet, one: Sequence[int], other: Sequence[int]
) -> tuple[Axis, ...]:
  """Returns the axes of two shapes, of the two probe networks."""
  if len(one) != len(other):
    raise ValueError(_joined(model, one, other))
  axes: list[Axis] = []
  for a, b in zip(one, other, strict=True):
    unit = a - _PROBES[0]
    if a == b:
      axes.append((None, a))
    elif 0 <= unit < len(units(model)) and unit == b - _PROBES[1]:
      axes.append((units(model)[unit][0], 1))
    else:
      raise ValueError(_joined(model, one, other))
  return tuple(axes)


def _joined(model, one, other) -> str:
  return (
    f'{type(model).__name__} has an array whose axes are not the channels of'
    f' one layer each ({list(one)} at channels from {_PROBES[0]} on,'
    f' {list(other)} from {_PROBES[1]} on), so that its cost is not known.'
    ' Networks that join maps or repeat channels cannot be searched'
  )


def _trained(shapes: Any) -> list[tuple[int, ...]]:
  """Returns the shapes of what is trained."""
  trees = [shapes.get(name, {}) for name in TRAINED]
  return [leaf.shape for leaf in jax.tree.leaves(trees)]


def _check(model, image_size, found: Polynomial, what: str) -> None:
  """Compares the cost of one width with what is counted of its own program."""
  width = model.ordered_widths[0]
  profile = profile_model(model, width=width, image_size=image_size)
  counted = getattr(profile, what)
  (told,) = found([model.channels(width)])
  if abs(told - counted) > 1e-6 * counted:
    raise ValueError(
      f'{type(model).__name__}: {told} {found.unit} by the channels of its'
      f' layers, but {counted} by its program at width {width}; its products'
      ' depend on more than channels, so that it cannot be searched'
    )
