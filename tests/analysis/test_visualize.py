"""What a network learned: layers, activations, norms, and their pictures."""

import json

import jax
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
import pytest
import tiny_net

from slimjax.analysis import features
from slimjax.analysis import figures
from slimjax.data import digits
from slimjax.data.batches import ArraySplit
from slimjax.data.dataset import Dataset
from slimjax.layers import EPSILON
from slimjax.models import create_model
from slimjax.train import train_and_evaluate
from slimjax.variables import select
from slimjax.variables.format import variable_shapes

WIDTHS = (0.25, 0.125)  # rows are thinnest first all the same
UNREADABLE = 3
IMAGES = 11


def _perturbed(model, seed=1):
  """Returns random variables, whose norms are apart for each switch."""
  random = np.random.default_rng(seed)

  def draw(path, like):
    if path[-1].key == 'kernel':
      fan_in = np.prod(like.shape[:-1])
      array = random.normal(0, np.sqrt(2 / fan_in), like.shape)
    else:
      array = random.uniform(0.5, 1.5, like.shape)
    return np.float32(array)

  return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))


class _OneUnreadable(ArraySplit):
  def read_eval(self, indices):
    batch = super().read_eval(indices)
    return {**batch, 'mask': indices != UNREADABLE}


@pytest.fixture(scope='module')
def noise():
  """Images of noise; the last, which also pads, is the most contrasted."""
  random = np.random.default_rng(0)
  images = random.integers(80, 176, (IMAGES, 32, 32, 3), np.uint8)
  images[-1] = random.choice(np.uint8([0, 255]), images[-1].shape)
  images[UNREADABLE] = images[-1][::-1]
  labels = random.integers(0, 2, IMAGES, np.int32)
  return Dataset(
    name='noise',
    num_classes=2,
    class_names=('0', '1'),
    image_size=32,
    preprocessing='',
    splits={'test': _OneUnreadable({'image': images, 'label': labels})},
    augment=None,
    preprocess=digits.preprocess,
  )


@pytest.fixture(scope='module')
def network():
  """Returns a model, its variables, and those of each width alone."""
  model = create_model('resnet14', num_classes=2, widths=WIDTHS, remat=True)
  variables = _perturbed(model)
  return model, variables, features.extract_all(model, variables)


@pytest.fixture(scope='module')
def brute_force(network, noise):
  """Returns all maps and classes of all images, of the unsliced model."""
  model, variables, _ = network
  model = model.clone(remat=False)
  images = digits.preprocess(noise.splits['test'].arrays['image'])
  found = {}
  for width in WIDTHS:

    @jax.jit
    def everything(selected, width=width):
      return model.apply(
        selected,
        images,
        width=width,
        capture_intermediates=True,
        mutable=['intermediates'],
      )

    logits, captured = everything(select(variables, model.switch(width)))
    found[width] = np.argmax(logits, -1), captured['intermediates']
  return found


def _expected(activations, count):
  """Numbers of the most activating images that can be read."""
  order = [n for n in np.argsort(-activations) if n != UNREADABLE]
  return np.array(order[:count])


def _numpy_stem(variables, switch, images, channel):
  """Returns relu(norm(conv7x7/2)) of one channel [b, h, w], in numpy."""
  selected = select(variables, switch)
  kernel = np.asarray(selected['params']['stem']['conv']['kernel'])
  padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
  windows = sliding_window_view(padded, (7, 7), axis=(1, 2))[:, ::2, ::2]
  maps = np.einsum('bhwcij,ijc->bhw', windows, kernel[..., channel])
  norm = selected['norm']['stem']['norm']
  stats = selected['batch_stats']['stem']['norm']
  maps = (maps - stats['mean'][channel]) * norm['scale'][channel]
  maps /= np.sqrt(stats['var'][channel] + EPSILON)
  return np.maximum(maps + norm['bias'][channel], 0)


def _search(network, dataset, layer, channel, **options):
  model, _, networks = network
  found = features.find_layers(model, dataset.image_size)[layer]
  return features.most_activating(
    networks,
    dataset,
    layer=layer,
    positions=features.channel_positions(networks, found, channel),
    **options,
  )


def test_the_top_images_are_those_of_numpy(network, noise):
  model, variables, _ = network
  images = np.asarray(
    digits.preprocess(noise.splits['test'].arrays['image']), np.float64
  )
  rows = _search(network, noise, 'stem', 5, count=4, batch_size=3)
  assert list(rows) == [0.125, 0.25]
  for width, row in rows.items():
    maps = _numpy_stem(variables, model.switch(width), images, 5)
    activations = maps.max(axis=(1, 2))
    numbers = _expected(activations, 4)
    assert row['number'].tolist() == numbers.tolist()
    np.testing.assert_allclose(
      row['activation'], activations[numbers], rtol=1e-4
    )
    arrays = noise.splits['test'].arrays
    np.testing.assert_array_equal(row['image'], arrays['image'][numbers])
    assert row['image'].dtype == np.uint8


def test_every_image_once_with_its_flag(network, noise, brute_force):
  """Deeper, with more asked for than there is: no padding, none unreadable."""
  labels = noise.splits['test'].arrays['label']
  rows = _search(
    network, noise, 'stage2_block1/conv2', 9, count=99, batch_size=4
  )
  flags = []
  for width, row in rows.items():
    classes, maps = brute_force[width]
    (conv2,) = maps['stage2_block1']['conv2']['__call__']
    activations = np.max(conv2[..., 9], axis=(1, 2))
    numbers = _expected(activations, 99)
    assert len(numbers) == IMAGES - 1
    assert sorted(row['number']) == sorted(numbers)
    np.testing.assert_allclose(
      row['activation'], activations[numbers], rtol=1e-4, atol=1e-5
    )
    wrong = (classes != labels)[row['number']]
    np.testing.assert_array_equal(row['wrong'], wrong)
    flags += wrong.tolist()
  assert {True, False} == set(flags)


def test_of_equal_activations_the_earlier_comes_first():
  part = lambda numbers, activations: {
    'number': np.array(numbers),
    'activation': np.array(activations),
  }
  best = features._best([part([0, 1], [6.0, 2.0]), part([2, 3], [6.0, 6.0])], 3)
  assert best['number'].tolist() == [0, 2, 3]


def _mobilenet_v2_layers():
  names = ['stem', 'block1/depthwise', 'block1/project']
  for i in range(2, 18):
    names += [f'block{i}/{part}' for part in ('expand', 'depthwise', 'project')]
  return [*names, 'last']


def _resnet14_layers():
  names = ['stem']
  for stage in range(1, 5):
    convs = ('shortcut', 'conv1', 'conv2', 'conv3')
    names += [f'stage{stage}_block1/{conv}' for conv in convs]
  return names


def _shufflenet_layers():
  units = [f'stage{s}_unit{u}' for s in (1, 2, 3) for u in range(1, 9)]
  units = [u for u in units if u[5] == '2' or int(u[-1]) <= 4]
  parts = ('compress', 'depthwise', 'expand')
  return ['stem', *(f'{unit}/{part}' for unit in units for part in parts)]


ORDERS = {
  'mobilenet_v1': [
    'stem',
    *(f'unit{i}/{p}' for i in range(1, 14) for p in ('depthwise', 'pointwise')),
  ],
  'mobilenet_v2': _mobilenet_v2_layers(),
  'resnet14': _resnet14_layers(),
  'shufflenet': _shufflenet_layers(),
}


@pytest.mark.parametrize('name', ORDERS)
def test_layers_stand_in_the_order_of_execution(name):
  model = create_model(name, num_classes=2, widths=(0.5, 1.0), remat=True)
  layers = features.find_layers(model, 64)
  assert list(layers) == ORDERS[name]
  linear = {
    'mobilenet_v1': (),
    'mobilenet_v2': ('project',),
    'resnet14': ('shortcut', 'conv3'),
    'shufflenet': ('depthwise', 'expand'),
  }[name]
  for path, layer in layers.items():
    assert layer.activated == (not path.endswith(linear or '-')), path
  assert layers[figures.default_layer(layers)].activated
  if name == 'mobilenet_v1':  # where the paper's figure is
    assert figures.default_layer(layers) == 'unit3/pointwise'


@pytest.fixture(scope='module')
def grouped():
  """Layers and networks of a ShuffleNet whose switches share their norms."""
  shared = ('norm', 'batch_stats')
  model = create_model(
    'shufflenet', num_classes=2, widths=(0.5, 1.0), shared=shared
  )
  variables = _perturbed(model)
  layers = features.find_layers(model, 64)
  return layers, features.extract_all(model, variables)


def test_a_channel_of_a_group_is_of_the_same_kernel_at_every_width(grouped):
  layers, networks = grouped
  name = 'stage1_unit2/compress'
  kernels = [
    variables['params']['stage1_unit2']['compress']['conv']['kernel']
    for _, variables in networks.values()
  ]
  inputs, common = kernels[0].shape[2:]
  assert kernels[1].shape[2:] == (2 * inputs, 2 * common)
  for channel in (0, common // 3 - 1, common // 3, common - 1):
    thin, wide = features.channel_positions(
      networks, layers[name], channel
    ).values()
    assert thin == channel
    assert wide == channel + channel // (common // 3) * (common // 3)
    np.testing.assert_array_equal(
      kernels[0][..., thin], kernels[1][:, :, :inputs, wide]
    )


def test_what_all_switches_share_does_not_diverge(grouped):
  """Inside groups, too, where common channels are no prefix."""
  layers, networks = grouped
  values = features.norm_values(networks, layers)
  assert values['stage1_unit2/compress']['scale'].shape == (2, 30)
  assert np.ptp(values['stage1_unit2/compress']['scale'][0]) > 0.5
  for layer, apart in features.divergences(values).items():
    assert apart == dict.fromkeys(features.NORM_VALUES, 0.0), layer


def test_divergence_is_seen_where_it_is(network):
  model, variables, _ = network
  thin, wide = model.switch(0.125), model.switch(0.25)
  equal = jax.tree.map(np.ones_like, variables)
  layers = features.find_layers(model, 32)
  bias = equal['norm'][thin]['stage2_block1']['conv1']['norm']['bias']
  bias[:] = 3.0
  # Only the widest has these.
  equal['norm'][wide]['stem']['norm']['scale'][8:] = 100.0
  apart = features.divergences(
    features.norm_values(features.extract_all(model, equal), layers)
  )
  found = {
    (layer, name): value
    for layer, of_layer in apart.items()
    for name, value in of_layer.items()
    if value
  }
  # |3 - 1| / sqrt((9 + 1) / 2)
  expected = {('stage2_block1/conv1', 'bias'): 2 / np.sqrt(5)}
  assert found == pytest.approx(expected)


def test_divergence_is_what_its_formula_says():
  two = np.array([[1.0, 2.0], [3.0, 2.0]])
  # sqrt((4 + 0) / 2) / sqrt((1 + 4 + 9 + 4) / 4)
  assert features.divergence(two) == pytest.approx(2 / 3)
  three = np.array([[0.0], [1.0], [2.0]])
  # sqrt((1 + 4 + 1) / 3) / sqrt((0 + 1 + 4) / 3)
  assert features.divergence(three) == pytest.approx(np.sqrt(6 / 5))
  for factor in (1e-6, -4.0, 1e6):
    assert features.divergence(factor * two) == pytest.approx(2 / 3)
  assert features.divergence(np.zeros((3, 4))) == 0.0
  assert features.divergence(np.full((3, 4), 7.0)) == 0.0
  assert features.divergence(two[:1]) == 0.0
  unrelated = np.random.default_rng(0).normal(size=(4, 20000))
  assert features.divergence(unrelated) == pytest.approx(np.sqrt(2), abs=0.02)


# A run.


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a finished run of an epoch on real digits."""
  workdir = tmp_path_factory.mktemp('visualize') / 'run'
  train_and_evaluate(tiny_net.get_config(epochs=1), workdir)
  return workdir


TINY = [
  'stem',
  *(f'unit{i}/{part}' for i in (1, 2) for part in ('depthwise', 'pointwise')),
]


def _is_picture(path):
  from matplotlib import image

  pixels = image.imread(path)
  assert min(pixels.shape[:2]) > 200
  return pixels


def test_a_run_becomes_pictures(run, capsys):
  paths = figures.visualize_run(run, images=3, split='train')
  names = ['activations.png', 'norms.png', 'divergence.png', 'divergence.json']
  assert [path.name for path in paths] == names
  assert sorted(p.name for p in (run / 'features').iterdir()) == sorted(names)
  pictures = [_is_picture(path) for path in paths[:3]]
  assert all(np.ptp(pixels) > 0.5 for pixels in pictures)
  printed = capsys.readouterr().out
  # Its thinnest layer has 8 channels, and no channel 9.
  assert f'activations of {TINY[1]}, channel 0' in printed
  assert f'norms of stem and {TINY[-1]}' in printed
  apart = json.loads(paths[3].read_text())
  assert list(apart) == TINY
  assert all(set(of) == set(features.NORM_VALUES) for of in apart.values())
  # One stem, of the same images: only what is trained differs.
  assert apart['stem']['mean'] < 1e-4 < apart['stem']['bias']
  assert apart[TINY[-1]]['var'] > 0.01


def test_misclassified_images_are_outlined(tmp_path):
  row = {
    'activation': np.array([2.0, 1.0]),
    'wrong': np.array([False, True]),
    'image': np.zeros((2, 8, 8, 3), np.uint8),
  }
  reds = []
  for wrong in ([False, False], [False, True], [True, True]):
    path = tmp_path / 'activations.png'
    rows = {0.25: row, 1.0: {**row, 'wrong': np.array(wrong)}}
    figures.plot_activations(rows, path, 'title')
    pixels = _is_picture(path)[..., :3]
    reds.append(np.sum((pixels == [1, 0, 0]).all(axis=-1)))
  assert reds[0] > 0
  assert reds[1] == pytest.approx(2 * reds[0], rel=0.05)
  assert reds[2] == pytest.approx(3 * reds[0], rel=0.05)


@pytest.mark.parametrize(
  'options, says',
  [
    ({'layer': 'stage9'}, "unknown layer 'stage9'; there are stem, unit1/"),
    ({'deep': 'conv'}, "unknown layer 'conv'; there are stem, unit1/"),
    ({'layer': 'stem', 'channel': 8}, 'channel 8: .* 8 channels of stem .* 7$'),
    ({'channel': -1}, 'channel -1: .* largest valid for all of them is 7$'),
    ({'split': 'held_out'}, "'held_out': the run has train, test"),
    ({'images': 0}, 'at least one image must be shown, got 0'),
  ],
)
def test_errors_name_what_there_is(run, tmp_path, options, says):
  with pytest.raises(ValueError, match=says):
    figures.visualize_run(run, tmp_path / 'out', **options)
  assert not (tmp_path / 'out').exists()
