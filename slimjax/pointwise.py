"""1x1 convolution that is fast on CPU in both directions.

XLA:CPU takes 2-6 times as long over the kernel gradient of a 1x1 convolution
as over the same product written as a dot. Other platforms keep the native
convolution; the formulation is chosen where the program is lowered.
"""

from functools import partial

import jax
from jax import lax


def pointwise_conv(x, kernel, *, strides=(1, 1)):
  """Maps the channels of every position with the same matrix.

  Only reverse-mode differentiation is defined. Inside shard_map, make a
  replicated kernel varying first (jax.lax.pcast) to take its gradient.

  Args:
    x: [b, h, w, cin], floating.
    kernel: [1, 1, cin, cout], of x's dtype.
    strides: of the rows and of the columns; nothing is padded.

  Returns:
    [b, h', w', cout] in x's dtype.
  """
  return _conv(strides, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(strides, x, kernel):
  return lax.platform_dependent(
    x, kernel, cpu=partial(_dot, strides), default=partial(_native, strides)
  )


def _conv_fwd(strides, x, kernel):
  return _conv(strides, x, kernel), (x, kernel)


def _conv_bwd(strides, residuals, dy):
  return lax.platform_dependent(
    *residuals,
    dy,
    cpu=partial(_vjp, partial(_dot, strides)),
    default=partial(_vjp, partial(_native, strides)),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


def _vjp(conv, x, kernel, dy):
  return jax.vjp(conv, x, kernel)[1](dy)


def _native(strides, x, kernel):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _dot(strides, x, kernel):
  x = x[:, :: strides[0], :: strides[1]]
  b, h, w, cin = x.shape
  # A dot of two matrices: contracting [b, h, w, cin] itself is slower.
  return (x.reshape(b * h * w, cin) @ kernel[0, 0]).reshape(b, h, w, -1)
