"""Channels in the order of their importance, and statistics for thin widths."""

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_net import NAME
from tiny_net import TinyNet

import slimjax
from slimjax.layers import SlimConv
from slimjax.models.net import SlimNet
from slimjax.variables.calibrating import calibrate
from slimjax.variables.sorting import channel_axes
from slimjax.variables.sorting import units
from slimjax.widths import round_channels

WIDTHS = (0.125, 0.25)


def create(name=NAME, widths=WIDTHS, classes=10, **options):
  return slimjax.create_model(
    name, num_classes=classes, widths=widths, **options
  )


def drawn(model, seed=0):
  """Variables no two channels of which are alike."""
  shapes = jax.eval_shape(lambda: slimjax.init(model, jax.random.key(0)))
  random = np.random.default_rng(seed)

  def draw(path, like):
    low = 0.5 if path[-1].key in ('scale', 'var') else -0.5
    return random.uniform(low, low + 1, like.shape)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def flat(tree):
  return {'/'.join(p): x for p, x in traverse_util.flatten_dict(tree).items()}


# Which axis holds whose channels.


def test_a_depthwise_convolution_follows_its_input():
  axes = {'/'.join(p): a for p, a in channel_axes(create()).items()}
  assert units(create()) == [0, 1, 2]
  kernels = {
    'stem/conv': (None, None, None, 0),
    'unit1/depthwise/conv': (None, None, None, 0),
    'unit1/pointwise/conv': (None, None, 0, 1),
    'unit2/depthwise/conv': (None, None, None, 1),
    'unit2/pointwise/conv': (None, None, 1, 2),
    'classifier': (2, None),
  }
  for name, expected in kernels.items():
    assert axes[f'params/{name}/kernel'] == expected
  assert axes['params/classifier/bias'] == (None,)
  assert axes['batch_stats/unit1/depthwise/norm/var'] == (0,)


def test_layers_whose_maps_are_summed_are_one_unit():
  model = create('resnet14', (0.25, 0.5))
  assert units(model) == [0, 1, 2, 3, 1, 4, 5, 6, 4, 7, 8, 9, 7, 10, 11, 12, 10]
  axes = channel_axes(model)
  kernel = lambda name: axes['params', 'stage2_block1', name, 'conv', 'kernel']
  assert kernel('shortcut')[2:] == (1, 4)
  assert kernel('conv1')[2:] == (1, 5)
  assert kernel('conv3')[2:] == (6, 4)


# The order.


def test_the_best_channels_come_first(x64):
  """The score by hand, of a layer that another and a norm stand between."""
  model = create(widths=(0.25,), dtype=jnp.float64)
  before = drawn(model)
  reports = []
  after = slimjax.make_slimmable(create(), before, report=reports.append)
  assert str(reports[0]).endswith(
    'norms of 0.125 from 0.25; channels sorted by l1'
  )
  old, new = flat(before), flat(after)
  read = 'params/unit1/pointwise/conv/kernel'  # what reads the stem's channels
  score = np.abs(old[read]).sum((0, 1, 3))
  order = np.argsort(-score, kind='stable')
  for name, axis in {
    'params/stem/conv/kernel': 3,
    'params/unit1/depthwise/conv/kernel': 3,
    'norm/w025/stem/norm/scale': 0,
    'batch_stats/w025/unit1/depthwise/norm/var': 0,
  }.items():
    np.testing.assert_array_equal(new[name], np.take(old[name], order, axis))
  sorted_score = np.abs(new[read]).sum((0, 1, 3))
  assert (np.diff(sorted_score) <= 1e-12).all()
  # Every array holds the numbers that it held, and the head keeps its classes.
  for name in old:
    np.testing.assert_array_equal(
      np.sort(old[name], axis=None), np.sort(new[name], axis=None)
    )
  np.testing.assert_array_equal(
    old['params/classifier/bias'], new['params/classifier/bias']
  )
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)))
  one, other = (
    slimjax.apply(create(dtype=jnp.float64, widths=w), v, images, width=0.25)
    for v, w in ((before, (0.25,)), (after, WIDTHS))
  )
  np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
  thin = slimjax.apply(create(dtype=jnp.float64), after, images, width=0.125)
  plain = slimjax.load_weights(create(), before)
  unsorted = slimjax.apply(
    create(dtype=jnp.float64), plain, images, width=0.125
  )
  assert np.abs(thin - unsorted).max() > 1e-3


@pytest.mark.parametrize(
  'method, name, axes',
  [
    ('l1_made', 'params/unit1/pointwise/conv/kernel', (0, 1, 2)),
    ('scale', 'norm/w025/unit1/pointwise/norm/scale', ()),
  ],
)
def test_other_methods(method, name, axes):
  """It sorts a unit that a depthwise convolution's norms follow."""
  before = drawn(create(widths=(0.25,)))
  after = flat(slimjax.make_slimmable(create(), before, method=method))
  score = np.abs(after[name]).sum(axes)
  if method == 'scale':
    score = score + after['norm/w025/unit2/depthwise/norm/scale']
  assert (np.diff(score) <= 1e-6).all()


# What cannot be sorted.


class Ordered(TinyNet):
  """The outputs depend on the order of channels, in a way shapes do not say."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu6)
    x = conv(full[0], 3, 2, name='stem')(images, channels[0], train=train)
    x = jnp.cumsum(x, axis=-1)
    x = conv(full[1], 1, name='unit1')(x, channels[1], train=train)
    x = conv(full[2], 1, name='unit2')(x, channels[2], train=train)
    return self.classify(x)


class Flattened(SlimNet):
  """A layer whose kernel has several rows for a channel."""

  def layer_names(self):
    return [('stem', None), ('next', None)]

  def uniform_channels(self, width):
    return [round_channels(width * 64)] * 2

  def example(self):
    return (jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu)
    x = conv(full[0], 3, 8, name='stem')(images, channels[0], train=train)
    x = x.reshape(x.shape[0], 1, 1, -1)
    x = SlimConv(full[1], 1, name='next')(x, channels[1])
    return self.classify(x)


@pytest.mark.parametrize(
  'make, message',
  [
    (Ordered, 'outputs of Ordered depend on the order of its channels'),
    (Flattened, 'params/next/kernel of Flattened: its axis 2 is slimmed in'),
  ],
)
def test_networks_that_cannot_be_sorted(make, message):
  model = make(num_classes=10, widths=WIDTHS)
  with pytest.raises(ValueError, match=message):
    slimjax.make_slimmable(model, drawn(make(num_classes=10, widths=(0.25,))))


def test_groups_are_refused():
  model = create('shufflenet', (0.5, 1.0))
  variables = drawn(create('shufflenet', (1.0,)))
  with pytest.raises(
    ValueError, match='of ShuffleNet cannot be sorted'
  ) as error:
    slimjax.make_slimmable(model, variables)
  assert len(str(error.value).splitlines()) == 1
  with pytest.raises(
    ValueError, match="'l2' of importance; there are l1, l1_m"
  ):
    slimjax.make_slimmable(model, variables, method='l2')


# Calibration.


def test_thin_widths_are_calibrated_and_the_widest_is_not():
  """Means of batch means and unbiased variances, each batch by itself."""
  model = create(widths=(0.125, 0.25), dtype=jnp.float32)
  before = drawn(create(widths=(0.25,)), seed=3)
  before = jax.tree.map(np.float32, before)
  random = np.random.default_rng(0)
  batches = [
    random.normal(size=(8, 32, 32, 3)).astype(np.float32) for _ in range(3)
  ]
  plain = slimjax.make_slimmable(model, before)
  after = slimjax.make_slimmable(model, before, iter(batches))
  wide, thin = (
    [flat(v['batch_stats'][switch]) for v in (plain, after)]
    for switch in ('w025', 'w0125')
  )
  for name in wide[0]:
    np.testing.assert_array_equal(wide[0][name], wide[1][name])
    assert not np.array_equal(thin[0][name], thin[1][name])
  # The stem by hand, and all norms by running statistics that begin at zero.
  kernel = np.asarray(after['params']['stem']['conv']['kernel'])[..., :8]
  maps = [
    jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 2),
      [(1, 1)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    for x in batches
  ]
  for leaf, of in (
    ('mean', np.mean),
    ('var', lambda x, a: np.var(x, a, ddof=1)),
  ):
    expected = np.mean([of(np.float64(m), (0, 1, 2)) for m in maps], axis=0)
    found = thin[1][f'stem/norm/{leaf}']
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  small, weights = slimjax.extract(model, plain, width=0.125)
  norm, statistics = (
    weights[name]['w0125'] for name in ('norm', 'batch_stats')
  )
  start = {
    'params': weights['params'],
    'norm': norm,
    'batch_stats': jax.tree.map(jnp.zeros_like, statistics),
  }
  run = jax.jit(
    lambda x: small.apply(
      start, x, width=0.125, train=True, mutable=['batch_stats']
    )
  )
  moved = [run(x)[1]['batch_stats'] for x in batches]
  for name, found in thin[1].items():
    expected = np.mean([np.float64(flat(m)[name]) / 0.1 for m in moved], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert jax.tree.structure(after) == jax.tree.structure(plain)


def test_calibration_that_cannot_be():
  model, images = create(), np.zeros((1, 32, 32, 3), np.float32)
  variables = drawn(model)
  for batches, message in (
    ([], 'there are no batches'),
    ([images], 'a batch of one image has no variance'),
    ([np.zeros((2, 32, 32, 3), np.uint8)], 'must be floating point'),
  ):
    with pytest.raises(ValueError, match=message):
      calibrate(model, variables, batches)
  shared = create(shared=('norm', 'batch_stats'))
  with pytest.raises(ValueError, match='the widths share running statistics'):
    calibrate(shared, drawn(shared), [images])
