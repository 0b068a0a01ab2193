"""A width uses the leading block that the network built at it would have."""

import logging
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from own_nets import close
from own_nets import drawn
from own_nets import images_of
from own_nets import make
from own_nets import Net
from own_nets import WIDTHS
import pytest

import slimjax
from slimjax.layers import SlimConv
from slimjax.models import mobilenet_v1
from slimjax.models import mobilenet_v2
from slimjax.models import resnet
from slimjax.models import shufflenet
from slimjax.variables import select
from slimjax.variables.slicing import Cut
from slimjax.variables.slicing import cuts

# Layers with a life of their own.


class Twice(Net):
  """One convolution called with all its channels, then with half of them."""

  sizes: tuple[int, ...] = (8, 4)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (full, _), (first, second) = self.full_channels, self.channels(width)
    x = SlimConv(full, 1, name='stem')(images, first)
    body = SlimConv(full, in_features=full, use_bias=True, name='body')
    x = nn.relu(body(x, first))
    return self.classify(nn.relu(body(x, second)))


def test_gradients_of_a_layer_called_with_two_counts():
  model = make(Twice)
  params = drawn(model)['params']
  images = images_of()

  def gradient(net, params):
    loss = lambda params: jnp.sum(
      jnp.sin(net.apply({'params': params}, images, width=0.5))
    )
    return jax.jit(jax.grad(loss))(params)

  by_hand = gradient(model, params)  # of the whole tree
  small, weights = slimjax.extract(model, {'params': params}, width=0.5)
  part = gradient(small, weights['params'])
  for (_, *path), cut in cuts(model, 0.5).items():
    layer, name = path
    found = cut.add(jnp.zeros(cut.whole_shape), part[layer][name])
    assert np.abs(found).max() > 0
    close(found, by_hand[layer][name])


class Large(Net):
  """Takes images of 96 pixels and more."""

  def example(self):
    return (jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32),)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (full,), (active,) = self.full_channels, self.channels(width)
    conv = self.conv_norm(nn.relu)
    x = conv(full, 5, 8, name='conv0')(images, active, train=train)
    return self.classify(nn.max_pool(x, (9, 9)))


class Hidden(Large):
  """The same, but does not say so."""

  example = slimjax.SlimNet.example


def test_a_network_that_needs_large_images():
  model, images = make(Large), images_of(96)
  variables = slimjax.init(model, jax.random.key(0))
  assert slimjax.apply(model, variables, images, width=0.5).shape == (2, 3)
  _, weights = slimjax.extract(model, variables, width=0.5)
  assert weights['params']['conv0']['conv']['kernel'].shape == (5, 5, 3, 4)
  macs = lambda size: (
    slimjax.profile_model(model, width=0.5, image_size=size).macs
  )
  assert macs(None) == macs(96) == 144 * 25 * 3 * 4 + 4 * 3
  assert macs((96, 192)) == 2 * 144 * 25 * 3 * 4 + 4 * 3
  assert slimjax.check_model(model) == []
  (line,) = slimjax.check_model(model, image_size=32)
  assert '[1, 32, 32, 3] does not fit, [1, 96, 96, 3] of def example' in line
  (line,) = slimjax.check_model(make(Hidden))
  assert 'Hidden cannot be built at full width: the last map is empty' in line
  assert '[1, 128, 128, 3] is large enough, [1, 64, 64, 3] is not' in line
  assert 'def example(self)' in line


class Plain(Net):
  """Layers and parameters of Flax, without a norm."""

  sizes: tuple[int, ...] = (8, 12)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    first, second = self.channels(width)
    x = nn.PReLU(name='prelu')(nn.Conv(first, (3, 3), name='conv')(images))
    scale = self.param('scale', nn.initializers.constant(0.1), (first,))
    table = self.param('table', nn.initializers.normal(), (36,))
    x = x * scale.reshape(1, 1, 1, -1) + table.reshape(1, 6, 6, 1)
    x = nn.relu(nn.Dense(second, name='dense')(x))
    return self.classify(x)


@pytest.mark.parametrize('width, first, second', [(0.5, 4, 6), (1.0, 8, 12)])
def test_layers_and_parameters_of_flax(width, first, second):
  model = make(Plain)
  variables = drawn(model)
  assert set(variables) == {'params'}
  params = variables['params']
  expected = {
    'conv': {
      'kernel': params['conv']['kernel'][..., :first],
      'bias': params['conv']['bias'][:first],
    },
    'prelu': params['prelu'],
    'scale': params['scale'][:first],
    'table': params['table'],
    'dense': {
      'kernel': params['dense']['kernel'][:first, :second],
      'bias': params['dense']['bias'][:second],
    },
    'classifier': {
      'kernel': params['classifier']['kernel'][:second],
      'bias': params['classifier']['bias'],
    },
  }
  small, weights = slimjax.extract(model, variables, width=width)
  close(weights['params'], expected, 0)
  logits = slimjax.apply(model, variables, images_of(), width=width)
  by_hand = make(Plain, widths=(width,)).apply(
    {'params': expected}, images_of(), width=width
  )
  close(logits, by_hand)
  close(slimjax.apply(small, weights, images_of(), width=width), by_hand)
  profile = slimjax.profile_model(model, width=width)
  convolutions = 36 * 27 * first + 36 * first * second
  assert profile.macs == convolutions + second * 3
  layers = 27 * first + first + first * second + second + second * 3 + 3
  assert profile.params == layers + 1 + first + 36
  assert profile.bn_params == 0


def test_a_network_without_norms_begins_and_is_correct():
  model = make(Plain)
  variables = slimjax.init(model, jax.random.key(0))
  shapes = jax.tree.map(jnp.shape, variables)
  assert shapes == jax.tree.map(jnp.shape, drawn(model))
  np.testing.assert_array_equal(variables['params']['scale'], np.float32(0.1))
  assert slimjax.check_model(model) == []


class Blocks(Net):
  """Three blocks that can be computed twice instead of kept."""

  sizes: tuple[int, ...] = (8, 8, 16)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    x, conv = images, self.conv_norm(nn.relu)
    for i, active in enumerate(self.channels(width)):
      block = conv(self.full_channels[i], name=f'conv{i}')
      x = self.run_block(block, x, active, train=train)
    return self.classify(x)


def test_remat_takes_the_same_parts():
  plain, remat = make(Blocks), make(Blocks, remat=True)
  assert cuts(remat, 0.5) == cuts(plain, 0.5)
  assert not any(
    cut.is_whole for path, cut in cuts(remat, 0.5).items() if 'bias' not in path
  )
  variables = drawn(plain)
  small, weights = slimjax.extract(remat, variables, width=0.5)
  close(weights, slimjax.extract(plain, variables, width=0.5)[1], 0)
  expected = slimjax.apply(plain, variables, images_of(), width=0.5)
  close(slimjax.apply(small, weights, images_of(), width=0.5), expected)
  assert slimjax.check_model(remat) == []


# Cuts.


def random_cut(random):
  full, used = [], []
  for _ in range(random.integers(1, 4)):
    sizes = tuple(int(n) for n in random.integers(1, 5, random.integers(1, 4)))
    full.append(sizes)
    used.append(tuple(int(random.integers(0, n)) + 1 for n in sizes))
  return Cut(tuple(full), tuple(used))


def places(cut):
  """Indices of the part in the whole array, written out."""
  axes = []
  for full, used in zip(cut.full, cut.used, strict=True):
    starts = np.cumsum((0, *full[:-1]))
    runs = [np.arange(s, s + n) for s, n in zip(starts, used, strict=True)]
    axes.append(np.concatenate(runs))
  return np.ix_(*axes)


@pytest.mark.parametrize('seed', range(5))
def test_cuts_against_numpy(seed):
  random = np.random.default_rng(seed)
  cut = random_cut(random)
  there = places(cut)
  whole = random.integers(0, 99, cut.whole_shape).astype(np.float32)
  part = random.integers(0, 99, cut.shape).astype(np.float32)
  assert cut.is_whole == (cut.whole_shape == cut.shape)
  np.testing.assert_array_equal(cut.take(jnp.array(whole)), whole[there])
  added, replaced = whole.copy(), whole.copy()
  added[there] += part
  replaced[there] = part
  np.testing.assert_array_equal(cut.add(jnp.array(whole), part), added)
  np.testing.assert_array_equal(cut.put(jnp.array(whole), part), replaced)
  np.testing.assert_array_equal(
    cut.stacked.take(jnp.array(whole)[None]), whole[there][None]
  )


def few(monkeypatch):
  """Makes the tables of the families shallow."""
  monkeypatch.setattr(mobilenet_v1, 'UNITS', mobilenet_v1.UNITS[:2])
  stages = ((1, 16, 1, 1), (6, 24, 2, 2))
  monkeypatch.setattr(mobilenet_v2, 'STAGES', stages)
  monkeypatch.setattr(shufflenet, 'STAGES', ((240, 2),))
  monkeypatch.setattr(resnet, 'STAGES', resnet.STAGES[:2])


FAMILIES = ('mobilenet_v1', 'mobilenet_v2', 'shufflenet', 'resnet14')


@pytest.mark.parametrize('name', FAMILIES)
def test_parts_of_the_families(name):
  model = slimjax.create_model(name, num_classes=10, widths=WIDTHS)
  # The public format, but nothing is drawn: each number is its place.
  shapes = jax.eval_shape(lambda: slimjax.init(model, jax.random.key(0)))
  count = lambda like: np.arange(np.prod(like.shape)).reshape(like.shape)
  flat = {
    path: count(like)
    for path, like in traverse_util.flatten_dict(shapes['params']).items()
  }
  grouped = 0
  for (collection, *path), cut in cuts(model, 0.5).items():
    if collection != 'params':
      assert cut.whole_shape[0] >= cut.shape[0]
      continue
    whole = flat[tuple(path)]
    assert whole.shape == cut.whole_shape
    segments = {len(axis) for axis in cut.full}
    if segments == {1}:
      leading = whole[tuple(slice(n) for n in cut.shape)]
    else:
      # Three groups of outputs, the leading half of each.
      grouped += 1
      assert segments == {1, 3}
      thirds = np.split(whole[:, :, : cut.shape[2]], 3, axis=-1)
      leading = np.concatenate(
        [third[..., : cut.shape[3] // 3] for third in thirds], axis=-1
      )
    np.testing.assert_array_equal(whole[places(cut)], leading)
  # The stem, and two of every unit; the depthwise follows the shuffle.
  assert grouped == (33 if name == 'shufflenet' else 0)


# MobileNet v2 has all that v1 has.
@pytest.mark.parametrize('name', FAMILIES[1:])
def test_families_are_correct(name, monkeypatch):
  few(monkeypatch)
  options = {'depths': (1, 1)} if name == 'resnet14' else {}
  # The caches know a network by its attributes, not by the table.
  model = slimjax.create_model(
    name, num_classes=7, widths=WIDTHS, small_stem=True, **options
  )
  assert slimjax.check_model(model, image_size=16) == []


# What it costs, and what is refused.


def test_extracting_compiles_slices_only(caplog):
  model = make(Blocks, num_classes=5)
  variables = drawn(model)
  pattern = re.compile(r'Finished XLA compilation of jit\(([^)]*)\)')
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    slimjax.extract(model, variables, width=0.5)
    found = {
      name
      for record in caplog.records
      for name in pattern.findall(record.getMessage())
    }
  assert found == {'slice'}


def test_variables_that_a_width_alone_has_are_refused():
  class Named(Net):
    @nn.compact
    def __call__(self, images, *, width, train=False):
      (full,), (active,) = self.full_channels, self.channels(width)
      x = SlimConv(full, name=f'conv_of_{active}')(images, active)
      return self.classify(x)

  message = (
    'params/conv_of_4/kernel: the network at width 0.5 has it, the whole Named'
    ' has not; create the same variables at every width'
  )
  with pytest.raises(ValueError, match=message):
    cuts(make(Named), 0.5)
  lines = slimjax.check_model(make(Named))
  assert lines == [message]


def test_shapes_that_are_no_part_are_refused():
  class Growing(Net):
    @nn.compact
    def __call__(self, images, *, width, train=False):
      (active,) = self.channels(width)
      return self.classify(nn.Conv(12 - active, (1, 1), name='conv')(images))

  message = (
    r'params/classifier/kernel: its shape at width 0.5 is \[8, 3\], no leading'
    r' part of \[4, 3\], its shape at full width'
  )
  with pytest.raises(ValueError, match=message):
    cuts(make(Growing), 0.5)


def test_a_switch_without_trees_is_refused():
  model = make(Blocks)
  with pytest.raises(ValueError, match='no switch w025, only w050, w100'):
    select(drawn(model), 'w025')
