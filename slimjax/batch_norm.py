"""Batch normalisation of a training batch, with a closed-form gradient."""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp


def batch_norm_train(x, scale, bias, *, epsilon, axis_name=None):
  """Normalises with the statistics of the batch.

  Only reverse-mode differentiation is defined. Inside shard_map, make a
  replicated scale and bias varying first (jax.lax.pcast) to take their
  gradients. The statistics returned are for
  running averages: no gradient flows through them (their cotangents are
  ignored); that of y accounts for y's dependence on them.

  Args:
    x: [b, h, w, c] or [b, c].
    scale: [c].
    bias: [c].
    epsilon: added to the variance.
    axis_name: mesh axis to average the statistics over, inside shard_map.

  Returns:
    y like x, and the mean and the biased variance, [c] in float32 or wider.
  """
  return _norm((epsilon, axis_name), x, scale, bias)


def _mean(x, axis_name=None):  # [..., c] -> [c]
  mean = jnp.mean(x, axis=tuple(range(x.ndim - 1)))
  return mean if axis_name is None else lax.pmean(mean, axis_name)


def _like(vector, x):  # [c] -> [1, ..., 1, c]
  return vector.reshape((1,) * (x.ndim - 1) + (-1,))


def _wide(x):
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(options, x, scale, bias):
  return _norm_fwd(options, x, scale, bias)[0]


def _norm_fwd(options, x, scale, bias):
  epsilon, axis_name = options
  wide = _wide(x)
  mean = _mean(wide, axis_name)
  centred = wide - _like(mean, x)
  var = _mean(centred * centred, axis_name)
  rstd = lax.rsqrt(var + epsilon)
  y = centred * _like(rstd * scale, x) + _like(bias, x)
  return (y.astype(x.dtype), mean, var), (x, scale, bias, mean, rstd)


def _norm_bwd(options, residuals, cotangents):
  _, axis_name = options
  x, scale, bias, mean, rstd = residuals
  dy = _wide(cotangents[0])
  xhat = (_wide(x) - _like(mean, x)) * _like(rstd, x)
  dbias = _mean(dy)
  dscale = _mean(dy * xhat)
  shift, slope = scale * dbias, scale * dscale
  if axis_name is not None:
    shift, slope = lax.pmean((shift, slope), axis_name)
  dx = _like(rstd, x) * (
      _like(scale, x) * dy - _like(shift, x) - xhat * _like(slope, x)
  )
  count = x.size // x.shape[-1]
  return (
      dx.astype(x.dtype),
      (count * dscale).astype(scale.dtype),
      (count * dbias).astype(bias.dtype),
  )


_norm.defvjp(_norm_fwd, _norm_bwd)
