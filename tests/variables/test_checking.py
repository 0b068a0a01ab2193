"""What `slimjax.check_model` says of mistakes that networks of one's own make.

What it says of correct ones (nothing) is tested beside what they are made of.
"""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SlimDense
from slimjax.layers import SlimLayerNorm
from slimjax.layers import SwitchableBatchNorm
from slimjax.variables.comparing import attempt
from slimjax.variables.plain_norms import plain_norms


class Net(slimjax.SlimNet):
  """Two layers on small images; tests fill it."""

  sizes: tuple[int, ...] = (8, 16)

  def layer_names(self):
    return [(f'conv{i}', None) for i in range(len(self.sizes))]

  def uniform_channels(self, width):
    return [int(c * width) for c in self.sizes]

  def example(self):
    return (jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32),)

  def first(self, images, width, train):
    """Applies a correct first layer."""
    full, active = self.full_channels[0], self.channels(width)[0]
    conv = self.conv_norm(nn.relu)(full, name='conv0')
    return conv(images, active, train=train)


def compact(function):
  """Returns a network of one function, named after it."""
  members = {
    '__call__': nn.compact(function),
    '__module__': __name__,
    '__qualname__': function.__name__,
  }
  return type(function.__name__, (Net,), members)


@compact
def Right(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  return self.classify(SlimConv(full, 1, name='conv1')(x, active))


@compact
def PlainNorm(self, images, *, width, train=False):  # noqa: N802
  x = nn.LayerNorm(name='ln')(self.first(images, width, train))
  full, active = self.full_channels[1], self.channels(width)[1]
  return self.classify(SlimConv(full, 1, name='conv1')(x, active))


class LayerNorm(nn.Module):
  """A user's own, named as Flax's is, whose parameters each width has."""

  @nn.compact
  def __call__(self, x):
    return SlimLayerNorm()(x)


class Centred(nn.LayerNorm):
  """A subclass is as plain as Flax's own."""


def of_norm(norm):
  """Returns a network with one norm between its layers."""

  def Normed(self, images, *, width, train=False):  # noqa: N802
    x = norm()(self.first(images, width, train))
    full, active = self.full_channels[1], self.channels(width)[1]
    return self.classify(SlimConv(full, 1, name='conv1')(x, active))

  return compact(Normed)(num_classes=3, widths=(0.5, 1.0))


@pytest.mark.parametrize(
  'norm, line',
  [
    (nn.RMSNorm, 'RMSNorm of Flax, so all widths share its scale; use'),
    (nn.InstanceNorm, r'share its scale and bias.*GroupNorm\(group_size=1\)'),
    (Centred, 'Centred_0 is LayerNorm of Flax.* slimjax.layers.SlimLayerNorm'),
  ],
)
def test_plain_norms_are_known_by_their_class(norm, line):
  assert any(re.search(line, said) for said in plain_norms(of_norm(norm)))


@pytest.mark.parametrize(
  'norm', [LayerNorm, lambda: nn.RMSNorm(use_scale=False)]
)
def test_a_norm_that_shares_nothing_is_not_plain(norm):
  assert plain_norms(of_norm(norm)) == []


class Unbuildable(Net):
  """Flax wraps its methods, which are called before it is bound."""

  def uniform_channels(self, width):
    if hasattr(self, 'ready'):
      raise KeyError(f'no channels at {width}')
    return super().uniform_channels(width)


def test_the_error_of_an_unbound_network_is_its_own():
  model = Unbuildable(num_classes=3, widths=(0.5, 1.0))
  object.__setattr__(model, 'ready', True)
  _, problem = attempt(model.channels, 0.5)
  assert 'no channels at 0.5' in problem


@compact
def PlainBatchNorm(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  x = nn.BatchNorm(use_running_average=not train, name='bn')(x)
  full, active = self.full_channels[1], self.channels(width)[1]
  return self.classify(SlimConv(full, 1, name='conv1')(x, active))


@compact
def LooseNorm(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  x = SlimConv(full, 1, name='conv1')(x, active)
  return self.classify(SwitchableBatchNorm(name='norm1')(x, train=train))


@compact
def Forgotten(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  return self.classify(SlimConv(self.full_channels[1], 1, name='conv1')(x))


@compact
def Constant(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  return self.classify(SlimConv(16, 1, name='conv1')(x))


class Unequal(Net):
  """Sums two maps of as many channels at full width, not at half of it."""

  def uniform_channels(self, width):
    return [8, 8] if width == 1 else [4, 6]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    x = self.first(images, width, train)
    full, active = self.full_channels[1], self.channels(width)[1]
    return self.classify(x + SlimConv(full, 1, name='conv1')(x, active))


@compact
def LastChannels(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[0], self.channels(width)[0]
  shift = self.param('shift', nn.initializers.zeros, (full,))
  x = x + shift[full - active :].reshape(1, 1, 1, -1)
  full, active = self.full_channels[1], self.channels(width)[1]
  return self.classify(SlimConv(full, 1, name='conv1')(x, active))


@compact
def OfFullChannels(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  x = SlimConv(full, 1, name='conv1')(x, active) / full
  return self.classify(nn.relu(x))


@compact
def TrainOnly(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  x = SlimConv(full, 1, name='conv1')(x, active)
  if train:
    x += SlimDense(full, name='auxiliary')(x, active)
  return self.classify(x)


@compact
def NoTrain(self, images, *, width):  # noqa: N802
  x = images
  for full, active in zip(
    self.full_channels, self.channels(width), strict=True
  ):
    x = SlimConv(full, 1)(x, active)
  return self.classify(x)


@compact
def Maps(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  return SlimConv(full, 1, name='conv1')(x, active)


@compact
def Positions(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  size = x.shape[1:3]
  table = self.param('table', nn.initializers.normal(), size)
  full, active = self.full_channels[1], self.channels(width)[1]
  x = SlimConv(full, 1, name='conv1')(x + table[None, :, :, None], active)
  return self.classify(x)


@compact
def KeptNorm(self, images, *, width, train=False):  # noqa: N802
  # Its ConvNorm is not told that it is folded.
  full, active = self.full_channels, self.channels(width)
  conv = self.clone(folded=False).conv_norm(nn.relu)
  x = conv(full[0], name='conv0')(images, active[0], train=train)
  return self.classify(SlimConv(full[1], 1, name='conv1')(x, active[1]))


@compact
def CalledTwice(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  layer = nn.Dense(self.channels(width)[0], name='layer')
  y = layer(jnp.concatenate([x, x], -1))
  return self.classify(layer(x) + y)


@compact
def NumbersOnly(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  return self.classify(SlimConv(16, 1, name='conv1')(x, int(16 * width)))


MISTAKES = [
  (PlainNorm, ['ln is LayerNorm of Flax.* slimjax.layers.SlimLayerNorm']),
  (PlainBatchNorm, ['bn is BatchNorm of Flax.*SwitchableBatchNorm']),
  (LooseNorm, ['norm1: batch norm outside of a ConvNorm .*self.conv_norm']),
  (Forgotten, ['train=False: conv1 of .*give every layer its active count']),
  (
    Constant,
    [
      'params/conv1/kernel: all of its 16 outputs at width 0.5, where'
      ' uniform_channels lists 8; give its layer the active count'
    ],
  ),
  (
    Unequal,
    ['^Unequal cannot be built at width 0.5: add got incompatible .*one group'],
  ),
  (LastChannels, ['width 0.5, train=False: conv1 of .* use leading channels']),
  (OfFullChannels, ['classifier of .*never from full_channels or widths']),
  (
    TrainOnly,
    [
      r'params/auxiliary/(kernel|bias): only train=True creates it.*'
      r'is_initializing\(\)'
    ]
    * 2,
  ),
  (NoTrain, ["argument 'train'; training calls def __call__"]),
  (
    Maps,
    [
      r'outputs differ in shape or dtype .*\(2, 6, 6, 8\).* at 0.5,'
      r' .*\(2, 6, 6, 16\).* at 1.0'
    ],
  ),
  (KeptNorm, ['width 0.5: .*no batch_stats/conv0/norm/.*; use self.conv_norm']),
  (
    CalledTwice,
    ['^layer: .*cannot be built at full width.* must be of slimjax.layers'],
  ),
  (
    NumbersOnly,
    ['NumbersOnly cannot be built at full .*tuple.*: use self.channels'],
  ),
]


@pytest.mark.parametrize(
  'kind, lines', MISTAKES, ids=[kind.__name__ for kind, _ in MISTAKES]
)
def test_mistakes_are_named_with_their_mend(kind, lines):
  found = slimjax.check_model(kind(num_classes=3, widths=(0.5, 1.0)))
  assert len(found) == len(lines), found
  for line, pattern in zip(found, lines, strict=True):
    assert '\n' not in line
    assert re.search(pattern, line), line


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'widths': (0.5, (4, 12), (8, 16))},
    {'widths': (0.5,)},
    {'shared': ('norm', 'batch_stats')},
    {'dtype': jnp.bfloat16, 'axis_name': 'data'},
  ],
)
def test_a_correct_network(options):
  model = Right(**{'num_classes': 3, 'widths': (0.5, 1.0), **options})
  assert slimjax.check_model(model) == []


def test_an_extracted_and_a_folded_network():
  model = Right(num_classes=3, widths=(0.5, 1.0))
  variables = slimjax.init(model, jax.random.key(0))
  small, weights = slimjax.extract(model, variables, width=0.5)
  folded, _ = slimjax.fold_batch_norm(small, weights)
  assert slimjax.check_model(small) == slimjax.check_model(folded) == []


def test_the_size_of_the_images():
  model = Positions(num_classes=3, widths=(0.5, 1.0))
  assert slimjax.check_model(model) == slimjax.check_model(model, image_size=6)
  (line,) = slimjax.check_model(model, image_size=(6, 8))
  assert line.startswith(
    'params/table: its shape depends on the inputs, [6, 8] for [1, 6, 8, 3] and'
    ' [6, 6] for [1, 6, 6, 3]'
  )
  assert line.endswith('def example(self)')


@compact
def ThinThenWide(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  full, active = self.full_channels[1], self.channels(width)[1]
  layer = SlimConv(full, 1, name='conv1')
  return self.classify(layer(x[..., :2], active) + layer(x, active))


@compact
def WideTable(self, images, *, width, train=False):  # noqa: N802
  x = self.first(images, width, train)
  table = self.param('table', nn.initializers.zeros, (1, 5, 6, x.shape[-1]))
  full, active = self.full_channels[1], self.channels(width)[1]
  return self.classify(SlimConv(full, 1, name='conv1')(x + table, active))


@pytest.mark.parametrize(
  'kind, says, says_not',
  [
    (ThinThenWide, 'conv1: 8 active input channels, .*give in_features', ' $'),
    (WideTable, 'other axes than the channels.*def example', 'layer_names'),
  ],
)
def test_shapes_that_do_not_fit_name_the_right_mend(kind, says, says_not):
  (line,) = slimjax.check_model(kind(num_classes=3, widths=(0.5, 1.0)))
  assert re.search(says, line), line
  assert not re.search(says_not, line), line
