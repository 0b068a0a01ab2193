"""Depthwise convolution that is fast on CPU in both directions.

XLA:CPU runs a native grouped convolution with one channel per group 20-30
times slower than the sum of its shifted products. Other platforms have native
kernels for it, so the formulation is chosen when the program is lowered.
"""

from functools import partial

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.convolution import native
from slimjax.nn.kernels.platforms import bound

# The first stage of the kernel gradient adds up to this many rows into one.
_ROWS = 8


def depthwise_conv(x, kernel, *, strides, padding, dilation=(1, 1)):
  """Convolves every channel with its own kernel.

  Only reverse-mode differentiation is defined. Inside shard_map, make a
  replicated kernel varying first (jax.lax.pcast) to take its gradient.

  Args:
    x: [b, h, w, c], floating.
    kernel: [kh, kw, 1, c], of x's dtype.
    strides: strides of the rows and of the columns.
    padding: (low, high) of the rows and of the columns, not negative.
    dilation: distance between the kernel's taps in rows and in columns;
      default: 1.

  Returns:
    [b, h', w', c] in x's dtype.
  """
  return _conv((strides, padding, dilation), x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(geometry, x, kernel):
  return lax.platform_dependent(
    x,
    kernel,
    cpu=bound(_shifts, geometry),
    default=bound(_native, geometry),
  )


def _conv_fwd(geometry, x, kernel):
  return _conv(geometry, x, kernel), (x, kernel)


def _conv_bwd(geometry, residuals, dy):
  return lax.platform_dependent(
    *residuals,
    dy,
    cpu=bound(_shifts_vjp, geometry),
    default=bound(_native_vjp, geometry),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


def _native(geometry, x, kernel):
  return native((*geometry, x.shape[-1]), x, kernel)


def _native_vjp(geometry, x, kernel, dy):
  return jax.vjp(partial(_native, geometry), x, kernel)[1](dy)


def _taps(kernel_shape):
  return [
    (i, j) for i in range(kernel_shape[0]) for j in range(kernel_shape[1])
  ]


def _shifts(geometry, x, kernel):
  (sh, sw), padding, (dh, dw) = geometry
  kh, kw, _, c = kernel.shape
  # Without the barrier, taps that never read the padding are fused with what
  # computes x, which then runs twice.
  x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
  b, h, w, _ = x.shape
  h = (h - (kh - 1) * dh - 1) // sh + 1
  w = (w - (kw - 1) * dw - 1) // sw + 1
  return sum(
    lax.slice(
      x,
      (0, i * dh, j * dw, 0),
      (b, i * dh + (h - 1) * sh + 1, j * dw + (w - 1) * sw + 1, c),
      (1, sh, sw, 1),
    )
    * kernel[i, j][None, None]
    for i, j in _taps(kernel.shape)
  )


def _shifts_vjp(geometry, x, kernel, dy):
  return (
    _input_gradient(geometry, x.shape, kernel, dy),
    _kernel_gradient(geometry, x, kernel, dy),
  )


def _input_gradient(geometry, shape, kernel, dy):
  (sh, sw), padding, (dh, dw) = geometry
  kh, kw, _, _ = kernel.shape
  edges = []
  for size, out, s, d, k, (low, _) in zip(
    shape[1:3],
    dy.shape[1:3],
    (sh, sw),
    (dh, dw),
    (kh, kw),
    padding,
    strict=True,
  ):
    low = (k - 1) * d - low
    edges.append((low, size + (k - 1) * d - low - (out - 1) * s - 1, s - 1))
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
  geometry = ((1, 1), ((0, 0), (0, 0)), (dh, dw))
  return _shifts(geometry, dy, kernel[::-1, ::-1])


def _kernel_gradient(geometry, x, kernel, dy):
  """Sums x * dy over batch, rows and columns for every tap, in two stages.

  XLA:CPU does not vectorise a reduction over leading axes that is fused with
  its producer. It does vectorise sums that are written out, so these shrink
  the products first, and little is left to be reduced.
  """
  (sh, sw), padding, (dh, dw) = geometry
  c = kernel.shape[-1]
  b, h, w, _ = dy.shape
  rows = min(h, _ROWS)
  blocks = -(-h // rows)
  missing = blocks * rows - h
  dy = jnp.pad(dy, ((0, 0), (0, missing), (0, 0), (0, 0)))
  (top, bottom), columns = padding
  x = jnp.pad(x, ((0, 0), (top, bottom + missing * sh), columns, (0, 0)))
  dtype = jnp.promote_types(jnp.float32, x.dtype)
  x, dy = lax.optimization_barrier((x.astype(dtype), dy.astype(dtype)))

  def partial_sums(i, j):  # -> [b, blocks, w, c]
    total = 0
    for r in range(rows):
      top, left = r * sh + i * dh, j * dw
      patch = lax.slice(
        x,
        (0, top, left, 0),
        (b, top + (blocks - 1) * rows * sh + 1, left + (w - 1) * sw + 1, c),
        (1, rows * sh, sw, 1),
      )
      total += patch * dy[:, r::rows]
    return total

  sums = jnp.stack([partial_sums(i, j) for i, j in _taps(kernel.shape)])
  sums = jnp.sum(lax.optimization_barrier(sums), axis=(1, 2, 3))
  return sums.reshape(kernel.shape).astype(kernel.dtype)
