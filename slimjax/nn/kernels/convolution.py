"""Dense and grouped convolutions that are fast on CPU in both directions.

XLA:CPU takes 2-6 times as long over the kernel gradient of a 1x1 convolution
as over the same product written as a dot, and longer if it is grouped; and many
times as long over 3x3 convolutions of maps of a few pixels, or of RGB images to
few channels, as over a dot with their patches. Other platforms keep the native
convolution; the formulation is chosen where the program is lowered.
"""

from functools import partial
import math

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.kernels.platforms import bound

# Of the output map, up to which patches are written out and multiplied; and
# numbers in a patch, up to which that pays for maps of any size.
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
  """A 2-D convolution.

  Only reverse-mode differentiation is defined for some shapes. Inside
  shard_map, make a replicated kernel varying first (jax.lax.pcast) to take its
  gradient.

  Args:
    x: [b, h, w, cin], floating.
    kernel: [kh, kw, cin / groups, cout], of x's dtype.
    strides: of the rows and of the columns.
    padding: ((top, bottom), (left, right)).
    dilation: of the kernel, along rows and columns.
    groups: into which the channels are divided.

  Returns:
    [b, h', w', cout] in x's dtype.
  """
  geometry = (strides, padding, dilation, groups)
  formulation = _on_cpu(geometry, x.shape, kernel.shape)
  if formulation is None:
    return native(geometry, x, kernel)
  return _conv(geometry, formulation, x, kernel)


def _on_cpu(geometry, shape, kernel_shape):
  """The function that is faster on CPU than the native one, or None."""
  _, padding, _, groups = geometry
  if kernel_shape[:2] == (1, 1):
    return _dot if padding == ((0, 0), (0, 0)) else None
  positions = math.prod(_outputs(geometry, shape, kernel_shape))
  if groups > 1 or not positions:
    return None
  small = math.prod(kernel_shape[:3]) <= _SMALL_PATCH
  return _patches if small or positions <= _FEW_POSITIONS else None


def _outputs(geometry, shape, kernel_shape):
  """Rows and columns of the output."""
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
  """XLA's own; geometry is (strides, padding, dilation, groups)."""
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
  # A dot of two matrices: contracting [b, h, w, cin] itself is slower.
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
