"""Tells what a width uses of the variables, from shapes; nothing is recorded.

A width uses the leading block that the network built at that width would have.
So the shapes of `model.clone(widths=(width,))` are compared with those of the
whole model: an axis that differs is sliced, an axis that is equal is not. An
axis of several segments (groups, concatenations) is sliced inside each, as its
layer declares (`slimjax.nn.slicing`).

Shapes come from shape evaluation: nothing is computed or compiled, and the last
are kept.
"""

from collections.abc import Mapping
import dataclasses
import functools
import itertools
import math
from typing import Any

from flax import errors
from flax import traverse_util
import jax
from jax import lax

from slimjax.models.net import SlimNet
from slimjax.nn.slicing import Declared
from slimjax.nn.slicing import Fold
from slimjax.nn.slicing import Segments
from slimjax.nn.slicing import take
from slimjax.widths import label
from slimjax.widths import Width

Path = tuple[str, ...]
_KEPT = 64  # shape evaluations; dozens of widths of a network or two


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A variable of a network at one width.

  Attributes:
    shape: shape of the array.
    dtype: dtype of the array.
    segments: segments of every axis.
    fold: folding of the norm it belongs to; default: none.
    computed: the type its layer computes with; by default it does not say.
  """

  shape: tuple[int, ...]
  dtype: Any
  segments: tuple[Segments, ...]
  fold: Fold | None = None
  computed: Any = None


def describe(model: SlimNet, width: Width) -> Mapping[Path, Leaf]:
  """Returns the variables of `model` applied at `width`, by (collection, path).

  Args:
    model: a network with parameters of its full size.
    width: width at which it runs.

  Raises:
    ValueError: the network cannot be built at this width.
  """
  return _describe(model, width)


def key_shape() -> jax.ShapeDtypeStruct:
  """Returns the shape of a random key; making one would be traced."""
  return jax.eval_shape(lambda: jax.random.key(0))


@functools.lru_cache(maxsize=_KEPT)
def _describe(model: SlimNet, width: Width) -> Mapping[Path, Leaf]:
  def initialise(key, *inputs):
    return model.init(key, *inputs, width=width)

  try:
    tree = jax.eval_shape(initialise, key_shape(), *model.example())
  except (TypeError, ValueError, errors.FlaxError) as error:
    whole = width == model.full_channels
    at = 'full width' if whole else f'width {label(width)}'
    raise ValueError(
      f'{type(model).__name__} cannot be built at {at}: {error}'
    ) from error
  return {
    path: _leaf(value)
    for path, value in traverse_util.flatten_dict(
      tree, is_leaf=lambda _, value: isinstance(value, Declared)
    ).items()
  }


def _leaf(value: Any) -> Leaf:
  if isinstance(value, Declared):
    plain = _leaf(value.value)
    segments = value.segments or plain.segments
    return dataclasses.replace(
      plain, segments=segments, fold=value.fold, computed=value.computed
    )
  return Leaf(value.shape, value.dtype, tuple((n,) for n in value.shape))


@dataclasses.dataclass(frozen=True)
class Cut:
  """The part of an array that a width uses: of every segment the leading part.

  Attributes:
    full: segments of every axis of the whole array.
    used: segments of every axis of the part.
  """

  full: tuple[Segments, ...]
  used: tuple[Segments, ...]

  @property
  def whole_shape(self) -> tuple[int, ...]:
    """Returns the shape of the whole array."""
    return tuple(map(sum, self.full))

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of the part."""
    return tuple(map(sum, self.used))

  @property
  def is_whole(self) -> bool:
    """Returns whether the part is the whole array."""
    return self.full == self.used

  @property
  def stacked(self) -> 'Cut':
    """Returns the cut of arrays with one more axis in front, of length 1."""
    return Cut(((1,), *self.full), ((1,), *self.used))

  def take(self, array: jax.Array) -> jax.Array:
    """Returns the part of `array`."""
    for axis, (full, used) in enumerate(zip(self.full, self.used, strict=True)):
      array = take(array, axis, full, used)
    return array

  def add(self, total: jax.Array, part: jax.Array) -> jax.Array:
    """Returns `total` with `part` added to its part, in place if donated."""
    return self._change(total, part, lambda old, new: old + new)

  def put(self, array: jax.Array, part: jax.Array) -> jax.Array:
    """Returns `array` with its part replaced by `part`."""
    return self._change(array, part, lambda old, new: new)

  def _change(self, array, part, function):
    if self.is_whole:
      return function(array, part)
    for block in self._blocks():
      there, here, sizes = zip(*block, strict=True)
      new = lax.dynamic_slice(part, here, sizes)
      old = lax.dynamic_slice(array, there, sizes)
      array = lax.dynamic_update_slice(array, function(old, new), there)
    return array

  def _blocks(self):
    """Returns (start in whole, in part, size) of every axis, block by block."""
    axes = []
    for full, used in zip(self.full, self.used, strict=True):
      if full == used:
        axes.append([(0, 0, sum(full))])
        continue
      there = itertools.accumulate(full, initial=0)
      here = itertools.accumulate(used, initial=0)
      axes.append(list(zip(there, here, used, strict=False)))
    return itertools.product(*axes)


def cuts(model: SlimNet, width: Width) -> Mapping[Path, Cut]:
  """Returns the part of each variable that `width` uses, by (collection, path).

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    width: any width that fits into its parameters.

  Raises:
    ValueError: the network at this width is no part of the whole one.
  """
  model.channels(width)
  return _cuts(model, width)


@functools.lru_cache(maxsize=_KEPT)
def _cuts(model: SlimNet, width: Width) -> Mapping[Path, Cut]:
  whole = describe(model, model.full_channels)
  small = describe(narrow(model, width), width)
  found = {}
  for path, leaf in small.items():
    name, full = '/'.join(path), whole.get(path)
    if full is None:
      raise ValueError(
        f'{name}: the network at width {label(width)} has it, the whole'
        f' {type(model).__name__} has not; create the same variables at every'
        ' width'
      )
    fits = len(full.shape) == len(leaf.shape) and all(
      len(a) == len(b) and all(x >= y for x, y in zip(a, b, strict=True))
      for a, b in zip(full.segments, leaf.segments, strict=True)
    )
    if not fits:
      raise ValueError(
        f'{name}: its shape at width {label(width)} is {list(leaf.shape)}, no'
        f' leading part of {list(full.shape)}, its shape at full width'
      )
    found[path] = Cut(full.segments, leaf.segments)
  return found


def narrow(model: SlimNet, width: Width) -> SlimNet:
  """Returns the stand-alone network of one width, without its weights."""
  return model.clone(widths=(width,), shared=())


def take_width(
  model: SlimNet,
  selected: Mapping[str, Any],
  *,
  width: Width,
  partial: bool = False,
) -> dict[str, Any]:
  """Returns what a module of one width has, of what all widths share.

  Args:
    model: the slimmable network.
    selected: {collection: tree} of one switch, of full size or of its own.
    width: width of the switch.
    partial: whether collections may be left out, which then stay out; default:
      no.

  Raises:
    ValueError: a variable is missing or has neither size.
  """
  parts = cuts(model, width)
  flat = traverse_util.flatten_dict(dict(selected), keep_empty_nodes=False)
  taken = {}
  for path, cut in parts.items():
    if partial and path[0] not in selected:
      continue
    if path not in flat:
      raise ValueError(
        f'the variables of {type(model).__name__} have no {"/".join(path)}'
      )
    taken[path] = _take(cut, flat[path], path, width)
  return _nested(taken, selected)


def _take(cut: Cut, array: Any, path: Path, width: Width) -> Any:
  shape = tuple(array.shape)
  if shape == cut.shape:
    return array
  if shape != cut.whole_shape:
    # A tree of another switch that is wider than this one.
    single = all(len(axis) == 1 for axis in cut.full)
    wider = len(shape) == len(cut.shape) and all(
      n >= m for n, m in zip(shape, cut.shape, strict=True)
    )
    if not single or not wider or math.prod(shape) == 0:
      raise ValueError(
        f'{"/".join(path)} has the shape {list(shape)}, but the network has'
        f' {list(cut.whole_shape)}, and {list(cut.shape)} at width'
        f' {label(width)}. If its variables depend on the size of the images,'
        ' the model must say which: def example(self)'
      )
    cut = Cut(tuple((n,) for n in shape), cut.used)
  return cut.take(array)


def _nested(
  flat: Mapping[Path, Any], like: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a tree of flat leaves; collections without leaves stay, empty."""
  tree = traverse_util.unflatten_dict(dict(flat))
  return {name: tree.get(name, {}) for name in like}
