"""ShuffleNet with three groups, each slimmed inside.

Zhang et al., CVPR 2018 (arXiv 1707.01083), table 1 with g = 3; slimmable: Yu
et al., ICLR 2019. A width keeps the leading channels of every group: in the
flat channel axis they are three runs, not a prefix. Two blocks are
concatenated along the flat axis, so that a group may hold channels of both.
"""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from slimjax.models.net import LayerName
from slimjax.models.net import non_empty
from slimjax.models.net import SlimNet
from slimjax.nn.conv import ConvNorm
from slimjax.widths import Width

GROUPS = 3
COMPRESS = 4
STEM = 24
# (channels, units) of each stage; the first unit has stride 2
STAGES = ((240, 4), (480, 8), (960, 4))


def shuffle(x: jax.Array) -> jax.Array:
  """Interleaves the groups of [b, h, w, c]: channel 0 of each, then 1, ..."""
  *batch, c = x.shape
  x = x.reshape(*batch, GROUPS, c // GROUPS)
  return jnp.swapaxes(x, -1, -2).reshape(*batch, c)


class Unit(nn.Module):
  """Applies grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, shortcut.

  Attributes:
    full: channels of the first and the last convolution at full width.
    stride: 2 concatenates the average-pooled input, 1 adds the input.
    grouped_first: whether the first convolution is grouped. (In the published
      first unit every group sees the whole stem.)
  """

  full: tuple[int, int]
  stride: int
  grouped_first: bool
  conv: Callable[..., ConvNorm]

  @nn.compact
  def __call__(
    self, x: jax.Array, inner: int, outer: int, *, train: bool
  ) -> jax.Array:
    shortcut = x
    x = self.conv(
      self.full[0],
      1,
      groups=GROUPS if self.grouped_first else 1,
      out_groups=GROUPS,
      name='compress',
    )(x, inner, train=train)
    # After the shuffle, a prefix of the channels is a prefix of every group.
    x = self.conv(
      self.full[0],
      3,
      self.stride,
      groups=self.full[0],
      activation=None,
      name='depthwise',
    )(shuffle(x), train=train)
    x = self.conv(
      self.full[1], 1, groups=GROUPS, activation=None, name='expand'
    )(x, outer, train=train)
    if self.stride == 1:
      return nn.relu(shortcut + x)
    pooled = nn.avg_pool(shortcut, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return nn.relu(jnp.concatenate([x, pooled], axis=-1))


class ShuffleNet(SlimNet):
  """ShuffleNet, as the module says; attributes as in `SlimNet`.

  The layers that set a width are the stem and, in every unit, the first and
  the last convolution. The published widths are (0.5, 1.0, 2.0).
  """

  widths: tuple[Width, ...] = (0.5, 1.0, 2.0)

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    names: list[LayerName] = [('stem', None)]
    for stage, (_, units) in enumerate(STAGES, 1):
      for j in range(1, units + 1):
        unit = f'stage{stage}_unit{j}'
        names += [(f'{unit}/compress', None), (f'{unit}/expand', None)]
    return names

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    counts = [int(STEM * width)]
    previous = counts[0]
    for channels, units in STAGES:
      outer = int(channels * width)
      inner = outer // COMPRESS
      counts += [inner, outer - previous] + [inner, outer] * (units - 1)
      previous = outer
    return counts

  @nn.nowrap
  def check_channels(self, channels: tuple[int, ...]) -> None:
    for (layer, _), count in zip(self.layer_names(), channels, strict=True):
      if count % GROUPS:
        raise ValueError(
          f'ShuffleNet: {layer} would have {count} channels, which do not'
          f' divide into {GROUPS} groups'
        )
    x, counts = channels[0], iter(channels[1:])
    names = iter(self.layer_names()[1:])
    for _, units in STAGES:
      for j in range(units):
        _, outer = next(counts), next(counts)
        _, (layer, _) = next(names), next(names)
        if j == 0:
          x += outer
        elif outer != x:
          raise ValueError(
            f'ShuffleNet: {layer} has {outer} channels, but is summed with a'
            f' map of {x}'
          )

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

    With `return_features` also returns {'stage1': ..., 'stage3': ...}, the last
    map of each stage (strides 8, 16, 32 with the published stem);
    with `features_only` these alone, and no classifier is built.
    """
    channels, full = iter(self.channels(width)), iter(self.full_channels)
    conv = self.conv_norm(nn.relu)
    stride = 1 if self.small_stem else 2
    x = conv(next(full), 3, stride, out_groups=GROUPS, name='stem')(
      images, next(channels), train=train
    )
    x = nn.max_pool(x, (3, 3), (stride, stride))
    x = non_empty(x, 'the map behind the stem')
    features = {}
    for stage, (_, units) in enumerate(STAGES, 1):
      for j in range(1, units + 1):
        unit = Unit(
          full=(next(full), next(full)),
          stride=2 if j == 1 else 1,
          grouped_first=(stage, j) != (1, 1),
          conv=conv,
          name=f'stage{stage}_unit{j}',
        )
        x = self.run_block(unit, x, next(channels), next(channels), train=train)
      features[f'stage{stage}'] = x
    if features_only:
      return features
    logits = self.classify(x)
    return (logits, features) if return_features else logits
