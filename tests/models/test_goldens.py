"""Parity: with the published networks, and with ordinary Flax networks."""

import functools

from flax import linen as nn
from flax import traverse_util
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_net import TinyNet

import slimjax
from slimjax.variables.format import variable_shapes
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

apply = jax.jit(slimjax.apply, static_argnums=0, static_argnames='width')

CASES = [
  (name, width) for name in goldens.MODELS for width in goldens.widths(name)
]


def load(name, dtype=np.float32):
  # One model, whatever the type of the weights: its shapes are known then.
  model = slimjax.create_model(
    name, num_classes=1000, widths=goldens.widths(name)
  )
  variables = load_torch(model, goldens.weights(name, dtype))
  return model.clone(dtype=dtype), variables


# The cases of one network stand together: no more than one is kept.
network = functools.lru_cache(maxsize=1)(load)


def distance(actual, expected):
  """Returns the largest difference, relative to the largest entry expected."""
  expected = np.asarray(expected, np.float64)
  actual = np.asarray(actual, np.float64)
  assert actual.shape == expected.shape
  return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('name, width', CASES)
def test_logits_are_the_published_ones(name, width):
  model, variables = network(name)
  images, golden = goldens.images(4), goldens.logits(name)[width]
  logits = slimjax.apply(model, variables, images, width=width)
  assert distance(logits, golden) < 1e-4
  # The program is the same: nothing is compiled again.
  alone = slimjax.extract(model, variables, width=width)
  extracted = slimjax.apply(*alone, images, width=width)
  np.testing.assert_array_equal(extracted, logits)


@pytest.mark.parametrize('name', goldens.MODELS)
def test_published_checkpoints_round_trip(name):
  model, variables = network(name)
  weights, back = goldens.weights(name), save_torch(model, variables)
  assert list(back) == list(weights)
  for tensor, array in weights.items():
    assert back[tensor].dtype == array.dtype, tensor
    assert back[tensor].shape == array.shape, tensor
    assert back[tensor].tobytes() == array.tobytes(), tensor


# In float64: the golden weights of MobileNet v2 are ill conditioned, so that
# folding, exact in algebra, moves its float32 logits by more than an epsilon
# that is wrong. The goldens, made in float64 from networks that are not folded,
# are stored in float32: they are equal to 1e-6, or something is wrong.
# What `check_model` proves of every family (test_slicing.py) is shown with
# published weights for one: how a norm folds does not depend on the width.
@pytest.mark.usefixtures('x64')
def test_folded_logits_are_the_published_ones():
  name = 'mobilenet_v2'
  width = min(goldens.widths(name))
  model, variables = load(name, np.float64)
  folded = slimjax.fold_batch_norm(
    *slimjax.extract(model, variables, width=width)
  )
  assert set(folded[1]) == {'params'}
  logits = apply_folded(*folded, goldens.images(4, np.float64))
  assert distance(logits, goldens.logits(name)[width]) < 1e-6


@functools.partial(jax.jit, static_argnums=0)
def apply_folded(model, variables, images):
  return model.apply(variables, images, width=model.widths[0])


def test_several_widths_do_not_fold():
  model = slimjax.create_model('resnet14', num_classes=3, widths=(0.125, 0.25))
  with pytest.raises(ValueError, match='extract one first'):
    slimjax.fold_batch_norm(model, {})


# Ordinary networks, of Flax's own layers and with channel counts of their own.


class PlainUnit(nn.Module):
  """A convolution and its norm, with nothing slimmable in them."""

  features: int
  kernel: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x, train):
    pad = self.kernel // 2
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      (self.stride, self.stride),
      padding=((pad, pad), (pad, pad)),
      feature_group_count=self.groups,
      use_bias=False,
      name='conv',
    )(x)
    # What one running variance is the mean of.
    self.sow('counts', 'n', x.size // x.shape[-1])
    # Flax weighs the old value by `momentum`, PyTorch the new one.
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=1e-5,
      use_fast_variance=False,
      name='norm',
    )(x)


class PlainDepthwiseSeparable(nn.Module):
  features: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    c = x.shape[-1]
    x = PlainUnit(c, 3, self.stride, groups=c, name='depthwise')(x, train)
    x = nn.relu6(x)
    return nn.relu6(PlainUnit(self.features, 1, name='pointwise')(x, train))


class PlainMobileNetV1(nn.Module):
  width: float

  @nn.compact
  def __call__(self, x, train=False):
    w = lambda c: int(c * self.width)
    x = nn.relu6(PlainUnit(w(32), 3, 2, name='stem')(x, train))
    channels = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    for i, (c, stride) in enumerate(zip(channels, strides, strict=True), 1):
      x = PlainDepthwiseSeparable(w(c), stride, name=f'unit{i}')(x, train)
    return nn.Dense(10, name='classifier')(x.mean((1, 2)))


class PlainBottleneck(nn.Module):
  features: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    c = self.features
    y = nn.relu(PlainUnit(c, 1, name='conv1')(x, train))
    y = nn.relu(PlainUnit(c, 3, self.stride, name='conv2')(y, train))
    y = PlainUnit(4 * c, 1, name='conv3')(y, train)
    x = PlainUnit(4 * c, 1, self.stride, name='shortcut')(x, train)
    return nn.relu(x + y)


class PlainResNet14(nn.Module):
  width: float

  @nn.compact
  def __call__(self, x, train=False):
    w = lambda c: int(c * self.width)
    x = nn.relu(PlainUnit(w(64), 7, 2, name='stem')(x, train))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for i, (c, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], 1):
      x = PlainBottleneck(w(c), stride, name=f'stage{i}_block1')(x, train)
    return nn.Dense(10, name='classifier')(x.mean((1, 2)))


PLAIN = {'mobilenet_v1': PlainMobileNetV1, 'resnet14': PlainResNet14}
PLAIN_WIDTHS = (0.25, 0.5)
WIDTH = 0.25  # of these, the one that slices


@functools.cache
def shapes(name):
  return variable_shapes(
    slimjax.create_model(name, num_classes=10, widths=PLAIN_WIDTHS)
  )


def drawn(name, dtype):
  """Returns the model, and variables of which no two entries are alike."""
  model = slimjax.create_model(
    name, num_classes=10, widths=PLAIN_WIDTHS, dtype=dtype
  )
  return model, scattered(shapes(name), dtype)


def scattered(shapes, dtype):
  """Variables of such shapes, of which no two entries are alike."""
  rng = np.random.RandomState(0)

  def draw(path, leaf):
    kind = path[-1].key
    if kind == 'kernel':
      fan_in = np.prod(leaf.shape[:-1])
      array = rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)
    elif kind in ('scale', 'var'):
      array = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      array = 0.1 * rng.standard_normal(leaf.shape)
    return jnp.asarray(array, dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def images33(dtype):
  # 33 pixels: no stride divides them.
  array = np.random.RandomState(1).standard_normal((3, 33, 33, 3))
  return jnp.asarray(array, dtype)


def plain_variables(model, variables):
  """Returns what `extract` takes, as an ordinary network has it."""
  _, alone = slimjax.extract(model, variables, width=WIDTH)
  switch = model.switch(WIDTH)
  return {
    'params': joined(alone['params'], alone['norm'][switch]),
    'batch_stats': alone['batch_stats'][switch],
  }


def joined(params, norm):
  return traverse_util.unflatten_dict(
    {
      **traverse_util.flatten_dict(params),
      **traverse_util.flatten_dict(norm),
    }
  )


def selected(model, variables):
  """Returns what a module sees, by hand."""
  switch = model.switch(WIDTH)
  return {
    'params': variables['params'],
    'norm': variables['norm'][switch],
    'batch_stats': variables['batch_stats'][switch],
  }


def test_layers_slice_what_is_extracted_bit_for_bit():
  # Not jitted: operation by operation the two do the same.
  model = TinyNet(num_classes=10, widths=PLAIN_WIDTHS)
  variables = scattered(variable_shapes(model), np.float32)
  images = images33(jnp.float32)
  alone, weights = slimjax.extract(model, variables, width=WIDTH)
  np.testing.assert_array_equal(
    model.apply(selected(model, variables), images, width=WIDTH),
    alone.apply(selected(alone, weights), images, width=WIDTH),
  )


# In float64, not bit for bit: on CPU our pointwise convolution is a dot, our
# depthwise one and our norm in training sum in an order of their own.
@pytest.mark.usefixtures('x64')
def test_a_switch_is_an_ordinary_network():
  name = 'mobilenet_v1'
  model, variables = drawn(name, jnp.float64)
  images = images33(jnp.float64)
  logits = apply(model, variables, images, width=WIDTH)
  plain = jax.jit(PLAIN[name](WIDTH).apply)(
    plain_variables(model, variables), images
  )
  assert distance(logits, plain) < 1e-12


@pytest.mark.parametrize('name', PLAIN)
@pytest.mark.usefixtures('x64')
def test_a_switch_trains_as_an_ordinary_network(name):
  model, variables = drawn(name, jnp.float64)
  images = images33(jnp.float64)
  target = jnp.asarray(np.random.RandomState(2).standard_normal((3, 10)))

  def ours(trainable, batch_stats):
    logits, new = model.apply(
      {**trainable, 'batch_stats': batch_stats},
      images,
      width=WIDTH,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(logits * target), (logits, new['batch_stats'])

  def theirs(params, batch_stats):
    logits, new = PLAIN[name](WIDTH).apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats', 'counts'],
    )
    return jnp.sum(logits * target), (logits, new)

  before = selected(model, variables)
  trainable = {key: before[key] for key in ('params', 'norm')}
  plain = plain_variables(model, variables)
  if name == 'resnet14':
    ours, theirs = (jax.value_and_grad(f, has_aux=True) for f in (ours, theirs))
  loss = jax.jit(ours)(trainable, before['batch_stats'])
  plain_loss = jax.jit(theirs)(plain['params'], plain['batch_stats'])
  # Gradients of one are enough: they take the longest to compile.
  if name == 'resnet14':
    loss, gradients = loss
    plain_loss, plain_gradients = plain_loss
    # Those of the parameters the switch uses, taken out of the others.
    switch = model.switch(WIDTH)
    gradients = {
      'params': gradients['params'],
      'norm': {switch: gradients['norm']},
      'batch_stats': variables['batch_stats'],
    }
    gradients = plain_variables(model, gradients)['params']
    assert_trees_near(gradients, plain_gradients)
  _, (logits, stats) = loss
  _, (plain_logits, new) = plain_loss
  assert distance(logits, plain_logits) < 1e-11

  # Flax's running variance is of the biased ones, ours of the unbiased.
  expected = traverse_util.flatten_dict(new['batch_stats'])
  old = traverse_util.flatten_dict(plain['batch_stats'])
  counts = traverse_util.flatten_dict(new['counts'])
  for path, value in expected.items():
    if path[-1] == 'var':
      (n,) = counts[(*path[:-2], 'n')]
      expected[path] = value + (value - 0.9 * old[path]) / (n - 1)
  assert_trees_near(stats, traverse_util.unflatten_dict(expected))


def assert_trees_near(actual, expected):
  actual = traverse_util.flatten_dict(actual)
  expected = traverse_util.flatten_dict(expected)
  assert actual.keys() == expected.keys()
  for path, value in expected.items():
    assert distance(actual[path], value) < 1e-10, path
