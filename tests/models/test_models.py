"""Published counts, golden variable trees, shapes, and what is refused."""

import functools
import hashlib
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_net import TinyNet

import slimjax
from slimjax.analysis.published import same_macs
from slimjax.analysis.published import same_params
from slimjax.analysis.published import tables
from slimjax.models.resnet import Bottleneck
from slimjax.variables.format import variable_shapes
from slimjax.variables.profile import count_parameters
from slimjax.variables.profile import profile_model
from slimjax.widths import label
from slimjax.widths import round_channels
from slimjax.widths import switch_name

TABLES = tables()
# "Slimmable Neural Networks", ICLR 2019, table 2: parameters of the widest,
# (convolutions and classifier, batch norm).
TABLE_2 = {
  name: (row['conv_fc'], row['bn'])
  for name, row in TABLES['params_widest'].items()
  if name != 'source'
}
# Table 3: by width (MACs at 224 pixels, parameters of the individual network),
# in millions.
TABLE_3 = {
  name: {
    float(width): (row['macs'], row['individual_params_m'])
    for width, row in TABLES['imagenet'][name].items()
  }
  for name in TABLE_2
}
# Table 3: parameters of the slimmable network, in millions.
TABLE_3_SLIMMABLE = {
  name: TABLES['slimmable_params_m'][name] for name in TABLE_2
}
# MACs in millions of widths no other table has, from the README of the authors'
# code (US-Nets): they tell one rounding of channels from another.
US_NETS = {
  'mobilenet_v1': {0.275: 48, 0.8: 366, 0.975: 543},
  'mobilenet_v2': {0.4: 80, 0.6: 151, 0.85: 254},
}
# MACs in millions and channels of AutoSlim networks, from the configurations of
# the authors' code (arXiv 1903.11728). Theirs end with the classes.
AUTOSLIM = [
  (
    'mobilenet_v1',
    150,
    '16 32 48 48 88 88 224 176 224 368 320 224 744 744',
  ),
  (
    'mobilenet_v2',
    207,
    '8 8 96 16 96 16 96 24 144 24 144 24 144 48 288 48 288 48 288 48 288 64 432'
    ' 64 432 64 648 176 720 176 720 176 1440 280 1920',
  ),
  (
    'resnet50',
    570,
    '24 72 8 16 72 16 16 72 8 8 72 240 16 24 240 16 24 240 16 16 240 16 24 240'
    ' 704 72 72 704 48 72 704 48 72 704 72 72 704 48 48 704 48 48 704 1680 280'
    ' 240 1680 120 200 1680 280 280 1680',
  ),
]
# No counts of these are published with the paper.
NOT_PUBLISHED = {'resnet14', 'resnet101', 'resnet152'}
FAMILIES = ('mobilenet_v1', 'mobilenet_v2', 'shufflenet', 'resnet14')
cases = pytest.mark.parametrize(
  'name, width',
  [(name, width) for name, rows in TABLE_3.items() for width in rows],
)


def published(name):
  return slimjax.create_model(
    name, num_classes=1000, widths=tuple(TABLE_3[name])
  )


def small(name, widths=(0.5, 1.0), **options):
  return slimjax.create_model(name, num_classes=10, widths=widths, **options)


@functools.cache
def shapes_of(model):
  return jax.eval_shape(
    lambda: slimjax.init(model, jax.random.key(0), image_size=64)
  )


@functools.cache
def cost(name, width):
  return profile_model(published(name), width=width, image_size=224)


def apply_shapes(model, images, width, variables=None):
  variables = shapes_of(model) if variables is None else variables
  return jax.eval_shape(
    lambda v, x: slimjax.apply(model, v, x, width=width), variables, images
  )


def image_shape(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


# Counts.


def test_no_model_is_missing_from_the_tables():
  models = set(slimjax.MODELS) - NOT_PUBLISHED
  assert models == set(TABLE_2) == set(TABLE_3) == set(TABLE_3_SLIMMABLE)


@pytest.mark.parametrize('name', TABLE_2)
def test_parameters_of_the_widest(name):
  profile = profile_model(
    published(name), width=max(TABLE_3[name]), image_size=64
  )
  assert (profile.conv_fc_params, profile.bn_params) == TABLE_2[name]
  assert profile.params == sum(TABLE_2[name])


@pytest.mark.parametrize('name', TABLE_3_SLIMMABLE)
def test_parameters_of_the_slimmable_network(name):
  model = published(name)
  # Shared ones once, the norm of every switch: exactly, from the parts.
  norms = [cost(name, width).bn_params for width in model.widths]
  total = count_parameters(model)
  assert total == TABLE_2[name][0] + sum(norms)
  assert same_params(total, TABLE_3_SLIMMABLE[name])


@cases
def test_cost_of_each_width(name, width):
  macs, params = TABLE_3[name][width]
  profile = cost(name, width)
  # The table leaves out the norms: with them three of its numbers (ResNet-50,
  # ShuffleNet 1x and 2x) would be higher by one in the last place.
  assert same_params(profile.conv_fc_params, params)
  assert same_macs(profile.macs, macs)


def test_counts_are_the_printed_ones_to_their_last_digit():
  assert same_macs(568_740_352, 569)
  assert same_macs(1_052_311_552, 1100)  # printed 1.1G
  assert same_macs(137_300_832, 138)  # cut off, or more than the products
  assert not same_macs(325_400_448, 317)
  assert not same_macs(1_160_000_000, 1100)
  assert same_params(25_503_912, 25.5)
  assert not same_params(25_557_032, 25.5)


@pytest.mark.parametrize(
  'name, width, macs',
  [(n, w, m) for n, rows in US_NETS.items() for w, m in rows.items()],
)
def test_cost_of_widths_that_were_not_trained(name, width, macs):
  profile = cost(name, width)
  assert profile.macs / 1e6 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize('name, macs, channels', AUTOSLIM)
def test_cost_of_channel_lists(name, macs, channels):
  channels = tuple(int(c) for c in channels.split())
  model = slimjax.create_model(name, num_classes=1000, widths=[list(channels)])
  assert model.full_channels == channels
  profile = profile_model(model, width=channels, image_size=224)
  assert profile.macs / 1e6 == pytest.approx(macs, rel=0.01)


def test_macs_of_a_map_that_is_not_square():
  model = small('resnet14')
  # The convolutions' share is proportional to the pixels.
  costs = [
    profile_model(model, width=0.5, image_size=size).macs
    for size in (64, (64, 128), (128, 64))
  ]
  classifier = 1024 * 10
  assert costs[1] == costs[2] == 2 * (costs[0] - classifier) + classifier


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


# The variables are the format of checkpoints: a name that changes breaks those
# that are out there.


def lines(model):
  flat = traverse_util.flatten_dict(shapes_of(model), sep='/')
  return sorted(f'{path} {leaf.shape}' for path, leaf in flat.items())


# The variables of the stem and of the second unit.
MOBILENET_V1 = """\
batch_stats/w050/stem/norm/mean (16,)
batch_stats/w050/stem/norm/var (16,)
batch_stats/w050/unit2/depthwise/norm/mean (32,)
batch_stats/w050/unit2/depthwise/norm/var (32,)
batch_stats/w050/unit2/pointwise/norm/mean (64,)
batch_stats/w050/unit2/pointwise/norm/var (64,)
batch_stats/w100/stem/norm/mean (32,)
batch_stats/w100/stem/norm/var (32,)
batch_stats/w100/unit2/depthwise/norm/mean (64,)
batch_stats/w100/unit2/depthwise/norm/var (64,)
batch_stats/w100/unit2/pointwise/norm/mean (128,)
batch_stats/w100/unit2/pointwise/norm/var (128,)
norm/w050/stem/norm/bias (16,)
norm/w050/stem/norm/scale (16,)
norm/w050/unit2/depthwise/norm/bias (32,)
norm/w050/unit2/depthwise/norm/scale (32,)
norm/w050/unit2/pointwise/norm/bias (64,)
norm/w050/unit2/pointwise/norm/scale (64,)
norm/w100/stem/norm/bias (32,)
norm/w100/stem/norm/scale (32,)
norm/w100/unit2/depthwise/norm/bias (64,)
norm/w100/unit2/depthwise/norm/scale (64,)
norm/w100/unit2/pointwise/norm/bias (128,)
norm/w100/unit2/pointwise/norm/scale (128,)
params/classifier/bias (10,)
params/classifier/kernel (1024, 10)
params/stem/conv/kernel (3, 3, 3, 32)
params/unit2/depthwise/conv/kernel (3, 3, 1, 64)
params/unit2/pointwise/conv/kernel (1, 1, 64, 128)
"""


def test_variables_of_mobilenet_v1():
  parts = {'stem', 'unit2', 'classifier'}
  flat = lines(small('mobilenet_v1'))
  flat = [line for line in flat if parts & set(line.split('/'))]
  assert flat == MOBILENET_V1.splitlines()


# The checksum is of all the lines such as those above.
@pytest.mark.parametrize(
  'name, count, digest',
  [
    ('mobilenet_v1', 245, 'a05ae46647c49527'),
    ('mobilenet_v2', 470, '9876957122616102'),
    ('shufflenet', 443, 'a2573e0f44d5166b'),
    ('resnet14', 155, 'ee98fd530a6703b5'),
    ('resnet50', 479, '5a696cebce0b6f30'),
  ],
)
def test_variable_trees_are_golden(name, count, digest):
  model = small(name)
  assert variable_shapes(model) == shapes_of(model)
  flat = lines(model)
  text = '\n'.join(flat)
  assert len(flat) == count, text
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, text


def test_new_variables():
  model = TinyNet(num_classes=100, widths=(0.25, 1.0))
  variables = slimjax.init(model, jax.random.key(0), image_size=32)
  flat = traverse_util.flatten_dict(variables)
  for path, leaf in flat.items():
    leaf = np.asarray(leaf)
    if path[-1] in ('scale', 'var'):
      assert np.all(leaf == 1), path
    elif path[-1] in ('bias', 'mean'):
      assert np.all(leaf == 0), path
    elif path[1] == 'classifier':
      assert leaf.std() == pytest.approx(0.01, rel=0.05)
    else:
      # Variance 2 / (kh * kw * out) (paper, appendix A), within sampling error.
      kh, kw, _, out = leaf.shape
      expected = np.sqrt(2 / (kh * kw * out))
      assert leaf.std() == pytest.approx(expected, rel=4 / leaf.size**0.5)
