"""Sorts channels by importance, so that leading slices hold the best ones.

A network computes the same whatever the order of the channels inside it, if
every kernel and norm that a layer's channels meet is put in the same order. The
layers that `layer_names()` ties, whose maps are summed, move together, and so
does a depthwise convolution with its input. Inputs and outputs stay.

Which axis of an array belongs to which layer is known from shapes: the network
is described once with a number of channels for every unit that is unlike all
others.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax import naming
from slimjax.models.net import SlimNet
from slimjax.variables.comparing import difference
from slimjax.variables.fitting import Source
from slimjax.variables.format import apply
from slimjax.variables.format import PARAMS
from slimjax.variables.format import select
from slimjax.variables.format import Variables
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import Path
from slimjax.variables.slicing import take_width
from slimjax.widths import switch_name
from slimjax.widths import Width

# For every axis of a variable the unit whose channels it has, or None.
Axes = Mapping[Path, tuple[int | None, ...]]
Flat = Mapping[Path, np.ndarray]
# Counts of the description are multiples of this, which most rules divide.
_STEP = 48


def sort_channels(
  model: SlimNet, source: Source, *, method: str = 'l1'
) -> Source:
  """Returns a network of one width, the model's widest, its channels sorted.

  Args:
    model: the network that is to begin with it.
    source: weights of the same architecture, no thinner than `model`.
    method: a key of `METHODS`; default: l1.

  Raises:
    ValueError: the method is unknown, or the channels cannot be sorted, as
      groups of them are slimmed apart or their number is not all that sets a
      shape.
  """
  if method not in METHODS:
    raise ValueError(
      f'unknown method {method!r} of importance; there are'
      f' {", ".join(METHODS)}{naming.near(method, METHODS)}'
    )
  width = widest(model)
  whole = source.model.clone(widths=(width,), shared=())
  nearest = source.nearest(model.full_channels)
  selected = select(source.variables, switch_name(nearest))
  selected = jax.tree.map(np.asarray, selected)
  tree = take_width(source.model, selected, width=nearest)
  tree = take_width(narrow(source.model, nearest), tree, width=width)
  flat = {
    path: np.asarray(array)
    for path, array in traverse_util.flatten_dict(tree).items()
  }
  ordered = permuted(whole, flat, orders(whole, flat, method))
  variables = _of_switch(ordered, width)
  _check_same(whole, _of_switch(flat, width), variables)
  notes = (*source.notes, f'channels sorted by {method}')
  return Source(source.name, whole, variables, notes)


def _of_switch(flat: Flat, width: Width) -> dict[str, Any]:
  """Returns the variables of a network of one width."""
  tree = traverse_util.unflatten_dict(dict(flat))
  switch = switch_name(width)
  return {
    name: of_name if name == PARAMS else {switch: of_name}
    for name, of_name in tree.items()
  }


def widest(model: SlimNet) -> Width:
  """Returns the width that has all channels, a float where there is one."""
  for width in model.widths:
    if model.channels(width) == model.full_channels:
      return width
  return model.full_channels


def units(model: SlimNet) -> list[int]:
  """Returns for every layer that sets a width the unit it moves with."""
  numbers: dict[Any, int] = {}
  return [
    numbers.setdefault(tie or (layer,), len(numbers))
    for layer, tie in model.layer_names()
  ]


def channel_axes(model: SlimNet) -> Axes:
  """Returns whose channels every axis of every variable holds.

  Args:
    model: the network; paths are those of `describe`.

  Raises:
    ValueError: some axis cannot be told.
  """
  whole = describe(model, model.full_channels)
  largest = max(n for leaf in whole.values() for n in (1, *leaf.shape))
  first = largest // _STEP + 1
  count = len(set(units(model)))
  one, other = (
    _described(model, [_STEP * (first + shift + i) for i in range(count)])
    for shift in (0, count)
  )
  found = {}
  for path, leaf in one.items():
    axes: list[int | None] = []
    for axis, segments in enumerate(leaf.segments):
      sizes = leaf.shape[axis], other[path].shape[axis]
      unit = sizes[0] // _STEP - first
      if sizes[0] == sizes[1]:
        axes.append(None)
      elif sizes[1] == sizes[0] + _STEP * count and len(segments) == 1:
        axes.append(unit)
      else:
        raise ValueError(
          f'{"/".join(path)} of {type(model).__name__}: its axis {axis} is'
          ' slimmed in several groups or parts, or holds more than the channels'
          ' of one layer; such channels cannot be sorted, load_weights takes'
          ' them in their order'
        )
    found[path] = tuple(axes)
  return found


def _described(model: SlimNet, counts: list[int]):
  """Returns the variables of the network whose units have these channels."""
  channels = tuple(counts[unit] for unit in units(model))
  try:
    return describe(narrow(model, channels), channels)
  except ValueError as error:
    raise ValueError(
      f'the channels of {type(model).__name__} cannot be sorted, as each'
      f' layer cannot have a number of its own: {error}'
    ) from error


def orders(model: SlimNet, flat: Flat, method: str) -> list[np.ndarray]:
  """Returns for every unit its channels, the most important first.

  Args:
    model: a network of one width.
    flat: variables of the model, by (collection, path).
    method: a key of `METHODS`.
  """
  axes = channel_axes(model)
  scores: dict[int, Any] = dict.fromkeys(units(model), 0.0)
  sizes = dict(zip(units(model), model.full_channels, strict=True))
  for path, array in flat.items():
    for unit, score in METHODS[method](path, np.abs(array), axes[path]):
      scores[unit] = scores[unit] + score
  # The sort is stable: equal channels stay in their order.
  return [
    np.argsort(-(scores[unit] + np.zeros(sizes[unit])), kind='stable')
    for unit in sorted(scores)
  ]


def permuted(model: SlimNet, flat: Flat, order: list[np.ndarray]) -> dict:
  """Returns the variables with the channels of every unit in an order.

  Args:
    model: a network of one width.
    flat: variables of the model, by (collection, path).
    order: channels of every unit, as they come first, second, ...
  """
  axes, result = channel_axes(model), dict(flat)
  for path, of_axes in axes.items():
    for axis, unit in enumerate(of_axes):
      if unit is not None:
        result[path] = np.take(result[path], order[unit], axis)
  return result


# Importance: (path, |array|, units of its axes) -> (unit, score of channels).


def _read(path: Path, array: np.ndarray, axes):
  """Returns the kernels that read a channel; a depthwise one passes it on."""
  if path[0] == PARAMS and array.ndim > 1 and axes[-2] is not None:
    yield axes[-2], _sum_but(array, -2)


def _made(path: Path, array: np.ndarray, axes):
  """Returns the kernels that make a channel, but for depthwise ones."""
  dense = array.ndim > 1 and array.shape[-2] > 1
  if path[0] == PARAMS and dense and axes[-1] is not None:
    yield axes[-1], _sum_but(array, -1)


def _scaled(path: Path, array: np.ndarray, axes):
  """Returns the scales of the norms that a channel passes."""
  if path[0] == 'norm' and path[-1] == 'scale' and axes[-1] is not None:
    yield axes[-1], _sum_but(array, -1)


def _sum_but(array: np.ndarray, axis: int) -> np.ndarray:
  others = tuple(n for n in range(array.ndim) if n != axis % array.ndim)
  return array.sum(others, dtype=np.float64)


METHODS: Mapping[str, Callable] = {
  'l1': _read,
  'l1_made': _made,
  'scale': _scaled,
}


def _check_same(model: SlimNet, before: Variables, after: Variables) -> None:
  """Raises ValueError if a network gives something else in another order."""
  random = np.random.default_rng(0)
  inputs = [
    jnp.asarray(random.standard_normal((2, *like.shape[1:])), like.dtype)
    for like in model.example()
  ]
  one, other = (
    apply(model, variables, *inputs, width=model.widths[0])
    for variables in (before, after)
  )
  gap = difference(other, one)
  if gap > 1e-3:
    raise ValueError(
      f'the outputs of {type(model).__name__} depend on the order of its'
      f' channels (they change by {gap:.1e}), so that these cannot be sorted;'
      ' layers whose maps are summed need one group in layer_names'
    )
