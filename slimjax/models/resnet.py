"""ResNet-50, 101 and 152: bottleneck residual networks.

He et al., CVPR 2016 (arXiv 1512.03385), table 1, with the stride in the 3x3
convolution (as in Goyal et al., 2017); slimmable: Yu et al., ICLR 2019.
"""

from collections.abc import Callable

from flax import linen as nn
import jax

from slimjax.models.net import LayerName
from slimjax.models.net import SlimNet
from slimjax.nn.conv import ConvNorm
from slimjax.widths import Width

STEM = 64
EXPANSION = 4
# (bottleneck channels, stride of the first block) of each stage
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
# blocks of each stage
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
  """Convolves 1x1, 3x3, 1x1, and adds the input or its projection."""

  full: tuple[int, int, int]
  stride: int
  project: bool
  conv: Callable[..., ConvNorm]

  @nn.compact
  def __call__(self, x: jax.Array, *channels: int, train: bool) -> jax.Array:
    first, second, last = channels
    shortcut = x
    if self.project:
      shortcut = self.conv(
        self.full[2], 1, self.stride, activation=None, name='shortcut'
      )(x, last, train=train)
    x = self.conv(self.full[0], 1, name='conv1')(x, first, train=train)
    x = self.conv(self.full[1], 3, self.stride, name='conv2')(
      x, second, train=train
    )
    x = self.conv(self.full[2], 1, activation=None, name='conv3')(
      x, last, train=train
    )
    return nn.relu(shortcut + x)


class ResNet(SlimNet):
  """ResNet, as the module says; other attributes as in `SlimNet`.

  The layers that set a width are the stem and, in every block, the projected
  shortcut (only the first block of a stage has one) and the three convolutions.

  Attributes:
    depths: number of blocks of each stage; default: those of ResNet-50.
  """

  depths: tuple[int, ...] = DEPTHS[50]

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    names: list[LayerName] = [('stem', None)]
    for stage, depth in enumerate(self.depths, 1):
      for j in range(1, depth + 1):
        block, tie = f'stage{stage}_block{j}', f'stage{stage}'
        if j == 1:
          names.append((f'{block}/shortcut', tie))
        names += [(f'{block}/conv1', None), (f'{block}/conv2', None)]
        names.append((f'{block}/conv3', tie))
    return names

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    counts = [int(STEM * width)]
    for (channels, _), depth in zip(STAGES, self.depths, strict=True):
      inner, outer = int(channels * width), int(channels * EXPANSION * width)
      counts += [outer] + [inner, inner, outer] * depth
    return counts

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

    With `return_features` also returns {'stage1': ..., 'stage4': ...}, C2 to
    C5 (strides 4, 8, 16, 32 with the published stem);
    with `features_only` these alone, and no classifier is built.
    """
    channels, full = iter(self.channels(width)), iter(self.full_channels)
    conv = self.conv_norm(nn.relu)
    stride = 1 if self.small_stem else 2
    x = conv(next(full), 7, stride, name='stem')(
      images, next(channels), train=train
    )
    x = nn.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))
    features = {}
    for stage, ((_, first_stride), depth) in enumerate(
      zip(STAGES, self.depths, strict=True), 1
    ):
      for j in range(1, depth + 1):
        if j == 1:  # skip the shortcut: as wide as the block's last layer
          next(full), next(channels)
        block = Bottleneck(
          full=(next(full), next(full), next(full)),
          stride=first_stride if j == 1 else 1,
          project=j == 1,
          conv=conv,
          name=f'stage{stage}_block{j}',
        )
        active = (next(channels), next(channels), next(channels))
        x = self.run_block(block, x, *active, train=train)
      features[f'stage{stage}'] = x
    if features_only:
      return features
    logits = self.classify(x)
    return (logits, features) if return_features else logits
