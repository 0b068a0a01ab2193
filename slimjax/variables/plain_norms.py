"""Finds Flax's own norms, whose scale and bias all widths would share."""

import functools

from flax import linen as nn
import jax

from slimjax.models.net import SlimNet
from slimjax.variables.slicing import key_shape

# Norms of Flax, and what gives each width its own parameters instead; the
# nearest, where there is no such norm.
_MENDS: dict[type[nn.Module], str] = {
  nn.BatchNorm: 'SwitchableBatchNorm',
  nn.LayerNorm: 'SlimLayerNorm',
  nn.RMSNorm: 'SlimLayerNorm',
  nn.GroupNorm: 'SlimGroupNorm',
  nn.InstanceNorm: 'SlimGroupNorm(group_size=1)',
}


@functools.lru_cache(maxsize=16)
def plain_norms(model: SlimNet) -> list[str]:
  """Returns a line for each norm of Flax, whose parameters all widths share."""
  lines: dict[str, str] = {}

  def record(call, args, kwargs, context):
    outputs, module = call(*args, **kwargs), context.module
    kind = next((k for k in _MENDS if isinstance(module, k)), None)
    if context.method_name != '__call__' or kind is None:
      return outputs
    path, shared = '/'.join(module.path), module.variables.get('params')
    if shared:
      lines[path] = (
        f'{path} is {kind.__name__} of Flax, so all widths share its'
        f' {" and ".join(shared)}; use slimjax.layers.{_MENDS[kind]}, which'
        ' gives each width its own'
      )
    return outputs

  def initialise(key, *inputs):
    return model.init(key, *inputs, width=model.full_channels)

  with nn.intercept_methods(record):
    jax.eval_shape(initialise, key_shape(), *model.example())
  return list(lines.values())
