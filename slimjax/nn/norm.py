"""Norms whose variables belong to one switch.

A norm is applied to one switch's trees and knows of no other: what switches is
the tree it is given. Scale and bias are in the collection `norm`; what switches
share after all is `SlimNet.shared`'s business. Statistics are float32 whatever
the compute dtype (float64 if the input is).
"""

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.batch_norm import batch_norm_train
from slimjax.nn.slicing import check_count
from slimjax.nn.slicing import declare
from slimjax.nn.slicing import equal_segments
from slimjax.nn.slicing import Fold
from slimjax.nn.slicing import put_active
from slimjax.nn.slicing import take_active

# Defaults of every batch norm, as in PyTorch.
MOMENTUM = 0.1
EPSILON = 1e-5
# The collection of what a batch's own mean and unbiased variance were, and of
# how many numbers.
MOMENTS = 'batch_moments'


def statistics_dtype(dtype: Any) -> Any:
  """Returns float32, or float64 for float64."""
  return jnp.promote_types(jnp.float32, dtype)


def _row(vector: jax.Array, ndim: int) -> jax.Array:
  """Reshapes [c] -> [1, ..., 1, c]."""
  return vector.reshape((1,) * (ndim - 1) + (-1,))


class _Norm(nn.Module):
  """What the norms share: variables as wide as the input, or wider."""

  def active(self, collection, name, init, channels, groups=1, fold=None):
    """Returns the active channels of a variable [c]."""
    init = declare(
      init, segments=(equal_segments(channels, groups),), fold=fold
    )
    array = self.variable(collection, name, init).value
    check_count(self, collection, channels, array.shape[0], groups)
    return take_active(array, 0, channels, groups)

  def affine(self, channels, groups=1, fold=None):
    """Returns the active scale and bias."""
    ones = lambda: jnp.ones((channels,), jnp.float32)
    zeros = lambda: jnp.zeros((channels,), jnp.float32)
    return (
      self.active('norm', 'scale', ones, channels, groups, fold),
      self.active('norm', 'bias', zeros, channels, groups),
    )


class SwitchableBatchNorm(_Norm):
  """Batch normalisation whose variables belong to one switch.

  A tree wider than the input (one tree for several widths) is sliced.

  Running statistics follow PyTorch: new = (1 - momentum) * old + momentum *
  batch, with the unbiased variance, n / (n - 1).

  Attributes:
    momentum: share of the batch in the running statistics; default: 0.1.
    epsilon: number added to the variance; default: 1e-5.
    groups: number of blocks of channels, each slimmed inside; default: 1.
    axis_name: mesh axis over which the batch statistics are averaged
      (synchronised batch normalisation); by default they are per device.
    folds_into: name of the convolution beside it that it follows directly, into
      which `slimjax.fold_batch_norm` folds it; by default it does not fold.
    dtype: dtype of the result; default: float32.
  """

  momentum: float = MOMENTUM
  epsilon: float = EPSILON
  groups: int = 1
  axis_name: str | None = None
  folds_into: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    """Normalises `inputs` [..., c] over all axes but the last.

    Args:
      inputs: maps or vectors of the active channels.
      train: whether to use the batch's statistics, which move the running ones
        (the collection `batch_stats` must be mutable), or the running ones.
    """
    channels = inputs.shape[-1]
    fold = self.folds_into and Fold(self.folds_into, self.epsilon)
    scale, bias = self.affine(channels, self.groups, fold)
    zeros = lambda: jnp.zeros((channels,), jnp.float32)
    ones = lambda: jnp.ones((channels,), jnp.float32)
    mean = self.active('batch_stats', 'mean', zeros, channels, self.groups)
    var = self.active('batch_stats', 'var', ones, channels, self.groups)
    inputs = inputs.astype(self.dtype)
    if not train:
      row = lambda x: _row(x, inputs.ndim)
      statistics = statistics_dtype(self.dtype)
      factor = lax.rsqrt(var.astype(statistics) + self.epsilon) * scale
      outputs = (inputs - row(mean)) * row(factor)
      return (outputs + row(bias)).astype(self.dtype)
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
      # For `slimjax.variables.calibrating`; kept only where it is mutable.
      self.sow(MOMENTS, 'mean', batch_mean)
      self.sow(MOMENTS, 'var', unbiased)
      self.sow(MOMENTS, 'count', jnp.float32(count))
    return outputs

  def _move(self, name, old, batch):
    new = (1 - self.momentum) * old + self.momentum * batch.astype(old.dtype)
    array = self.get_variable('batch_stats', name)
    self.put_variable('batch_stats', name, put_active(array, new, self.groups))


def _standardise(inputs, axes, epsilon):
  """Returns (x - mean) / sqrt(var + epsilon), with the biased variance."""
  mean = jnp.mean(inputs, axis=axes, keepdims=True)
  centred = inputs - mean
  var = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
  return centred * lax.rsqrt(var + epsilon)


class SlimLayerNorm(_Norm):
  """Layer normalisation over the active channels of each position.

  Attributes:
    epsilon: number added to the biased variance; default: 1e-6.
    dtype: dtype of the result; default: float32.
  """

  epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Normalises `inputs` [..., c] over the last axis."""
    scale, bias = self.affine(inputs.shape[-1])
    wide = inputs.astype(statistics_dtype(inputs.dtype))
    outputs = _standardise(wide, -1, self.epsilon)
    outputs = outputs * _row(scale, inputs.ndim) + _row(bias, inputs.ndim)
    return outputs.astype(self.dtype)


class SlimGroupNorm(_Norm):
  """Group normalisation over the active channels of each example.

  Attributes:
    num_groups: groups at every width, thinner at thinner widths; default: none.
    group_size: channels of a group at every width, so that thinner widths have
      fewer groups; default: none. Exactly one of the two is given.
    epsilon: number added to the biased variance; default: 1e-5.
    dtype: dtype of the result; default: float32.
  """

  num_groups: int | None = None
  group_size: int | None = None
  epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Normalises `inputs` [b, ..., c] over positions and a group's channels."""
    channels = inputs.shape[-1]
    if (self.num_groups is None) == (self.group_size is None):
      raise ValueError(
        'SlimGroupNorm takes either num_groups or group_size, got'
        f' {self.num_groups} and {self.group_size}'
      )
    groups = self.num_groups or channels // (self.group_size or 1)
    if not groups or channels % groups or channels < groups:
      raise ValueError(
        f'{"/".join(self.path)}: {channels} active channels do not divide into'
        f' groups (num_groups {self.num_groups}, group_size {self.group_size})'
      )
    scale, bias = self.affine(channels)
    wide = inputs.astype(statistics_dtype(inputs.dtype))
    wide = wide.reshape(inputs.shape[0], -1, groups, channels // groups)
    outputs = _standardise(wide, (1, 3), self.epsilon).reshape(inputs.shape)
    outputs = outputs * _row(scale, inputs.ndim) + _row(bias, inputs.ndim)
    return outputs.astype(self.dtype)
