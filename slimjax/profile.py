"""Multiply-accumulates and parameters of a network at each width."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.layers import SlimConv
from slimjax.layers import SlimDense
from slimjax.models.common import SlimNet
from slimjax.variables import init
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Profile:
  """The cost of one width.

  Attributes:
    macs: multiply-accumulates of convolutions and fully connected layers for
      one image.
    params: parameters this width uses, `conv_fc_params + bn_params`.
    conv_fc_params: of convolutions and fully connected layers.
    bn_params: scales and biases of batch norm.
  """

  macs: int
  params: int
  conv_fc_params: int
  bn_params: int


def profile_model(
  model: SlimNet, *, width: Width, image_size: int | tuple[int, int]
) -> Profile:
  """Counts by shape evaluation; nothing is computed or allocated.

  Args:
    model: from `slimjax.create_model`.
    width: any width that fits into its parameters.
    image_size: pixels, or (height, width).
  """
  if isinstance(image_size, int):
    image_size = (image_size, image_size)
  return _profile(model, width, tuple(image_size))


@functools.lru_cache(maxsize=256)  # it is asked for again and again
def _profile(model, width, image_size):
  macs = 0

  def count(next_fun, args, kwargs, context):
    nonlocal macs
    outputs = next_fun(*args, **kwargs)
    layer = context.module
    if context.method_name == '__call__':
      if isinstance(layer, SlimConv):
        kernel = layer.get_variable('active_params', 'kernel')
        macs += outputs.shape[1] * outputs.shape[2] * kernel.size
      elif isinstance(layer, SlimDense):
        macs += layer.get_variable('active_params', 'kernel').size
    return outputs

  def forward():
    variables = model.init(jax.random.key(0), images, width=model.full_channels)
    used = {'params': variables['params']}
    with nn.intercept_methods(count):
      _, sown = model.apply(
        used,
        images,
        width=width,
        mutable=['norm', 'batch_stats', 'active_params', 'active_norm'],
      )
    return sown

  images = jnp.zeros((1, *image_size, 3))
  sown = jax.eval_shape(forward)
  conv_fc, bn = (
    _size(sown.get(name, {})) for name in ('active_params', 'active_norm')
  )
  return Profile(
    macs=macs, params=conv_fc + bn, conv_fc_params=conv_fc, bn_params=bn
  )


@functools.lru_cache(maxsize=64)
def count_parameters(model: SlimNet) -> int:
  """Trained parameters of the network: the shared, and each switch's norm."""
  shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), image_size=64))
  return _size(shapes['params']) + _size(shapes.get('norm', {}))


def _size(tree) -> int:
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
