"""Dense and grouped convolutions that are fast on CPU in both directions.

XLA:CPU takes 2-6 times as long for the kernel gradient of a 1x1 convolution as
for the same product written as a dot, and longer if it is grouped. For 3x3
convolutions of maps of a few pixels, or of RGB images to few channels, it takes
many times as long as for a dot with their patches. Other platforms keep the
native convolution; the formulation is chosen when the program is lowered.
"""

from functools import partial
import math

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.platforms import bound

# Patches are written out and multiplied if the output map has at most so many
# positions, or, whatever its size, if a patch has at most so many numbers.
_FEW_POSITIONS = 16
_SMALL_PATCH = 32


def convolve(
  x,
  kernel,
  *,
  strides=(1, 1),
  padding=((0, 0), (0, 0)),
  dilation=(1, 1),
  groups=1,
):
  """Convolves in two dimensions.

  Only reverse-mode differentiation is defined for some shapes. Inside
  shard_map, make a replicated kernel varying first (jax.lax.pcast) to take its
  gradient.

  Args:
    x: [b, h, w, cin], floating.
    kernel: [kh, kw, cin / groups, cout], of x's dtype.
    strides: strides of the rows and of the columns; default: 1.
    padding: ((top, bottom), (left, right)); default: none.
    dilation: dilation of the kernel along rows and columns; default: 1.
    groups: number of groups of channels; default: 1.

  Returns:
    [b, h', w', cout] in x's dtype.
  """
  geometry = (strides, padding, dilation, groups)
  formulation = _on_cpu(geometry, x.shape, kernel.shape)
  if formulation is None:
    return native(geometry, x, kernel)
  return _conv(geometry, formulation, x, kernel)


def _on_cpu(geometry, shape, kernel_shape):
  """Returns the function that is faster on CPU than the native one, or None."""
  _, padding, _, groups = geometry
  if kernel_shape[:2] == (1, 1):
    return _dot if padding == ((0, 0), (0, 0)) else None
  positions = math.prod(_outputs(geometry, shape, kernel_shape))
  if groups > 1 or not positions:
    return None
  small = math.prod(kernel_shape[:3]) <= _SMALL_PATCH
  return _patches if small or positions <= _FEW_POSITIONS else None


def _outputs(geometry, shape, kernel_shape):
  """Returns the rows and columns of the output."""
  strides, padding, dilation, _ = geometry
  return tuple(
    max((size + sum(pad) - d * (k - 1) - 1) // stride + 1, 0)
    for size, pad, d, k, stride in zip(
      shape[1:3], padding, dilation, kernel_shape[:2], strides, strict=True
    )
  )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(geometry, formulation, x, kernel):
  return lax.platform_dependent(
    x,
    kernel,
    cpu=bound(formulation, geometry),
    default=bound(native, geometry),
  )


def _conv_fwd(geometry, formulation, x, kernel):
  return _conv(geometry, formulation, x, kernel), (x, kernel)


def _conv_bwd(geometry, formulation, residuals, dy):
  return lax.platform_dependent(
    *residuals,
    dy,
    cpu=bound(_vjp, bound(formulation, geometry)),
    default=bound(_vjp, bound(native, geometry)),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


def _vjp(conv, x, kernel, dy):
  return jax.vjp(conv, x, kernel)[1](dy)


def native(geometry, x, kernel):
  """Convolves as XLA does; geometry: (strides, padding, dilation, groups)."""
  strides, padding, dilation, groups = geometry
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _dot(geometry, x, kernel):
  strides, _, _, groups = geometry
  x = x[:, :: strides[0], :: strides[1]]
  b, h, w, cin = x.shape
  # A dot of two matrices is faster than contracting [b, h, w, cin] itself.
  if groups == 1:
    return (x.reshape(b * h * w, cin) @ kernel[0, 0]).reshape(b, h, w, -1)
  x = x.reshape(b * h * w, groups, cin // groups)
  kernel = kernel.reshape(cin // groups, groups, -1)
  return jnp.einsum('ngc,cgo->ngo', x, kernel).reshape(b, h, w, -1)


def _patches(geometry, x, kernel):
  strides, padding, dilation, _ = geometry
  rows, columns = _outputs(geometry, x.shape, kernel.shape)
  margins = [(low, high, 0) for low, high in ((0, 0), *padding, (0, 0))]
  x = lax.pad(x, jnp.zeros((), x.dtype), margins)
  b, _, _, cin = x.shape
  taps = []
  for i in range(kernel.shape[0]):
    for j in range(kernel.shape[1]):
      top, left = i * dilation[0], j * dilation[1]
      bottom = top + strides[0] * (rows - 1) + 1
      right = left + strides[1] * (columns - 1) + 1
      taps.append(
        lax.slice(
          x, (0, top, left, 0), (b, bottom, right, cin), (1, *strides, 1)
        )
      )
  patches = jnp.concatenate(taps, axis=-1).reshape(b * rows * columns, -1)
  outputs = patches @ kernel.reshape(-1, kernel.shape[-1])
  return outputs.reshape(b, rows, columns, -1)
