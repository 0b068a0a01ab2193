"""Weights of ordinary networks, of the authors' and of our own."""

import functools
import re

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import plain_nets
import pytest
from tiny_net import NAME

import slimjax
from slimjax.variables.recognising import recognise
from slimjax.variables.torch_names import load_torch

WIDTHS = (0.25, 0.5, 1.0)
V2 = plain_nets.mobilenet_v2
# our name: the network, its tensors and its parameters as its makers count them
ORDINARY = {
  'resnet50': (plain_nets.resnet, 267, 25_557_032),
  'resnet101': (
    functools.partial(plain_nets.resnet, depths=(3, 4, 23, 3)),
    522,
    44_549_160,
  ),
  'resnet152': (
    functools.partial(plain_nets.resnet, depths=(3, 8, 36, 3)),
    777,
    60_192_808,
  ),
  'mobilenet_v1': (plain_nets.timm_mobilenet_v1, 137, 4_231_976),
  'mobilenet_v2': (
    functools.partial(V2, names=plain_nets.TORCHVISION_NAMES),
    262,
    3_504_872,
  ),
}


SMALL = functools.partial(plain_nets.resnet, depths=(1, 1, 1, 1))


class Shapes(plain_nets.Weights):
  """Zeros that take no memory, where only names and shapes count."""

  def draw(self, name, shape, low, high):
    shape = shape if isinstance(shape, tuple) else (shape,)
    self[name] = np.broadcast_to(np.float32(0), shape)
    return self[name]


def shapes_of(net):
  weights = Shapes()
  image = jax.ShapeDtypeStruct((1, 3, 64, 64), jnp.float32)
  jax.eval_shape(functools.partial(net, weights), image)
  return weights


def create(name, widths=WIDTHS, classes=1000, **options):
  return slimjax.create_model(
    name, num_classes=classes, widths=widths, **options
  )


def drawn(net, images):
  """Weights of a network, and what it gives for images [b, h, w, 3]."""
  weights = plain_nets.Weights()
  nchw = jnp.asarray(images.transpose(0, 3, 1, 2))
  jax.eval_shape(functools.partial(net, weights), nchw)  # draws them
  run = lambda arrays, x: net(plain_nets.Weights(arrays), x)
  return dict(weights), np.asarray(jax.jit(run)(dict(weights), nchw))


def images(size):
  random = np.random.default_rng(0)
  return random.standard_normal((2, size, size, 3))


# Ordinary networks.


@pytest.mark.parametrize('name', ORDINARY)
def test_tables_of_names_and_shapes(name):
  """Every tensor has its place, and no place is left over."""
  net, tensors, parameters = ORDINARY[name]
  shapes = shapes_of(net)
  counted = sum(x.size for n, x in shapes.items() if 'running' not in n)
  assert (len(shapes), counted) == (tensors, parameters)
  assert recognise({n: x.shape for n, x in shapes.items()}).layout
  if name != 'resnet50':  # others are loaded below
    return
  reports = []
  slimjax.load_weights(create(name, (1.0,)), shapes, report=reports.append)
  assert (reports[0].taken, reports[0].total) == (tensors, tensors)
  assert not reports[0].norms


@pytest.mark.parametrize(
  'name, net, size',
  [
    (
      'resnet14',
      functools.partial(SMALL, classes=7),
      32,
    ),
    (
      'mobilenet_v1',
      functools.partial(plain_nets.timm_mobilenet_v1, classes=7),
      32,
    ),
    (
      'mobilenet_v2',
      functools.partial(V2, names=plain_nets.TORCHVISION_NAMES, classes=7),
      32,
    ),
  ],
)
def test_an_ordinary_network_is_the_widest(x64, name, net, size):
  """It gives what it gave; thin widths have the leading entries of its norms.

  Then the same of its channels in another order.
  """
  batch = images(size)
  weights, expected = drawn(net, batch)
  model = create(name, classes=7, dtype=jnp.float64)
  variables = slimjax.load_weights(model, weights)
  logits = slimjax.apply(model, variables, jnp.asarray(batch), width=1.0)
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)
  for collection in ('norm', 'batch_stats'):
    thin, wide = (
      jax.tree.leaves(variables[collection][switch])
      for switch in ('w025', 'w100')
    )
    for one, other in zip(thin, wide, strict=True):
      np.testing.assert_array_equal(one, other[: len(one)])
  if name != 'mobilenet_v2':  # it has all that the others have
    return
  ordered = slimjax.make_slimmable(model, weights)
  moved = [
    not np.array_equal(a, b)
    for a, b in zip(*map(jax.tree.leaves, (variables, ordered)), strict=True)
  ]
  assert np.mean(moved) > 0.9
  logits = slimjax.apply(model, ordered, jnp.asarray(batch), width=1.0)
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)


def test_the_names_of_timm_and_torchvision_are_of_one_network():
  weights = shapes_of(functools.partial(V2, names=plain_nets.TORCHVISION_NAMES))
  random = np.random.default_rng(0)
  weights = {
    n: random.uniform(0.5, 1, x.shape).astype(np.float32)
    for n, x in weights.items()
  }
  others = shapes_of(functools.partial(V2, names=plain_nets.TIMM_NAMES))
  others = dict(zip(others, weights.values(), strict=True))  # in one order
  model = create('mobilenet_v2', widths=(0.25,))  # thinner than both
  one, other = (slimjax.load_weights(model, w) for w in (weights, others))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_new_head_and_nothing_else_is_drawn():
  weights = dict(shapes_of(SMALL))
  reports = []
  model = create('resnet14', widths=(0.25,), classes=5)
  variables = slimjax.load_weights(
    model, weights, key=jax.random.key(3), report=reports.append
  )
  assert str(reports[0]) == (
    "took 85 of 87 tensors of the mapping (torchvision's or timm's ResNet of"
    ' [1, 1, 1, 1] blocks); new: the classifier, 1000 -> 5 classes; norms of'
    ' 0.25 from 1.0'
  )
  drawn = [x for x in jax.tree.leaves(variables['params']) if x.any()]
  assert [x.shape for x in drawn] == [(512, 5)]  # its bias begins with zeros
  del weights['layer2.0.conv2.weight']
  weights['layer3.0.bn1.weight'] = np.zeros(3)
  with pytest.raises(ValueError, match='but does not fit ResNet:') as error:
    slimjax.load_weights(model, weights)
  lines = str(error.value).splitlines()
  assert lines[1:] == [
    '  1 missing, of 87:',
    '    layer2.0.conv2.weight',
    '  1 misshaped:',
    '    layer3.0.bn1.weight: [3], expected [256]',
  ]


def test_numbers_that_are_not_floating_are_refused():
  weights = dict(shapes_of(SMALL))
  weights['bn1.weight'] = np.zeros(64, np.int8)
  with pytest.raises(ValueError, match=r'bn1\.weight holds int8 numbers'):
    slimjax.load_weights(create('resnet14'), weights)


# Networks that do not fit.


def test_another_architecture_is_named_in_a_line():
  weights = shapes_of(functools.partial(plain_nets.resnet, classes=10))
  with pytest.raises(ValueError, match='MobileNetV1') as error:
    slimjax.load_weights(create('mobilenet_v1'), weights)
  assert "looks like torchvision's or timm's resnet50" in str(error.value)
  assert len(str(error.value).splitlines()) == 1
  with pytest.raises(
    ValueError, match='ResNet of .*, but does not|resnet50'
  ) as e:
    slimjax.load_weights(create('resnet14'), weights)
  assert len(str(e.value).splitlines()) <= 15
  with pytest.raises(
    ValueError, match='resnet50, which slimjax.load_weights ta'
  ):
    load_torch(create('resnet14'), weights)


@pytest.mark.parametrize(
  'names, network',
  [
    (
      'conv1.weight layer1.0.conv1.weight layer1.0.conv2.weight',
      'basic blocks',
    ),
    ('conv1.6.weight layer1.0.conv1.weight', 'ResNet-D of timm'),
    (
      'layer1.0.se.fc1.weight layer1.0.conv2.weight layer1.0.conv3.weight',
      'SE-ResNet',
    ),
    ('features.0.0.weight features.1.block.0.0.weight', 'mobilenet_v3'),
    ('features.1.0.block.0.0.weight', "torchvision's EfficientNet"),
    (
      'conv_stem.weight blocks.0.0.se.conv_reduce.weight',
      'EfficientNet of timm',
    ),
    (
      'conv_stem.weight blocks.0.0.conv_dw.weight blocks.1.0.conv_pwl.weight',
      'EfficientNet-Lite',
    ),
    ('blocks.0.0.conv_dw.weight conv_head.weight', 'mobilenetv1_100h'),
    ('conv1.0.weight stage2.0.branch1.0.weight', 'ShuffleNet v2'),
    ('cls_token blocks.0.attn.qkv.weight', 'vision transformer'),
    ('class_token', 'vision transformer'),
    ('features.1.0.layer_scale', 'ConvNeXt'),
    ('features.0.weight classifier.6.weight', 'VGG'),
    ('conv1/kernel', 'network of Flax'),
    ('a.weight', ''),
  ],
)
def test_networks_that_are_recognised(names, network):
  look = recognise({name: (1,) for name in names.split()})
  assert network in look.network
  assert bool(network) == bool(look.network)
  assert not look.layout
  if names != 'conv1/kernel':
    with pytest.raises(ValueError, match='does not fit MobileNetV1'):
      slimjax.load_weights(
        create('mobilenet_v1'), {n: np.zeros(1) for n in names.split()}
      )


def test_variants_of_resnet50_are_told_by_their_shapes():
  """Their names are its own."""
  shapes = {n: x.shape for n, x in shapes_of(plain_nets.resnet).items()}
  assert recognise(shapes).network == "torchvision's or timm's resnet50"
  wide = {**shapes, 'layer1.0.conv1.weight': (128, 64, 1, 1)}
  wide['layer1.0.conv2.weight'] = (128, 128, 3, 3)
  assert 'wide ResNet' in recognise(wide).network
  grouped = {**wide, 'layer1.0.conv2.weight': (128, 4, 3, 3)}
  assert 'ResNeXt' in recognise(grouped).network


# The authors' networks, and ours.


def test_a_width_and_other_classes_of_an_authors_checkpoint():
  """Also in groups, which are cut inside."""
  name = 'shufflenet'
  weights = goldens.weights(name)
  published = goldens.widths(name)
  whole = load_torch(create(name, published), weights)
  model = create(name, published[1:2], classes=4)
  reports = []
  variables = slimjax.load_weights(model, weights, report=reports.append)
  whole = jax.tree.map(np.asarray, whole)
  expected = slimjax.extract(
    create(name, published), whole, width=published[1]
  )[1]
  expected['params']['classifier'] = variables['params']['classifier']
  jax.tree.map(np.testing.assert_array_equal, variables, expected)
  assert not reports[0].norms
  assert reports[0].classes == (1000, 4)
  assert "slimmable networks' authors" in str(reports[0])


@functools.cache
def tiny(widths=(0.25, 0.5), shared=()):
  model = create(NAME, widths, 10, shared=shared)
  variables = slimjax.init(model, jax.random.key(0))
  random = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32), variables
  )


@pytest.mark.parametrize('flat', [False, True])
def test_variables_of_ours(flat, tmp_path):
  """By name in a file, or as they are."""
  model, variables = tiny()
  source = variables
  if flat:
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    name = lambda p: jax.tree_util.keystr(p, simple=True, separator='/')
    np.savez(tmp_path / 'ours.npz', **{name(p): leaf for p, leaf in leaves})
    source = str(tmp_path / 'ours.npz')
  loaded = slimjax.load_weights(model, source)
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)
  # A model may have other widths, which the names tell.
  other = create(NAME, (0.3, 0.5), 3)
  loaded = slimjax.load_weights(other, source)
  scale = loaded['norm']['w030']['unit2']['pointwise']['norm']['scale']
  wide = variables['norm']['w050']['unit2']['pointwise']['norm']['scale']
  np.testing.assert_array_equal(scale, wide[: len(scale)])
  logits = slimjax.apply(other, loaded, jnp.ones((1, 32, 32, 3)), width=0.3)
  assert logits.shape == (1, 3)


@pytest.mark.parametrize(
  'before, now',
  [((), ('norm', 'batch_stats')), (('norm',), ()), (('norm/stem',), ('norm',))],
)
def test_what_switches_share_may_differ(before, now):
  """What becomes one is the widest's; what becomes several begins with it."""
  _, variables = tiny(shared=before)
  model = create(NAME, (0.25, 0.5), 10, shared=now)
  loaded = slimjax.load_weights(model, variables)
  fresh = slimjax.init(model, jax.random.key(0))
  assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, fresh)
  one, other = (
    slimjax.apply(
      create(NAME, (0.25, 0.5), 10, shared=shared),
      tree,
      jnp.ones((1, 32, 32, 3)),
      width=0.5,
    )
    for shared, tree in ((before, variables), (now, loaded))
  )
  np.testing.assert_allclose(one, other, rtol=1e-5)


def test_variables_of_ours_that_do_not_fit():
  model, variables = tiny()
  broken = jax.tree.map(lambda x: x, variables)
  del broken['batch_stats']['w025']['stem']
  with pytest.raises(ValueError, match='does not hold the weights') as error:
    slimjax.load_weights(model, broken)
  assert 'batch_stats/w025/stem/norm/mean' in str(error.value)
  with pytest.raises(
    ValueError, match='not hold the weights of MobileNetV1'
  ) as e:
    slimjax.load_weights(create('mobilenet_v1', (0.25, 0.5), 10), variables)
  assert len(str(e.value).splitlines()) <= 15
  assert re.search(r'\d+ missing, of \d+', str(e.value))
