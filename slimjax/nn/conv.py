"""Convolutions over the leading channels of their kernels."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.convolution import convolve
from slimjax.nn.kernels.depthwise import depthwise_conv
from slimjax.nn.norm import SwitchableBatchNorm
from slimjax.nn.slicing import check_count
from slimjax.nn.slicing import equal_segments
from slimjax.nn.slicing import join_parts
from slimjax.nn.slicing import path_of
from slimjax.nn.slicing import Segments
from slimjax.nn.slicing import slim_param
from slimjax.nn.slicing import take
from slimjax.nn.slicing import take_active
from slimjax.nn.slicing import take_inputs

Padding = int | tuple[tuple[int, int], tuple[int, int]] | None

# Normal with variance 2 / (kh * kw * out), out being the full width (paper,
# appendix A and the authors' configurations).
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


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
    kernel_size: an int, or (height, width); default: 3.
    strides: an int, or (vertical, horizontal); default: 1.
    padding: an int for every side, or ((top, bottom), (left, right)); default:
      PyTorch's usual `dilation * (kernel - 1) // 2` on every side.
    dilation: an int, or (vertical, horizontal); default: 1.
    groups: a fixed number of groups, each of which is slimmed inside; default:
      1. `features` makes it depthwise: each active channel is its own group.
    out_groups: the output's channels are this many blocks, each slimmed
      inside; by default `groups`, and 1 for a depthwise convolution. (A dense
      convolution that feeds a grouped one says how many blocks that one sees.)
    in_features: input channels at full width, a tuple for several parts;
      default: those of the first call. It is needed only where that is thinner
      than a later one, or where several parts meet a wider kernel.
    use_bias: whether a bias is added; default: no.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  strides: int | tuple[int, int] = 1
  padding: Padding = None
  dilation: int | tuple[int, int] = 1
  groups: int = 1
  out_groups: int | None = None
  in_features: int | tuple[int, ...] | None = None
  use_bias: bool = False
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = conv_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @property
  def depthwise(self) -> bool:
    """Returns whether each channel is its own group."""
    return self.groups > 1 and self.groups == self.features

  @property
  def out_blocks(self) -> int:
    """Returns the number of blocks in which output channels are slimmed."""
    return self.out_groups or (1 if self.depthwise else self.groups)

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array | Sequence[jax.Array],
    features: int | None = None,
  ) -> jax.Array:
    """Convolves `inputs` [b, h, w, c] into [b, h', w', features].

    Args:
      inputs: images or maps; their channels are the active input channels. If
        several maps are joined along their channels, each meets the kernel
        rows it meets at full width.
      features: active output channels; by default all of them (a depthwise
        convolution keeps the channels that come in).
    """
    joined, full, used = join_parts(self, inputs, self.in_features)
    if self.depthwise and sum(used) <= self.features:
      return self._depthwise(joined, features, full, used)
    channels = joined.shape[-1]
    features = self.features if features is None else features
    check_count(self, 'output', features, self.features, self.out_blocks)
    if channels % self.groups:
      raise ValueError(
        f'{path_of(self)}: {channels} input channels do not divide into'
        f' {self.groups} groups'
      )
    if self.groups > 1:
      full = (sum(full) // self.groups,)
      used = (channels // self.groups,)
    kernel_size = _pair(self.kernel_size)
    blocks = equal_segments(self.features, self.out_blocks)
    kernel = slim_param(
      self,
      'kernel',
      self.kernel_init,
      (*kernel_size, sum(full), self.features),
      ((kernel_size[0],), (kernel_size[1],), full, blocks),
    )
    # [kh, kw, in / groups, out], active channels only
    kernel = take_inputs(self, kernel, 2, full, used)
    kernel = take_active(kernel, 3, features, self.out_blocks)
    dilation = _pair(self.dilation)
    outputs = convolve(
      joined.astype(self.dtype),
      kernel.astype(self.dtype),
      strides=_pair(self.strides),
      padding=_padding(self.padding, kernel_size, dilation),
      dilation=dilation,
      groups=self.groups,
    )
    return self._biased(outputs, blocks, equal_segments(features, len(blocks)))

  def _depthwise(
    self,
    joined: jax.Array,
    features: int | None,
    full: Segments,
    used: Segments,
  ) -> jax.Array:
    channels = joined.shape[-1]
    if features not in (None, channels):
      raise ValueError(
        f'{path_of(self)}: a depthwise convolution keeps its channels, but'
        f' {channels} come in and {features} are asked for'
      )
    kernel_size, dilation = _pair(self.kernel_size), _pair(self.dilation)
    # Its channels are those of the input, in the same segments.
    segments = full if len(full) > 1 else (self.features,)
    if self.out_blocks > 1:
      segments = equal_segments(self.features, self.out_blocks)
      used = equal_segments(channels, self.out_blocks)
    kernel = slim_param(
      self,
      'kernel',
      self.kernel_init,
      (*kernel_size, 1, self.features),
      ((kernel_size[0],), (kernel_size[1],), (1,), segments),
    )
    if kernel.shape[3] != channels:
      check_count(self, 'output', channels, kernel.shape[3], self.out_blocks)
      if len(segments) == 1:
        segments = (kernel.shape[3],)
      kernel = take_inputs(self, kernel, 3, segments, used)
    outputs = depthwise_conv(
      joined.astype(self.dtype),
      kernel.astype(self.dtype),
      strides=_pair(self.strides),
      padding=_padding(self.padding, kernel_size, dilation),
      dilation=dilation,
    )
    return self._biased(outputs, segments, used)

  def _biased(
    self, outputs: jax.Array, segments: Segments, used: Segments
  ) -> jax.Array:
    if not self.use_bias:
      return outputs
    bias = slim_param(
      self, 'bias', self.bias_init, (self.features,), (segments,)
    )
    if bias.shape[0] != outputs.shape[-1]:
      bias = take(bias, 0, segments, used)
    return outputs + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class SlimConvTranspose(nn.Module):
  """A 2-D transposed convolution over the leading channels of its kernel.

  As PyTorch's: out[s * i + a - padding] += x[i] kernel[a], so that an axis of n
  pixels becomes (n - 1) * stride - 2 * padding + kernel.

  Attributes:
    features: output channels at full width.
    kernel_size: an int, or (height, width); default: 2.
    strides: an int, or (vertical, horizontal); default: 2.
    padding: pixels cut off every side of the result; default: 0.
    use_bias: whether a bias is added; default: yes.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int
  kernel_size: int | tuple[int, int] = 2
  strides: int | tuple[int, int] = 2
  padding: int = 0
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = conv_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(
    self, inputs: jax.Array, features: int | None = None
  ) -> jax.Array:
    """Maps `inputs` [b, h, w, c] to [b, h', w', features].

    Args:
      inputs: maps; their channels are the active input channels.
      features: active output channels; by default all of them.
    """
    features = self.features if features is None else features
    check_count(self, 'output', features, self.features)
    channels = inputs.shape[-1]
    size, strides = _pair(self.kernel_size), _pair(self.strides)
    kernel = slim_param(
      self, 'kernel', self.kernel_init, (*size, channels, self.features)
    )
    kernel = take_inputs(self, kernel, 2, (channels,), (channels,))
    kernel = take_active(kernel, 3, features).astype(self.dtype)
    inputs = inputs.astype(self.dtype)
    if any(k % stride for k, stride in zip(size, strides, strict=True)):
      # The flipped kernel, over the input spread out by the strides.
      outputs = lax.conv_general_dilated(
        inputs,
        kernel[::-1, ::-1],
        (1, 1),
        [(k - 1 - self.padding, k - 1 - self.padding) for k in size],
        lhs_dilation=strides,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    else:
      outputs = _by_patches(inputs, kernel, strides, self.padding)
    if self.use_bias:
      bias = slim_param(self, 'bias', self.bias_init, (self.features,))
      bias = take_active(bias, 0, features).astype(self.dtype)
      outputs += bias.reshape(1, 1, 1, -1)
    return outputs


def _by_patches(
  inputs: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  padding: int,
) -> jax.Array:
  """Convolves, transposed, by one product: the patch that each pixel makes.

  A patch is some blocks of the size of the strides, each of which is added to
  its place. On CPU the gradient of the usual formulation, over an input spread
  out by the strides, takes about ten times as long.
  """
  b, h, w, c = inputs.shape
  kh, kw, _, out = kernel.shape
  sh, sw = strides
  rows, columns = kh // sh, kw // sw  # blocks of a patch
  # [b, h, w, c] x [c, kh * kw * out] -> [b, h, w, rows, sh, columns, sw, out]
  patches = inputs.reshape(b * h * w, c) @ jnp.moveaxis(kernel, 2, 0).reshape(
    c, kh * kw * out
  )
  patches = patches.reshape(b, h, w, rows, sh, columns, sw, out)
  margins = lambda i, n: (i, n - 1 - i)
  blocks, *others = (
    jnp.pad(
      patches[:, :, :, i, :, j],
      [(0, 0), margins(i, rows), margins(j, columns), *[(0, 0)] * 3],
    )
    for i in range(rows)
    for j in range(columns)
  )
  for other in others:
    blocks += other
  h, w = h + rows - 1, w + columns - 1
  outputs = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * sh, w * sw, out)
  return outputs[:, padding : h * sh - padding, padding : w * sw - padding]


class ConvNorm(nn.Module):
  """A convolution, the norm of the switch, an activation.

  The unit all four families are made of. Its norm declares that it folds into
  its convolution (`slimjax.fold_batch_norm`).

  Attributes:
    features, kernel_size, strides, groups, out_groups, in_features: see
      `SlimConv`.
    activation: function applied last; default: none.
    folded: whether the norm has been folded into the convolution, which then
      has a bias; default: no.
    axis_name: see `SwitchableBatchNorm`.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int
  kernel_size: int | tuple[int, int] = 3
  strides: int | tuple[int, int] = 1
  groups: int = 1
  out_groups: int | None = None
  in_features: int | tuple[int, ...] | None = None
  activation: Callable[[jax.Array], jax.Array] | None = None
  folded: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array | Sequence[jax.Array],
    features: int | None = None,
    *,
    train: bool,
  ) -> jax.Array:
    """Maps `inputs` [b, h, w, c] to [b, h', w', features]."""
    conv = SlimConv(
      self.features,
      self.kernel_size,
      self.strides,
      groups=self.groups,
      out_groups=self.out_groups,
      in_features=self.in_features,
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
        folds_into='conv',
        name='norm',
      )(outputs, train=train)
    return outputs if self.activation is None else self.activation(outputs)
