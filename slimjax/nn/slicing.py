"""Takes the active part of a parameter, and says how a layer declares it.

An axis of a parameter is one run of channels or several *segments*, one after
another (the groups of a convolution, the parts of a concatenation). A width
uses the leading channels of every segment. An axis with one segment needs no
declaration; a layer whose axis has several boxes the initial value in
`Declared`, which only initialisation sees.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

Segments = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Fold:
  """How the batch norm of a `ConvNorm` folds into its convolution.

  Attributes:
    conv: name of the convolution, beside the norm.
    epsilon: number that the norm adds to the variance.
  """

  conv: str
  epsilon: float


class Declared(struct.PyTreeNode, nn.meta.AxisMetadata):
  """An initial value, and what its layer says of it.

  Attributes:
    value: the array, or its shape.
    segments: the segments of every axis; default: one each.
    fold: folding of the norm whose scale it is; default: none.
    computed: the type the layer computes with; by default it does not say.
  """

  value: Any
  segments: tuple[Segments, ...] | None = struct.field(
    pytree_node=False, default=None
  )
  fold: Fold | None = struct.field(pytree_node=False, default=None)
  computed: Any = struct.field(pytree_node=False, default=None)

  def unbox(self) -> Any:
    return self.value

  def replace_boxed(self, val: Any) -> 'Declared':
    return self.replace(value=val)

  def add_axis(self, index: int, params: dict[Any, Any]) -> 'Declared':
    raise ValueError('slimmable layers cannot be stacked by nn.scan or nn.vmap')

  def remove_axis(self, index: int, params: dict[Any, Any]) -> 'Declared':
    raise ValueError('slimmable layers cannot be stacked by nn.scan or nn.vmap')


def declare(
  init: Callable[..., Any],
  *,
  segments: Sequence[Segments] = (),
  fold: Fold | None = None,
  computed: Any = None,
) -> Callable[..., Any]:
  """Returns an initialiser whose value carries a declaration.

  Args:
    init: the plain initialiser.
    segments: segments of every axis; default: one each.
    fold: see `Fold`.
    computed: see `Declared`.
  """
  several = any(len(axis) > 1 for axis in segments)
  if not several and fold is None and computed is None:
    return init

  def declared(*args, **kwargs):
    value = init(*args, **kwargs)
    return Declared(value, tuple(segments) if several else None, fold, computed)

  return declared


def slim_param(
  module: nn.Module,
  name: str,
  init: nn.initializers.Initializer,
  shape: Sequence[int],
  segments: Sequence[Segments] = (),
) -> jax.Array:
  """Returns a parameter of `module`, whatever its size.

  `nn.Module.param` refuses an array whose shape is not the initialiser's; here
  a layer that slices takes parameters that are wider than its call needs.

  Args:
    module: the layer, inside its compact method.
    name: name of the parameter.
    init: initialiser of the value.
    shape: shape of the initial value.
    segments: segments of every axis; default: one each.
  """
  if module.has_variable('params', name):
    return nn.meta.unbox(module.get_variable('params', name))
  dtype = jnp.dtype(getattr(module, 'dtype', jnp.float32))
  computed = None if dtype == jnp.float32 else dtype
  declared = declare(init, segments=segments, computed=computed)
  return module.param(name, declared, tuple(shape), jnp.float32)


def equal_segments(channels: int, count: int) -> Segments:
  """Returns `count` equal segments that are `channels` together."""
  return (channels // count,) * count


def take(
  array: jax.Array, axis: int, full: Segments, used: Segments
) -> jax.Array:
  """Returns the leading channels of every segment of an axis.

  Args:
    array: has `sum(full)` channels along `axis`; one of numpy stays one.
    axis: number of the axis, from 0, or negative.
    full: segments of the array.
    used: channels to take of each segment.
  """
  if full == used:
    return array
  axis %= array.ndim
  # On the host numpy slices: XLA would compile a program for every shape.
  host = isinstance(array, np.ndarray)
  parts: list[Any] = []
  start = 0
  for size, count in zip(full, used, strict=True):
    if host:
      parts.append(
        array[(slice(None),) * axis + (slice(start, start + count),)]
      )
    else:
      parts.append(lax.slice_in_dim(array, start, start + count, axis=axis))
    start += size
  join: Any = np.concatenate if host else jnp.concatenate
  return parts[0] if len(parts) == 1 else join(parts, axis=axis)


def take_active(
  array: jax.Array, axis: int, count: int, groups: int = 1
) -> jax.Array:
  """Returns the leading `count / groups` channels of each of equal groups.

  With one group these are the leading `count` channels of `axis`.
  """
  full = array.shape[axis]
  return take(
    array, axis, equal_segments(full, groups), equal_segments(count, groups)
  )


def put_active(
  array: jax.Array, values: jax.Array, groups: int = 1
) -> jax.Array:
  """Returns `array` [c] with its active channels replaced (`take_active`)."""
  if values.shape == array.shape:
    return values
  split = array.reshape(groups, -1)
  return lax.dynamic_update_slice(
    split, values.reshape(groups, -1).astype(array.dtype), (0, 0)
  ).reshape(array.shape)


def path_of(module: nn.Module) -> str:
  """Returns the path of a bound module, or the name of its class at the top."""
  return '/'.join(module.path) or type(module).__name__


def check_count(
  module: nn.Module, what: str, count: int, full: int, blocks: int = 1
) -> None:
  """Raises ValueError unless `count` of `full` channels can be active.

  Args:
    module: the layer, for the message.
    what: 'input', 'output' or the like.
    count: active channels.
    full: channels of the parameter.
    blocks: groups that both must divide into; default: 1.
  """
  if not 0 < count <= full:
    raise ValueError(
      f'{path_of(module)}: {count} active {what} channels, but it has 1 to'
      f' {full}'
    )
  if count % blocks or full % blocks:
    raise ValueError(
      f'{path_of(module)}: {count} of {full} {what} channels do not divide into'
      f' {blocks} groups'
    )


def join_parts(
  module: nn.Module,
  inputs: jax.Array | Sequence[jax.Array],
  in_features: int | Sequence[int] | None,
) -> tuple[jax.Array, Segments, Segments]:
  """Returns the joined input, and its segments at full width and active.

  Args:
    module: the layer, for messages.
    inputs: an array [..., c], or several to be joined along the channels.
    in_features: channels at full width, of each of several parts; None if the
      input is as wide as the parameters are to be.

  Raises:
    ValueError: the parts do not fit `in_features`.
  """
  single = hasattr(inputs, 'shape')
  parts: list[Any] = [inputs] if single else [jnp.asarray(x) for x in inputs]
  used = tuple(part.shape[-1] for part in parts)
  if in_features is None:
    full = used
  else:
    full = (
      (in_features,) if isinstance(in_features, int) else tuple(in_features)
    )
  if len(full) != len(used):
    raise ValueError(
      f'{path_of(module)}: {len(used)} inputs come in, but in_features has'
      f' {len(full)} numbers: {full}'
    )
  joined = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
  return joined, full, used


def take_inputs(
  module: nn.Module,
  kernel: jax.Array,
  axis: int,
  full: Segments,
  used: Segments,
) -> jax.Array:
  """Returns the rows of a kernel that the active input channels meet.

  Args:
    module: the layer, for messages.
    kernel: array as wide as the input, or wider.
    axis: number of the axis of input channels.
    full: segments at full width, as `join_parts` returns them.
    used: active segments.

  Raises:
    ValueError: the input is wider than the kernel, or comes in several parts
      that are thinner than the kernel, whose full sizes nobody has said.
  """
  rows = kernel.shape[axis]
  if rows == sum(used):
    return kernel
  if len(used) == 1:
    if used[0] > rows:
      raise ValueError(
        f'{path_of(module)}: {used[0]} active input channels, but it has 1 to'
        f' {rows}; if an earlier call was thinner, give in_features, the most'
        ' channels that come in at full width'
      )
    check_count(module, 'input', used[0], rows)
    return take(kernel, axis, (rows,), used)
  if sum(full) != rows:
    raise ValueError(
      f'{path_of(module)}: parts of {used} channels come in, but the kernel has'
      f' {rows} rows; give in_features, the channels of every part at full'
      ' width'
    )
  for count, most in zip(used, full, strict=True):
    check_count(module, 'input', count, most)
  return take(kernel, axis, full, used)
