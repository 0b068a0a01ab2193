"""Finds Flax's own norms, whose scale and bias all widths would share."""

import functools

from flax import linen as nn
import jax

from slimjax.models.net import SlimNet
from slimjax.variables.slicing import key_shape

# Norms of Flax, and the layers that give each width its own scale and bias.
_MENDS = {
  'BatchNorm': 'SwitchableBatchNorm',
  'LayerNorm': 'SlimLayerNorm',
  'GroupNorm': 'SlimGroupNorm',
}


@functools.lru_cache(maxsize=16)
def plain_norms(model: SlimNet) -> list[str]:
  """Returns a line for each norm of Flax, whose parameters all widths share."""
  found: dict[str, str] = {}

  def record(call, args, kwargs, context):
    module = context.module
    kind = type(module).__name__
    if context.method_name == '__call__' and kind in _MENDS:
      found['/'.join(module.path)] = kind
    return call(*args, **kwargs)

  def initialise(key, *inputs):
    return model.init(key, *inputs, width=model.full_channels)

  with nn.intercept_methods(record):
    jax.eval_shape(initialise, key_shape(), *model.example())
  return [
    f'{path} is {kind} of Flax, so all widths share its scale and bias; use'
    f' slimjax.layers.{_MENDS[kind]}, which gives each width its own'
    for path, kind in found.items()
  ]
