"""Batch normalisation of a training batch, with a closed-form gradient."""

from functools import partial
import math

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.platforms import bound

# On CPU the first stage of _sums adds up to this many positions into one.
_ROWS = 8


def batch_norm_train(x, scale, bias, *, epsilon, axis_name=None):
  """Normalises with the statistics of the batch.

  Only reverse-mode differentiation is defined. The statistics returned are for
  running averages: no gradient flows through them (their cotangents are
  ignored); the gradient of y accounts for its dependence on them. Inside
  shard_map, make a replicated scale and bias varying first (jax.lax.pcast) to
  take their gradients.

  Args:
    x: [b, h, w, c] or [b, c], floating.
    scale: [c].
    bias: [c].
    epsilon: number added to the variance.
    axis_name: mesh axis over which the statistics are averaged, inside
      shard_map; default: none. The gradients of scale and bias stay those of
      the device's own share.

  Returns:
    y, of the shape and dtype of x; the mean and the biased variance, [c] in
    float32 or wider.
  """
  return _norm((epsilon, axis_name), x, scale, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(options, x, scale, bias):
  return _norm_fwd(options, x, scale, bias)[0]


def _norm_fwd(options, x, scale, bias):
  epsilon, axis_name = options
  count = x.size // x.shape[-1]
  mean = _pmean(
    jnp.sum(_wide(x), axis=tuple(range(x.ndim - 1))) / count, axis_name
  )
  # The squares are of centred values: E[x^2] - E[x]^2 cancels if |mean| >> std.
  (total,) = _sums(_squares, [x], [mean])
  var = _pmean(total / count, axis_name)
  rstd = lax.rsqrt(var + epsilon)
  y = (_wide(x) - _like(mean, x)) * _like(rstd * scale, x) + _like(bias, x)
  return (y.astype(x.dtype), mean, var), (x, scale, bias, mean, rstd)


def _norm_bwd(options, residuals, cotangents):
  _, axis_name = options
  x, scale, bias, mean, rstd = residuals
  dy = cotangents[0]
  dbias, dscale = _sums(_slopes, [dy, x], [mean])
  dscale = dscale * rstd
  count = x.size // x.shape[-1]
  offset = _pmean(dbias / count, axis_name)
  slope = _pmean(dscale / count, axis_name) * rstd
  # scale * rstd stays outside: with the product multiplied out, XLA:CPU stores
  # the mask of the activation that follows instead of recomputing it, which
  # doubles the memory of a step and costs half as much time again.
  dx = _like(rstd * scale, x) * (
    _wide(dy) - _like(offset, x) - (_wide(x) - _like(mean, x)) * _like(slope, x)
  )
  return (
    dx.astype(x.dtype),
    dscale.astype(scale.dtype),
    dbias.astype(bias.dtype),
  )


_norm.defvjp(_norm_fwd, _norm_bwd)


def _squares(x, mean):
  return [(_wide(x) - mean) ** 2]


def _slopes(dy, x, mean):
  return [_wide(dy), _wide(dy) * (_wide(x) - mean)]


def _wide(x):
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _like(vector, x):  # [c] -> [1, ..., 1, c]
  return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _pmean(x, axis_name):
  return x if axis_name is None else lax.pmean(x, axis_name)


def _sums(terms, arrays, vectors):
  """Sums terms(*arrays, *vectors) over all axes but the last.

  Args:
    terms: elementwise function of this module that returns a list of arrays.
    arrays: each [b, ..., c].
    vectors: each [c].

  Returns:
    [terms, c].
  """
  return lax.platform_dependent(
    arrays,
    vectors,
    cpu=bound(_sums_in_stages, terms),
    default=bound(_plain_sums, terms),
  )


def _plain_sums(terms, arrays, vectors):
  x = arrays[0]
  values = terms(*arrays, *(_like(v, x) for v in vectors))
  axes = tuple(range(x.ndim - 1))
  return jnp.stack([jnp.sum(v, axis=axes) for v in values])


def _sums_in_stages(terms, arrays, vectors):
  # XLA:CPU does not vectorise a reduction over leading axes that is fused with
  # its producer, and otherwise materialises each term. Sums that are written
  # out vectorise: they read the arrays once and leave an eighth to be reduced.
  b, *spatial, c = arrays[0].shape
  size = math.prod(spatial)
  rows = max(r for r in range(1, _ROWS + 1) if size % r == 0)
  arrays = [a.reshape(b, size // rows, rows, c) for a in arrays]
  vectors = [v.reshape(1, 1, c) for v in vectors]
  values = [
    terms(*(a[:, :, row] for a in arrays), *vectors) for row in range(rows)
  ]
  # Dots reduce the sums: XLA:CPU takes several times as long to reduce them one
  # by one, and reducing them stacked adds a tenth to a whole step.
  partial_sums = lax.optimization_barrier(
    [sum(v) for v in zip(*values, strict=True)]
  )
  ones = jnp.ones((b * (size // rows),), partial_sums[0].dtype)
  return jnp.stack([ones @ p.reshape(-1, c) for p in partial_sums])
