"""MobileNet v1: depthwise and pointwise convolutions in turn.

Howard et al., 2017 (arXiv 1704.04861), table 1; slimmable: Yu et al., ICLR
2019. Both activations of a unit are ReLU6, as in the slimmable paper's runs.
"""

from collections.abc import Callable

from flax import linen as nn
import jax

from slimjax.models.net import LayerName
from slimjax.models.net import SlimNet
from slimjax.nn.conv import ConvNorm
from slimjax.widths import round_channels
from slimjax.widths import Width

STEM = 32
# (channels, stride) of each unit
UNITS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  (512, 1),
  (512, 1),
  (512, 1),
  (512, 1),
  (512, 1),
  (1024, 2),
  (1024, 1),
)


class Unit(nn.Module):
  """A depthwise convolution, then a pointwise one."""

  full_in: int
  full: int
  stride: int
  conv: Callable[..., ConvNorm]

  @nn.compact
  def __call__(self, x: jax.Array, channels: int, *, train: bool) -> jax.Array:
    x = self.conv(
      self.full_in,
      3,
      self.stride,
      groups=self.full_in,
      name='depthwise',
    )(x, train=train)
    return self.conv(self.full, 1, name='pointwise')(x, channels, train=train)


class MobileNetV1(SlimNet):
  """MobileNet v1, as the module says; attributes as in `SlimNet`."""

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    units = range(1, len(UNITS) + 1)
    return [('stem', None), *((f'unit{i}', None) for i in units)]

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    return [round_channels(c * width) for c in (STEM, *(c for c, _ in UNITS))]

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    width: Width,
    train: bool = False,
    return_features: bool = False,
    features_only: bool = False,
  ):
    """Returns logits [b, num_classes] of `images` [b, h, w, 3] at `width`.

    With `return_features` also returns {'stage1': ..., 'stage5': ...}, the last
    map of each resolution (strides 2, 4, 8, 16, 32 with the published stem);
    with `features_only` these alone, and no classifier is built.
    """
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu6)
    stride = 1 if self.small_stem else 2
    x = conv(full[0], 3, stride, name='stem')(images, channels[0], train=train)
    features: dict[str, jax.Array] = {}
    for i, (_, stride) in enumerate(UNITS, 1):
      if stride == 2:
        features[f'stage{len(features) + 1}'] = x
      unit = Unit(full[i - 1], full[i], stride, conv, name=f'unit{i}')
      x = self.run_block(unit, x, channels[i], train=train)
    features[f'stage{len(features) + 1}'] = x
    if features_only:
      return features
    logits = self.classify(x)
    return (logits, features) if return_features else logits
