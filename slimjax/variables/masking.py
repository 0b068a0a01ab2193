"""Runs many widths by one program: idle channels are masked, not sliced.

A norm whose scale and bias are zero for the idle channels makes them zero, and
all that follows keeps zeros: convolutions, sums, pooling, ReLU. Statistics are
per channel, so active channels never see idle ones, and no gradient reaches
what is idle. So a width is data: its counts mask the norms, while the program
is compiled at a static width that holds it, its bound.

Networks where that does not hold are refused: whose shuffles or groups cut the
channels at places that depend on their number, whose norms mix channels, or
where something else than zero follows a norm that is zero.
"""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import SlimNet
from slimjax.variables.format import PARAMS
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import key_shape
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import Path
from slimjax.variables.slicing import take_width
from slimjax.widths import Width

NORM = 'norm'
# Channels of the layers of a network that only tells which norm is whose.
_PROBE = 1000
_TOLERANCE = 1e-3  # of float32 outputs, whose sums are ordered differently


def counts_of(model: SlimNet, width: Width) -> np.ndarray:
  """Returns the active channels of every layer, int32 [layers]."""
  return np.asarray(model.channels(width), np.int32)


def units(model: SlimNet) -> tuple[tuple[int, ...], ...]:
  """Returns the layers that have equal channels, by their places, in order."""
  found: dict[Any, list[int]] = {}
  for place, (_, tie) in enumerate(model.layer_names()):
    found.setdefault(place if tie is None else tie, []).append(place)
  return tuple(map(tuple, found.values()))


def probe(model: SlimNet, first: int = _PROBE) -> tuple[int, ...]:
  """Returns channels by which shapes tell their unit: 1000, 1001, ...

  Args:
    model: the network.
    first: channels of the first unit; default: 1000.
  """
  channels = np.zeros(len(model.layer_names()), int)
  for number, places in enumerate(units(model)):
    channels[[*places]] = first + number
  return tuple(channels.tolist())


def norm_layers(model: SlimNet) -> Mapping[Path, int | None]:
  """Returns the layer whose channels each norm has, by the path of a variable.

  None are the norms that are not slimmed.

  Args:
    model: the network; nothing of it is computed.

  Raises:
    ValueError: a network like this cannot be masked; the message says why.
  """
  return _norm_layers(model.clone(shared=()))


@functools.lru_cache(maxsize=16)
def _norm_layers(model: SlimNet) -> Mapping[Path, int | None]:
  name = type(model).__name__
  channels = probe(model)
  try:
    shapes = describe(narrow(model, channels), channels)
  except ValueError as error:
    raise ValueError(
      f'{name} cannot run at random widths by a mask, as it does not take any'
      f' number of channels: {error}. Train it at fixed widths'
    ) from error
  whole = describe(model, model.full_channels)
  found: dict[Path, int | None] = {}
  for path, leaf in whole.items():
    if path[0] != NORM:
      continue
    here = shapes[path].shape
    if any(len(axis) > 1 for axis in leaf.segments):
      raise ValueError(
        f'{name} cannot run at random widths by a mask: {"/".join(path)} has'
        ' channels in groups, of which each is slimmed inside. Train it at'
        ' fixed widths'
      )
    if here == leaf.shape:
      found[path[1:]] = None
    elif len(here) == 1 and here[0] in channels:
      found[path[1:]] = channels.index(here[0])
    else:
      raise ValueError(
        f'{name} cannot run at random widths by a mask: {"/".join(path)} has'
        ' not the channels of one layer. Train it at fixed widths'
      )
  if not found:
    raise ValueError(
      f'{name} has no norms, so there is nothing to mask; random widths need'
      ' batch normalisation after every layer that sets a width'
    )
  return found


def mask_norm(model: SlimNet, norm: Mapping[str, Any], counts: Any) -> Any:
  """Returns a tree of norms whose idle channels are zero.

  Args:
    model: the network.
    norm: tree of a bound's norms: {module path: scale, bias}.
    counts: the active channels of every layer, int32 [layers]; may be traced.
  """
  layers = norm_layers(model)
  masked = {}
  for path, array in traverse_util.flatten_dict(dict(norm)).items():
    layer = layers[path]
    if layer is not None:
      active = jnp.arange(array.shape[0], dtype=jnp.int32) < counts[layer]
      array = jnp.where(active, array, jnp.zeros((), array.dtype))
    masked[path] = array
  return traverse_util.unflatten_dict(masked)


def check_maskable(model: SlimNet) -> None:
  """Compares a masked width with the same one sliced, by numbers.

  The families of slimjax are compared by its tests, others here, where a few
  seconds are spent on it.

  Raises:
    ValueError: they differ, or the network cannot be masked at all.
  """
  norm_layers(model)
  if type(model).__module__.startswith('slimjax.models.'):
    return
  _compare(model.clone(shared=(), axis_name=None, remat=False))


@functools.lru_cache(maxsize=16)
def _compare(model: SlimNet) -> None:
  full, thin = model.full_channels, model.channels(model.ordered_widths[0])
  exact = model.clone(widths=(full,), dtype=jnp.float32)
  small = narrow(exact, thin)
  # Of several examples, as statistics would be of their own.
  inputs = [
    _drawn((4, *x.shape[1:]), x.dtype, i) for i, x in enumerate(model.example())
  ]
  shapes = jax.eval_shape(
    functools.partial(exact.init, width=full), key_shape(), *inputs
  )
  flat = traverse_util.flatten_dict(nn.meta.unbox(shapes))
  variables = traverse_util.unflatten_dict(
    {
      path: _variable(path, leaf, i)
      for i, (path, leaf) in enumerate(flat.items())
    }
  )
  masked = {**variables, NORM: mask_norm(model, variables[NORM], thin)}
  sliced = take_width(exact, variables, width=thin)
  outputs = [
    jax.tree.map(np.asarray, _quickly(network)(weights, inputs))
    for network, weights in ((exact, masked), (small, sliced))
  ]
  for one, other in zip(*map(jax.tree.leaves, outputs), strict=True):
    gap = np.max(np.abs(one - other)) if one.shape == other.shape else np.inf
    if not gap <= _TOLERANCE * np.max(np.abs(other)):
      raise ValueError(
        f'{type(model).__name__} cannot run at random widths by a mask: its'
        f' outputs at {model.ordered_widths[0]} differ from the sliced ones by'
        f' {gap:.2g}. Something else than zero follows a norm whose scale and'
        ' bias are zero, such as a convolution with a bias and no norm, or a'
        ' norm over several channels. Train it at fixed widths'
      )


def _quickly(network: SlimNet) -> Any:
  """Returns the network's evaluation, compiled quickly: it runs but once."""

  def run(weights, inputs):
    return network.apply(weights, *inputs, width=network.widths[0])

  quick = jax.default_backend() == 'cpu'
  return jax.jit(
    run,
    compiler_options={'xla_backend_optimization_level': 0} if quick else None,
  )


def _variable(path: Path, leaf: Any, number: int) -> np.ndarray:
  """Returns random numbers for a variable that hide no difference."""
  if path[0] not in (PARAMS, NORM):  # statistics of nothing yet
    ones = path[-1] == 'var'
    return np.full(leaf.shape, ones, leaf.dtype)
  values = _drawn(leaf.shape, leaf.dtype, number)
  if len(leaf.shape) > 1:
    return values * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
  return 1 + values / 4 if path[-1] == 'scale' else values / 4


def _drawn(shape: tuple[int, ...], dtype: Any, number: int) -> np.ndarray:
  values = np.random.default_rng(number).standard_normal(shape)
  whole = jnp.issubdtype(dtype, jnp.integer)
  return np.zeros(shape, dtype) if whole else values.astype(dtype)
