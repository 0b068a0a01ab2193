"""Fully connected layers, embeddings and free parameters."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from slimjax.nn.slicing import check_count
from slimjax.nn.slicing import join_parts
from slimjax.nn.slicing import slim_param
from slimjax.nn.slicing import take_active
from slimjax.nn.slicing import take_inputs

dense_init = nn.initializers.normal(0.01)


class SlimDense(nn.Module):
  """A fully connected layer over the leading channels of its kernel.

  Attributes:
    features: outputs at full width; a classifier's are always all active.
    in_features: see `SlimConv`.
    use_bias: whether a bias is added; default: yes.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int
  in_features: int | tuple[int, ...] | None = None
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = dense_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array | Sequence[jax.Array],
    features: int | None = None,
  ) -> jax.Array:
    """Maps `inputs` [..., c] to [..., features].

    Args:
      inputs: vectors, tokens or maps of the active channels; several are joined
        along their channels, as in `SlimConv`.
      features: active outputs; by default all of them.
    """
    features = self.features if features is None else features
    check_count(self, 'output', features, self.features)
    joined, full, used = join_parts(self, inputs, self.in_features)
    kernel = slim_param(
      self,
      'kernel',
      self.kernel_init,
      (sum(full), self.features),
      (full, (self.features,)),
    )
    kernel = take_inputs(self, kernel, 0, full, used)
    kernel = take_active(kernel, 1, features)
    outputs = joined.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = slim_param(self, 'bias', self.bias_init, (self.features,))
      bias = take_active(bias, 0, features).astype(self.dtype)
      outputs += bias.reshape((1,) * (outputs.ndim - 1) + (-1,))
    return outputs


class SlimEmbed(nn.Module):
  """A table of vectors whose leading channels are active.

  Attributes:
    num_embeddings: number of rows of the table.
    features: channels at full width.
    dtype: dtype of the result; default: float32.
  """

  num_embeddings: int
  features: int
  dtype: Any = jnp.float32
  embedding_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

  @nn.compact
  def __call__(
    self, indices: jax.Array, features: int | None = None
  ) -> jax.Array:
    """Looks up `indices`, int [...], each in [0, num_embeddings).

    Args:
      indices: numbers of the rows.
      features: active channels; by default all of them.

    Returns:
      [..., features].
    """
    features = self.features if features is None else features
    check_count(self, 'output', features, self.features)
    table = slim_param(
      self,
      'embedding',
      self.embedding_init,
      (self.num_embeddings, self.features),
    )
    table = take_active(table, 1, features).astype(self.dtype)
    return jnp.take(table, indices, axis=0)


class SlimParameter(nn.Module):
  """A free parameter whose last axis is channels: layer scale, class token.

  Attributes:
    shape: shape at full width, channels last.
    value_init: initialiser of the value; default: zeros.
    dtype: dtype of the result; default: float32.
  """

  shape: tuple[int, ...]
  value_init: nn.initializers.Initializer = nn.initializers.zeros
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: int | None = None) -> jax.Array:
    """Returns the parameter [..., features].

    Args:
      features: active channels; by default all of them.
    """
    features = self.shape[-1] if features is None else features
    check_count(self, 'output', features, self.shape[-1])
    value = slim_param(self, 'value', self.value_init, self.shape)
    return take_active(value, -1, features).astype(self.dtype)
