"""Layers that run at any number of leading channels.

Parameters have their full size; a call says how many output channels are
active, and the active input channels are those of the input. This is the only
module that slices parameters. A count that is a Python int slices.

Every layer also sows what it used (the slices, in the collections
`active_params`, `active_norm`, `active_batch_stats`), so that a stand-alone
network is made from the same slices, not from a second description of them.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from slimjax.batch_norm import batch_norm_train
from slimjax.convolution import convolve
from slimjax.depthwise import depthwise_conv

Padding = int | tuple[tuple[int, int], tuple[int, int]] | None

# Normal with variance 2 / (kh * kw * out), out being the full width (paper,
# appendix A and the authors' configurations).
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
dense_init = nn.initializers.normal(0.01)
# Of every batch norm, as in PyTorch.
MOMENTUM = 0.1
EPSILON = 1e-5


def take_active(
  array: jax.Array, axis: int, count: int, groups: int = 1
) -> jax.Array:
  """The leading `count / groups` entries of each of `groups` equal parts.

  With one group these are the leading `count` entries of `axis`.
  """
  full = array.shape[axis]
  if count == full:
    return array
  if groups == 1:
    return lax.slice_in_dim(array, 0, count, axis=axis)
  axis %= array.ndim
  before, after = array.shape[:axis], array.shape[axis + 1 :]
  split = (*before, groups, full // groups, *after)
  joined = (*before, count, *after)
  return lax.slice_in_dim(
    array.reshape(split), 0, count // groups, axis=axis + 1
  ).reshape(joined)


def put_active(
  array: jax.Array, values: jax.Array, groups: int = 1
) -> jax.Array:
  """`array` [c] with its active entries (see `take_active`) replaced."""
  if values.shape == array.shape:
    return values
  split = array.reshape(groups, -1)
  return lax.dynamic_update_slice(
    split, values.reshape(groups, -1).astype(array.dtype), (0, 0)
  ).reshape(array.shape)


def _param(module, name, init, shape):
  """The parameter, whatever its size: an extracted net has smaller ones.

  `nn.Module.param` would refuse a kernel that has not the initialiser's shape,
  and the full number of input channels is known at initialisation only.
  """
  if module.has_variable('params', name):
    return module.get_variable('params', name)
  return module.param(name, init, shape, jnp.float32)


def _sow(module, collection, name, value):
  """Records what the layer uses of a variable (see the module's docstring)."""
  module.sow(
    f'active_{collection}',
    name,
    value,
    init_fn=lambda: None,
    reduce_fn=lambda _, new: new,
  )
  return value


def _path(module) -> str:
  return '/'.join(module.path) or type(module).__name__


def _check_count(module, what, count, full, blocks=1):
  if not 0 < count <= full:
    raise ValueError(
      f'{_path(module)}: {count} active {what} channels, but it has 1 to {full}'
    )
  if count % blocks or full % blocks:
    raise ValueError(
      f'{_path(module)}: {count} of {full} {what} channels do not divide into'
      f' {blocks} groups'
    )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
  return (value, value) if isinstance(value, int) else (value[0], value[1])


def _padding(padding: Padding, kernel_size, dilation):
  if padding is None:
    v, h = (
      d * (k - 1) // 2 for d, k in zip(dilation, kernel_size, strict=True)
    )
    return (v, v), (h, h)
  if isinstance(padding, int):
    return (padding, padding), (padding, padding)
  return padding


class SlimConv(nn.Module):
  """A 2-D convolution over the leading channels of its kernel.

  Attributes:
    features: output channels at full width.
    kernel_size: an int, or (height, width).
    strides: an int, or (vertical, horizontal).
    padding: None for PyTorch's usual `dilation * (kernel - 1) // 2` on every
      side, an int for every side, or ((top, bottom), (left, right)).
    dilation: an int, or (vertical, horizontal).
    groups: `features` makes it depthwise: each active channel is its own
      group. Else a fixed number of groups, each of which is slimmed inside.
    out_groups: the output's channels are this many blocks, each slimmed
      inside. `groups` unless told, and 1 for a depthwise convolution. (A dense
      convolution that feeds a grouped one says how many blocks that one sees.)
    use_bias: adds a bias.
    dtype: of the computation; the parameters are float32.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  strides: int | tuple[int, int] = 1
  padding: Padding = None
  dilation: int | tuple[int, int] = 1
  groups: int = 1
  out_groups: int | None = None
  use_bias: bool = False
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = conv_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @property
  def depthwise(self) -> bool:
    return self.groups > 1 and self.groups == self.features

  @property
  def out_blocks(self) -> int:
    """The blocks the output's channels are slimmed in."""
    return self.out_groups or (1 if self.depthwise else self.groups)

  @nn.compact
  def __call__(
    self, inputs: jax.Array, features: int | None = None
  ) -> jax.Array:
    """Convolves `inputs` [b, h, w, c] into [b, h', w', features].

    Args:
      inputs: images or maps; their channels are the active input channels.
      features: active output channels; all of them unless told (a depthwise
        convolution keeps the channels that come in).
    """
    channels = inputs.shape[-1]
    if features is None:
      features = channels if self.depthwise else self.features
    _check_count(self, 'output', features, self.features, self.out_blocks)
    if self.depthwise and features != channels:
      raise ValueError(
        f'{_path(self)}: a depthwise convolution keeps its channels, but'
        f' {channels} come in and {features} are asked for'
      )
    groups = channels if self.depthwise else self.groups
    if channels % groups:
      raise ValueError(
        f'{_path(self)}: {channels} input channels do not divide into {groups}'
        ' groups'
      )
    kernel_size = _pair(self.kernel_size)
    shape = (*kernel_size, channels // groups, self.features)
    kernel = _param(self, 'kernel', self.kernel_init, shape)
    _check_count(self, 'input', channels // groups, kernel.shape[2])
    # [kh, kw, in / groups, out], active channels only
    kernel = take_active(kernel, 2, channels // groups)
    kernel = take_active(kernel, 3, features, self.out_blocks)
    kernel = _sow(self, 'params', 'kernel', kernel).astype(self.dtype)
    inputs = inputs.astype(self.dtype)
    strides, dilation = _pair(self.strides), _pair(self.dilation)
    padding = _padding(self.padding, kernel_size, dilation)
    if self.depthwise:
      outputs = depthwise_conv(
        inputs, kernel, strides=strides, padding=padding, dilation=dilation
      )
    else:
      outputs = convolve(
        inputs,
        kernel,
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
      )
    if self.use_bias:
      bias = _param(self, 'bias', self.bias_init, (self.features,))
      bias = take_active(bias, 0, features, self.out_blocks)
      bias = _sow(self, 'params', 'bias', bias).astype(self.dtype)
      outputs += bias.reshape(1, 1, 1, -1)
    return outputs


class SlimDense(nn.Module):
  """A fully connected layer over the leading channels of its kernel.

  Attributes:
    features: outputs at full width; a classifier's are always all active.
    use_bias: adds a bias.
    dtype: of the computation; the parameters are float32.
  """

  features: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = dense_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(
    self, inputs: jax.Array, features: int | None = None
  ) -> jax.Array:
    """`inputs` [..., c] -> [..., features]."""
    features = self.features if features is None else features
    channels = inputs.shape[-1]
    _check_count(self, 'output', features, self.features)
    kernel = _param(self, 'kernel', self.kernel_init, (channels, self.features))
    _check_count(self, 'input', channels, kernel.shape[0])
    kernel = take_active(take_active(kernel, 0, channels), 1, features)
    kernel = _sow(self, 'params', 'kernel', kernel)
    outputs = inputs.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = _param(self, 'bias', self.bias_init, (self.features,))
      bias = _sow(self, 'params', 'bias', take_active(bias, 0, features))
      bias = bias.astype(self.dtype)
      outputs += bias.reshape((1,) * (outputs.ndim - 1) + (-1,))
    return outputs


class SwitchableBatchNorm(nn.Module):
  """Batch normalisation whose variables belong to one switch.

  The layer is applied to one switch's trees (collections `norm` and
  `batch_stats`) and knows of no other: what switches is the tree it is given.
  A tree wider than the input (one tree for several widths) is sliced.

  Running statistics follow PyTorch: new = (1 - momentum) * old + momentum *
  batch, with the unbiased variance, n / (n - 1). Statistics and parameters are
  float32 whatever the compute dtype (float64 if the input is).

  Attributes:
    momentum: of the running statistics, in PyTorch's sense.
    epsilon: added to the variance.
    groups: the channels are this many blocks, each slimmed inside.
    axis_name: a mesh axis over which the batch statistics are averaged
      (synchronised batch normalisation); None keeps them per device.
    dtype: of the result.
  """

  momentum: float = MOMENTUM
  epsilon: float = EPSILON
  groups: int = 1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    """Normalises `inputs` [..., c] over all axes but the last.

    Args:
      inputs: maps or vectors of the active channels.
      train: with the batch's statistics, which move the running ones (the
        collection `batch_stats` must be mutable); else with the running ones.
    """
    channels = inputs.shape[-1]
    zeros = lambda: jnp.zeros((channels,), jnp.float32)
    ones = lambda: jnp.ones((channels,), jnp.float32)
    scale = self._active('norm', 'scale', ones, channels)
    bias = self._active('norm', 'bias', zeros, channels)
    mean = self._active('batch_stats', 'mean', zeros, channels)
    var = self._active('batch_stats', 'var', ones, channels)
    inputs = inputs.astype(self.dtype)
    if not train:
      shape = (1,) * (inputs.ndim - 1) + (-1,)
      statistics = jnp.promote_types(jnp.float32, self.dtype)
      factor = lax.rsqrt(var.astype(statistics) + self.epsilon) * scale
      outputs = (inputs - mean.reshape(shape)) * factor.reshape(shape)
      return (outputs + bias.reshape(shape)).astype(self.dtype)
    outputs, batch_mean, batch_var = batch_norm_train(
      inputs, scale, bias, epsilon=self.epsilon, axis_name=self.axis_name
    )
    if not self.is_initializing():
      count = inputs.size // channels
      if self.axis_name is not None:
        count *= lax.axis_size(self.axis_name)
      unbiased = batch_var * (count / max(count - 1, 1))
      self._move('mean', mean, batch_mean)
      self._move('var', var, unbiased)
    return outputs

  def _active(self, collection, name, init, channels):
    array = self.variable(collection, name, init).value
    _check_count(self, collection, channels, array.shape[0], self.groups)
    array = take_active(array, 0, channels, self.groups)
    return _sow(self, collection, name, array)

  def _move(self, name, old, batch):
    new = (1 - self.momentum) * old + self.momentum * batch.astype(old.dtype)
    array = self.get_variable('batch_stats', name)
    self.put_variable('batch_stats', name, put_active(array, new, self.groups))


class ConvNorm(nn.Module):
  """A convolution, the norm of the switch, an activation.

  The unit all four families are made of: `conv` and `norm` are siblings, so
  that folding the norm into its convolution needs no description of a network.

  Attributes:
    features, kernel_size, strides, groups, out_groups: see `SlimConv`.
    activation: applied last; None for none.
    folded: the norm has been folded into the convolution, which has a bias.
    axis_name: see `SwitchableBatchNorm`.
    dtype: of the computation.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  strides: int | tuple[int, int] = 1
  groups: int = 1
  out_groups: int | None = None
  activation: Callable[[jax.Array], jax.Array] | None = None
  folded: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, inputs: jax.Array, features: int | None = None, *, train: bool
  ) -> jax.Array:
    """`inputs` [b, h, w, c] -> [b, h', w', features]."""
    conv = SlimConv(
      self.features,
      self.kernel_size,
      self.strides,
      groups=self.groups,
      out_groups=self.out_groups,
      use_bias=self.folded,
      dtype=self.dtype,
      name='conv',
    )
    outputs = conv(inputs, features)
    if not self.folded:
      outputs = SwitchableBatchNorm(
        groups=conv.out_blocks,
        axis_name=self.axis_name,
        dtype=self.dtype,
        name='norm',
      )(outputs, train=train)
    return outputs if self.activation is None else self.activation(outputs)
