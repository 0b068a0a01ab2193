"""MobileNet v2: inverted residuals with linear bottlenecks.

Sandler et al., CVPR 2018 (arXiv 1801.04381), table 2; slimmable: Yu et al.,
ICLR 2019. The last convolution has at least its full 1280 channels at every
width. Its norm is private to each switch here, as in the paper; in the
published code the switches share it, as with `shared=SHARED_TAIL`.
"""

from collections.abc import Callable

from flax import linen as nn
import jax

from slimjax.models.net import LayerName
from slimjax.models.net import SlimNet
from slimjax.nn.conv import ConvNorm
from slimjax.widths import round_channels
from slimjax.widths import Width

SHARED_TAIL = ('norm/last', 'batch_stats/last')
STEM = 32
LAST = 1280
# (expansion, channels, blocks, stride of the first) of each stage
STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
  """Expands, filters each channel, projects; `residual` adds the input.

  Attributes:
    full_expanded: channels of the expansion at full width; None for a block
      that does not expand.
  """

  full_in: int
  full_expanded: int | None
  full: int
  stride: int
  residual: bool
  conv: Callable[..., ConvNorm]

  @nn.compact
  def __call__(self, x: jax.Array, *channels: int, train: bool) -> jax.Array:
    shortcut = x
    depth = self.full_in
    if self.full_expanded is not None:
      depth = self.full_expanded
      x = self.conv(depth, 1, name='expand')(x, channels[0], train=train)
    x = self.conv(depth, 3, self.stride, groups=depth, name='depthwise')(
      x, train=train
    )
    x = self.conv(self.full, 1, activation=None, name='project')(
      x, channels[-1], train=train
    )
    return shortcut + x if self.residual else x


class MobileNetV2(SlimNet):
  """MobileNet v2, as the module says; attributes as in `SlimNet`.

  The layers that set a width are the stem, the expansion (if there is one) and
  the projection of every block, and the last convolution.
  """

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    names: list[LayerName] = [('stem', None)]
    i = 0
    for stage, (expansion, _, blocks, _) in enumerate(STAGES, 1):
      for _ in range(blocks):
        i += 1
        if expansion > 1:
          names.append((f'block{i}/expand', None))
        names.append((f'block{i}/project', f'stage{stage}'))
    return [*names, ('last', None)]

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    counts = [round_channels(STEM * width)]
    for expansion, channels, blocks, _ in STAGES:
      for _ in range(blocks):
        if expansion > 1:
          counts.append(counts[-1] * expansion)
        counts.append(round_channels(channels * width))
    return [*counts, round_channels(LAST * max(width, 1.0))]

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
    layer, i = 1, 0
    for expansion, _, blocks, first_stride in STAGES:
      sets = 2 if expansion > 1 else 1
      for j in range(blocks):
        i += 1
        stride = first_stride if j == 0 else 1
        if stride == 2:
          features[f'stage{len(features) + 1}'] = x
        block = InvertedResidual(
          full_in=full[layer - 1],
          full_expanded=full[layer] if expansion > 1 else None,
          full=full[layer + sets - 1],
          stride=stride,
          residual=j > 0,
          conv=conv,
          name=f'block{i}',
        )
        x = self.run_block(
          block, x, *channels[layer : layer + sets], train=train
        )
        layer += sets
    x = conv(full[-1], 1, name='last')(x, channels[-1], train=train)
    features[f'stage{len(features) + 1}'] = x
    if features_only:
      return features
    logits = self.classify(x)
    return (logits, features) if return_features else logits
