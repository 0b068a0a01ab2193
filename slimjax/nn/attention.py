"""Self-attention whose slimmed unit is a whole head."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from slimjax.nn.dense import SlimDense
from slimjax.nn.norm import statistics_dtype
from slimjax.nn.slicing import check_count


class SlimAttention(nn.Module):
  """Multi-head self-attention over the leading heads.

  Query, key and value are three kernels [in, heads * head_dim], so that the
  leading channels of each are whole heads. The scale is head_dim ** -0.5 at
  every width; scores and softmax are float32 (float64 for float64).

  Source: Vaswani et al., 2017 (arXiv 1706.03762); heads as the slimmed unit:
  HydraViT (arXiv 2409.17978).

  Attributes:
    features: output channels at full width.
    num_heads: heads at full width.
    head_dim: channels of a head, at every width.
    use_bias: whether the four projections have biases; default: yes.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int
  num_heads: int
  head_dim: int
  use_bias: bool = True
  dtype: Any = jnp.float32
  kernel_init: nn.initializers.Initializer = nn.initializers.truncated_normal(
    0.02
  )

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    features: int | None = None,
    *,
    heads: int | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Attends among the tokens of each example, [b, t, c] -> [b, t, features].

    Args:
      inputs: tokens of the active channels.
      features: active output channels; by default all of them.
      heads: active heads; by default all of them.
      mask: bool, broadcastable to [b, heads, t, t]; False where a token (third
        axis) must not see another (last axis). Default: none.
    """
    heads = self.num_heads if heads is None else heads
    check_count(self, 'head', heads, self.num_heads)

    def project(name):
      dense = SlimDense(
        self.num_heads * self.head_dim,
        use_bias=self.use_bias,
        dtype=self.dtype,
        kernel_init=self.kernel_init,
        name=name,
      )
      outputs = dense(inputs, heads * self.head_dim)
      # [b, t, heads * d] -> [b, t, heads, d]
      return outputs.reshape(*inputs.shape[:-1], heads, self.head_dim)

    query, key, value = map(project, ('query', 'key', 'value'))
    wide = statistics_dtype(self.dtype)
    scores = jnp.einsum(
      'bqhd,bkhd->bhqk', query, key, preferred_element_type=wide
    )
    scores = scores * jnp.asarray(self.head_dim**-0.5, wide)
    if mask is not None:
      mask = jnp.broadcast_to(mask, scores.shape)
      scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores).astype(self.dtype)
    mixed = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    mixed = mixed.reshape(*inputs.shape[:-1], heads * self.head_dim)
    return SlimDense(
      self.features,
      use_bias=self.use_bias,
      dtype=self.dtype,
      kernel_init=self.kernel_init,
      name='out',
    )(mixed, features)
