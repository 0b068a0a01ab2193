"""Widths, shapes and options of the families, and what is refused."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import FAMILIES
from small_models import shapes_of
from small_models import small
from tiny_net import TinyNet

import slimjax
from slimjax.models.resnet import Bottleneck
from slimjax.widths import label
from slimjax.widths import round_channels
from slimjax.widths import switch_name


def apply_shapes(model, images, width, variables=None):
  variables = shapes_of(model) if variables is None else variables
  return jax.eval_shape(
    lambda v, x: slimjax.apply(model, v, x, width=width), variables, images
  )


def image_shape(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


# Widths.


@pytest.mark.parametrize(
  'channels, rounded',
  [(1, 8), (11.2, 16), (12, 16), (11.9, 16), (33.6, 32), (89.6, 88), (18, 24)],
)
def test_channels_round_to_multiples_of_eight(channels, rounded):
  # 11.2 and 18 would lose more than 10 % at the nearest multiple below.
  assert round_channels(channels) == rounded


@pytest.mark.parametrize(
  'width, name',
  [
    (0.25, 'w025'),
    (1, 'w100'),
    (np.float32(0.5), 'w050'),
    (2.0, 'w200'),
    (0.125, 'w0125'),
    (0.35, 'w035'),
    ((8, 16), 'cc313c6c0'),
  ],
)
def test_names_of_switches_are_part_of_the_format(width, name):
  assert switch_name(width) == name


def test_widths_are_found_by_every_name_of_theirs():
  channels = (8, 16, 32)
  model = TinyNet(widths=(channels, 0.5, 1.0))
  assert model.find_widths([]) == (channels, 0.5, 1.0)
  for name in (label(channels), switch_name(channels), channels, [8, 16, 32]):
    assert model.find_widths([name]) == (channels,)
  for names in (['1.0', 'w050'], ['0.5', 1], [np.float32(0.5), 'w100']):
    assert model.find_widths(names) == (0.5, 1.0)
  with pytest.raises(ValueError, match=r'0\.3 is not one of'):
    model.find_widths(['0.3'])
  with pytest.raises(ValueError, match="'c1f3a9c07' is neither a number above"):
    model.find_widths(['c1f3a9c07'])


def test_parameters_are_as_wide_as_the_widest_layer_of_any_width():
  model = small('mobilenet_v1', [(8, 64, *[16] * 12), (24, 32, *[16] * 12)])
  assert model.full_channels == (24, 64, *[16] * 12)
  shapes = shapes_of(model)
  assert shapes['params']['stem']['conv']['kernel'].shape == (3, 3, 3, 24)
  kernel = shapes['params']['unit1']['pointwise']['conv']['kernel']
  assert kernel.shape == (1, 1, 24, 64)


RESNET14 = (8, 32, 8, 8, 32, 64, 16, 16, 64, 128, 32, 32, 128, 256, 64, 64, 256)
UNEQUAL = (*RESNET14[:4], 24, *RESNET14[5:])


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('vgg', {}, "unknown model 'vgg'; there are mobilenet_v1, mobilenet_v2"),
    ('resnet14', {'depth': 3}, "model resnet14: .*'depth'"),
    ('resnet14', {'widths': ()}, 'widths must be a tuple such as'),
    ('resnet14', {'widths': 0.5}, 'widths must be a tuple such as .* got 0.5'),
    ('resnet14', {'widths': (0.5, -1)}, 'width -1 is neither a number above'),
    ('resnet14', {'widths': ('a',)}, "width 'a' is neither a number above"),
    ('resnet14', {'widths': ((8, 0),)}, 'whole numbers above zero'),
    ('resnet14', {'widths': (1, 0.5, 1.0)}, 'two switches have the name w100'),
    (
      'resnet14',
      {'widths': (0.01,)},
      'width 0.01 leaves stem with no channels',
    ),
    (
      'resnet14',
      {'widths': (RESNET14[:-1],)},
      'ResNet has 17 layers that set a width, but 16 channels are given',
    ),
    (
      'resnet14',
      {'widths': (UNEQUAL,)},
      'stage1_block1/conv3 has 24 channels and stage1_block1/shortcut has 32',
    ),
    (
      'shufflenet',
      {'widths': (0.33,)},
      'stem would have 7 channels, which do not divide into 3 groups',
    ),
    (
      'shufflenet',
      {'widths': ((12,) * 33,)},
      'stage1_unit2/expand has 12 channels, but is summed with a map of 24',
    ),
    (
      'mobilenet_v2',
      {'widths': ((8, 8, 48, 16, 48, 24, *[8] * 29),)},
      'block3/project has 24 channels and block2/project has 16',
    ),
    ('resnet14', {'num_classes': 0}, 'num_classes must be a whole number'),
    (
      'resnet14',
      {'dtype': jnp.int32},
      'dtype must be one of float32',
    ),
  ],
)
def test_models_that_cannot_be_are_refused(name, options, message):
  options = {'num_classes': 10, 'widths': (0.5,), **options}
  with pytest.raises(ValueError, match=message):
    slimjax.create_model(name, **options)


def test_widths_that_do_not_fit_are_refused():
  model = small('resnet14', (0.25, 0.5))
  with pytest.raises(ValueError, match=r'0\.3 is not one of \(0\.25, 0\.5\)'):
    model.switch(0.3)
  with pytest.raises(ValueError, match='needs 48 channels in stem, but'):
    model.channels(0.75)
  with pytest.raises(ValueError, match='17 layers .* but 3 channels'):
    model.channels((8, 8, 8))
  # Before anything is computed: these are shapes.
  variables = shapes_of(model)
  images = image_shape(1, 32, 32, 3)
  with pytest.raises(ValueError, match='no switch w030, only w025, w050'):
    apply_shapes(model, images, 0.3, variables)
  with pytest.raises(ValueError, match='no switch w030, only w025, w050'):
    slimjax.extract(model, variables, width=0.3)
  with pytest.raises(ValueError, match='needs 48 channels in stem'):
    apply_shapes(model, images, 0.75, variables)


# Images.


@pytest.mark.parametrize(
  'images, message',
  [
    (image_shape(32, 32, 3), r'\[batch, height, width, 3\], got \[32, 32, 3\]'),
    (image_shape(1, 3, 32, 32), r'got \[1, 3, 32, 32\]'),
    (image_shape(1, 32, 32, 3, dtype=jnp.uint8), 'floating point.* got uint8'),
  ],
)
def test_wrong_images_are_refused(images, message):
  model = small('resnet14')
  with pytest.raises(ValueError, match=message):
    apply_shapes(model, images, 0.5)


def test_images_too_small_are_refused():
  model = small('shufflenet', (0.5,))
  message = 'the images are too small .* use larger ones, or small_stem=True'
  with pytest.raises(ValueError, match=message):
    apply_shapes(model, image_shape(1, 4, 4, 3), 0.5)
  with pytest.raises(ValueError, match=message):
    slimjax.init(model, jax.random.key(0), image_size=4)
  logits = apply_shapes(
    model.clone(small_stem=True), image_shape(1, 4, 4, 3), 0.5
  )
  assert logits.shape == (1, 10)


def halved(size, times):
  for _ in range(times):
    size = (size + 1) // 2
  return size


def expected_sizes(name, size, small_stem):
  """Pixels of each stage along an axis of `size`."""
  if name.startswith('mobilenet'):
    stem = 0 if small_stem else 1
    return [halved(size, stem + i) for i in range(5)]
  if name.startswith('resnet'):
    stem = 0 if small_stem else 2
    return [halved(size, stem + i) for i in range(4)]
  # A max pool without padding.
  stem = size - 2 if small_stem else (halved(size, 1) - 3) // 2 + 1
  return [halved(stem, 1 + i) for i in range(3)]


# The channels of each stage at half the width.
CHANNELS = {
  'mobilenet_v1': [32, 64, 128, 256, 512],
  'mobilenet_v2': [8, 16, 16, 48, 1280],
  'shufflenet': [120, 240, 480],
  'resnet14': [128, 256, 512, 1024],
}


@pytest.mark.parametrize('small_stem', [False, True])
@pytest.mark.parametrize('name', FAMILIES)
def test_features_of_images_of_any_size(name, small_stem):
  model = small(name, small_stem=small_stem)
  # The stem's stride has no say in the variables.
  variables = shapes_of(small(name))
  selected = {
    'params': variables['params'],
    'norm': variables['norm']['w050'],
    'batch_stats': variables['batch_stats']['w050'],
  }
  for size in ((33, 56),):
    logits, features = jax.eval_shape(
      lambda v, x: model.apply(v, x, width=0.5, return_features=True),
      selected,
      image_shape(2, *size, 3),
    )
    assert logits.shape == (2, 10)
    rows, columns = (expected_sizes(name, s, small_stem) for s in size)
    expected = {
      f'stage{i}': (2, h, w, c)
      for i, (h, w, c) in enumerate(
        zip(rows, columns, CHANNELS[name], strict=True), 1
      )
    }
    assert {k: f.shape for k, f in features.items()} == expected


def test_the_last_features_make_the_logits():
  model = small('resnet14', (0.125,))
  variables = slimjax.init(model, jax.random.key(0), image_size=32)
  images = np.random.RandomState(0).standard_normal((2, 40, 33, 3))
  images = jnp.float32(images)
  selected = {
    'params': variables['params'],
    'norm': variables['norm']['w0125'],
    'batch_stats': variables['batch_stats']['w0125'],
  }
  forward = functools.partial(model.apply, width=0.125, return_features=True)
  logits, features = jax.jit(forward)(selected, images)
  classifier = variables['params']['classifier']
  expected = features['stage4'].mean((1, 2)) @ classifier['kernel']
  np.testing.assert_allclose(
    logits, expected + classifier['bias'][None], rtol=0, atol=1e-6
  )


# Options that leave the network as it is.


@pytest.mark.parametrize('name', FAMILIES)
def test_remat_recomputes_every_block(name):
  blocks = {
    'mobilenet_v1': 13,
    'mobilenet_v2': 17,
    'shufflenet': 16,
    'resnet14': 4,
  }
  counts = []
  for remat in (False, True):
    model = small(name, remat=remat)
    forward = jax.make_jaxpr(
      lambda key, model=model: model.init(
        key, jnp.zeros((1, 32, 32, 3)), width=0.5
      )
    )(jax.random.key(0))
    counts.append(len(re.findall(r'\b(?:remat2?|checkpoint)\[', str(forward))))
  assert counts == [0, blocks[name]]


class OneBlock(slimjax.SlimNet):
  """A block of a ResNet, and the classifier."""

  @nn.nowrap
  def layer_names(self):
    return [('block/conv1', None), ('block/conv2', None), ('block/conv3', None)]

  @nn.nowrap
  def uniform_channels(self, width):
    return [int(width * c) for c in (16, 16, 64)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    block = Bottleneck(
      self.full_channels, 2, True, self.conv_norm(nn.relu), name='block'
    )
    x = self.run_block(block, images, *self.channels(width), train=train)
    return self.classify(x)


@pytest.mark.usefixtures('x64')
def test_remat_gives_equal_outputs_and_gradients():
  plain = OneBlock(num_classes=10, widths=(0.5,), dtype=jnp.float64)
  variables = slimjax.init(plain, jax.random.key(0), image_size=32)
  images = np.random.RandomState(0).standard_normal((2, 32, 32, 3))

  def run(model):
    def loss(trainable):
      logits, new = model.apply(
        {**trainable, 'batch_stats': variables['batch_stats']['w050']},
        images,
        width=0.5,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(jnp.square(logits)), (logits, new)

    trainable = {
      'params': variables['params'],
      'norm': variables['norm']['w050'],
    }
    return jax.jit(jax.grad(loss, has_aux=True))(trainable)

  results, expected = run(plain.clone(remat=True)), run(plain)
  assert jax.tree.structure(results) == jax.tree.structure(expected)
  for actual, value in zip(
    jax.tree.leaves(results), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(actual, value, rtol=1e-9, atol=1e-9)


def test_options_do_not_change_the_variables():
  shapes = shapes_of(small('resnet14', (0.5,)))
  for options in (
    {'small_stem': True},
    {'remat': True},
    {'dtype': jnp.bfloat16},
  ):
    assert shapes_of(small('resnet14', (0.5,), **options)) == shapes
