"""Layers that run at any number of leading channels.

A call says how many output channels are active; the active input channels are
those of the input. Given parameters that are wider than that, a layer slices
them; given those of one width (`slimjax.extract`), it takes them as they are.

Any other Flax layer and any `self.param` takes part too, built at the active
count: what a width uses of a parameter is the leading block that the network
built at that width would have (`slimjax.variables.slicing`).
"""

from slimjax.nn.attention import SlimAttention
from slimjax.nn.conv import conv_init
from slimjax.nn.conv import ConvNorm
from slimjax.nn.conv import Padding
from slimjax.nn.conv import SlimConv
from slimjax.nn.conv import SlimConvTranspose
from slimjax.nn.dense import dense_init
from slimjax.nn.dense import SlimDense
from slimjax.nn.dense import SlimEmbed
from slimjax.nn.dense import SlimParameter
from slimjax.nn.norm import EPSILON
from slimjax.nn.norm import MOMENTUM
from slimjax.nn.norm import SlimGroupNorm
from slimjax.nn.norm import SlimLayerNorm
from slimjax.nn.norm import SwitchableBatchNorm
from slimjax.nn.slicing import put_active
from slimjax.nn.slicing import take_active

__all__ = [
  'EPSILON',
  'MOMENTUM',
  'ConvNorm',
  'Padding',
  'SlimAttention',
  'SlimConv',
  'SlimConvTranspose',
  'SlimDense',
  'SlimEmbed',
  'SlimGroupNorm',
  'SlimLayerNorm',
  'SlimParameter',
  'SwitchableBatchNorm',
  'conv_init',
  'dense_init',
  'put_active',
  'take_active',
]
