"""Bundles: what is written runs, at every width, and is what was written."""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
import logging
import pickle
import subprocess
import sys

from bundles import close
from bundles import DIGITS
from bundles import ERRORS
from bundles import images_of
from bundles import live_bytes
from bundles import randomised
from bundles import SIZE
from bundles import WIDTHS
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax import runtime
from slimjax import units
from slimjax.data import digits
from slimjax.layers import SlimConv
from slimjax.layers import SwitchableBatchNorm
from slimjax.runtime import bundle
from slimjax.runtime.tensors import read_tensors
from slimjax.widths import switch_name


class Net(slimjax.SlimNet):
  """A user's own."""

  def layer_names(self):
    return [('conv1', None), ('conv2', None)]

  def uniform_channels(self, width):
    return [int(c * width) for c in (16, 32)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    x = images
    for full, active in zip(
      self.full_channels, self.channels(width), strict=True
    ):
      x = SlimConv(full, strides=2, dtype=self.dtype)(x, active)
      x = nn.relu(SwitchableBatchNorm(dtype=self.dtype)(x, train=train))
    return self.classify(x)


@pytest.mark.parametrize('name', ['0.5', 'w050', 0.5])
def test_widths_go_by_their_printed_names(path, net, name):
  loaded = runtime.load(path, widths=[name], prepare='use', batch_sizes=())
  assert loaded.widths == (0.5,)
  images = images_of(1)
  assert close(net(images, width=name), net(images, width=0.5))


def test_channels_go_by_their_printed_name(net):
  channels = (16, 32, 64)
  name = switch_name(channels)
  entry = dataclasses.replace(net.manifest.widths[0], width=channels)
  manifest = dataclasses.replace(net.manifest, widths=(entry,))
  assert manifest.entry(name) is manifest.entry(channels) is entry
  with pytest.raises(
    ValueError, match=f"'w050' is neither .*; there are {name}"
  ):
    manifest.entry('w050')


@pytest.mark.parametrize('width', WIDTHS)
def test_every_width_gives_the_networks_logits(net, model, variables, width):
  for count in (1, 3):
    images = images_of(count)
    floating = digits.preprocess(images)
    expected = slimjax.apply(model, variables, floating, width=width)
    for given in (images, np.asarray(floating), floating):
      logits = net(given, width=width)
      assert logits.shape == (count, 10)
      assert logits.dtype == np.float32
      assert close(logits, expected)
    if count > 1:  # they depend on the images
      assert not close(logits[:1], logits[1:2], 0.1)
    assert close(net.functions[width](images), expected)


def test_functions_are_jitted_and_bound_to_their_weights(net):
  function = net.functions[0.5]
  (weights,) = function.args
  assert weights is net.weights(0.5)
  assert hasattr(function.func, 'lower')  # of jax.jit
  images = images_of(1)
  inside = jax.jit(lambda function, images: jnp.argmax(function(images)))
  assert inside(function, images) == np.argmax(net(images, width=0.5))
  assert list(net.functions) == [*WIDTHS]


def test_the_manifest_says_what_a_user_needs(net, model):
  manifest = net.manifest
  assert net.widths == WIDTHS
  assert manifest.image_size == (SIZE, SIZE)
  assert manifest.class_names == tuple('0123456789')
  assert manifest.preprocessing == DIGITS.preprocessing
  assert manifest.platforms == ('cpu', 'cuda', 'tpu')
  assert manifest.model['class'] == 'TinyNet'
  assert manifest.versions['jax'] == jax.__version__
  for entry in manifest.widths:
    profile = slimjax.profile_model(model, width=entry.width, image_size=SIZE)
    assert (entry.macs, entry.params) == (profile.macs, profile.params)
    assert entry.error == ERRORS[entry.width]
    assert entry.channels == model.channels(entry.width)
    held = sum(x.nbytes for x in jax.tree.leaves(net.weights(entry.width)))
    assert held == entry.prepared_bytes


def test_shared_weights_are_stored_once(path, variables):
  stored = read_tensors(path / bundle.WEIGHTS)
  sizes = [x.nbytes for x in jax.tree.leaves(variables)]
  assert sum(x.nbytes for x in stored.values()) == sum(sizes)
  (kernel,) = (
    stored[name] for name in stored if name.endswith('params/stem/conv/kernel')
  )
  np.testing.assert_array_equal(
    kernel, variables['params']['stem']['conv']['kernel']
  )


def test_a_switch_is_one_dispatch(net, caplog):
  """No trace, no compilation, no copy of weights."""
  images = jnp.asarray(images_of(1))
  for width in WIDTHS:
    net(images, width=width)
  before = live_bytes()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for _ in range(5):
      for width in WIDTHS:
        np.asarray(net(images, width=width))
        assert live_bytes() <= before
  assert not caplog.text


def test_loading_compiles_ahead_of_time(path, caplog):
  net = runtime.load(path, batch_sizes=(1, 2))
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for width in WIDTHS:
      for count in (1, 2):
        np.asarray(net(images_of(count), width=width))
        np.asarray(net.functions[width](images_of(count)))
    assert not caplog.text
    net.compiled(0.5, 3, np.uint8)
    assert 'Compiling' in caplog.text


def test_a_switch_is_the_program_of_a_network_built_at_its_size(net):
  """It moves as many bytes, with as many operations: no slices inside."""
  for width in WIDTHS:
    alone = slimjax.create_model(tiny_net.NAME, num_classes=10, widths=(width,))
    alone = alone.clone(folded=True)
    weights = slimjax.init(alone, jax.random.key(0), image_size=SIZE)

    def run(weights, images, alone=alone, width=width):
      return slimjax.apply(
        alone, weights, digits.preprocess(images), width=width
      )

    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.uint8)
    expected = jax.jit(run).lower(weights, images).compile()
    found = net.compiled(width, 1, np.uint8).call
    for cost in ('flops', 'bytes accessed'):
      np.testing.assert_allclose(
        found.cost_analysis()[cost], expected.cost_analysis()[cost], rtol=1e-3
      )
    temporary = [
      program.memory_analysis().temp_size_in_bytes
      for program in (found, expected)
    ]
    assert temporary[0] <= 1.01 * temporary[1]


def test_what_preparing_holds(path):
  images = images_of(1)
  for prepare in ('load', 'use', 'lean'):
    before = live_bytes()
    net = runtime.load(path, prepare=prepare)
    memory = net.memory()
    held = live_bytes() - before
    assert (
      memory.held == held == (memory.all_widths if prepare == 'load' else 0)
    )
    for width in (0.5, 0.25, 0.5):
      np.asarray(net(images, width=width))
      held = live_bytes() - before
      assert net.memory().held == held
      if prepare == 'lean':
        assert held == memory.prepared[width] <= memory.lean
    if prepare != 'lean':
      assert held == memory.all_widths
    net.release(0.5)
    assert live_bytes() - before == held - memory.prepared[0.5]
    del net
  assert memory.all_widths == sum(memory.prepared.values())
  assert memory.lean == memory.prepared[0.5]
  assert f'{units.size(memory.all_widths)} for all widths' in str(memory)


@pytest.mark.parametrize('prepare', ['load', 'lean'])
def test_threads_get_right_answers(path, net, prepare):
  shared = runtime.load(path, prepare=prepare, batch_sizes=(1, 2))
  batches = [images_of(count) for count in (1, 1, 2)]
  for width in WIDTHS:
    net.compiled(width, 2, np.uint8)
  expected = {
    (width, i): np.asarray(net(images, width=width))
    for width in WIDTHS
    for i, images in enumerate(batches)
  }

  def work(seed):
    random = np.random.default_rng(seed)
    for _ in range(40 if prepare == 'load' else 10):
      width, i = WIDTHS[random.integers(2)], int(random.integers(3))
      logits = shared(batches[i], width=width)
      np.testing.assert_array_equal(np.asarray(logits), expected[width, i])
    return True

  with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(work, range(8)))


def test_it_runs_without_the_models_source(path):
  """A process that serves imports neither the models nor Flax."""
  code = f"""
import sys
for name in ('flax', 'optax', 'slimjax.models', 'slimjax.layers'):
  sys.modules[name] = None  # an import of it raises
from slimjax import runtime
net = runtime.load({str(path)!r})
assert max(net.verify().values()) < 1e-5
"""
  subprocess.run([sys.executable, '-c', code], check=True)


def test_nothing_is_unpickled(path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError('unpickled')

  for name in ('load', 'loads', 'Unpickler'):
    monkeypatch.setattr(pickle, name, refuse)
  runtime.load(path).verify()


def test_own_networks_fixed_batches_and_bfloat16(tmp_path):
  model = Net(num_classes=3, widths=WIDTHS, dtype=jnp.bfloat16)
  variables = slimjax.init(model, jax.random.key(0), image_size=8)
  variables = randomised(model, variables, 8)
  runtime.export(
    model,
    variables,
    tmp_path / 'own',
    image_size=8,
    batch_size=2,
    widths=(0.5,),
  )
  net = runtime.load(tmp_path / 'own')
  assert net.widths == (0.5,)
  weights = jax.tree.leaves(net.weights(0.5))
  kinds = {w.dtype for w in weights if w.ndim == 4}
  assert kinds == {jnp.dtype(jnp.bfloat16)}  # classifier and norms stay float32
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  expected = slimjax.apply(
    model, variables, jnp.asarray(images, jnp.float32), width=0.5
  )
  assert close(net(images, width=0.5), expected, 0.05)
  # Other batches are padded and split.
  more = np.concatenate([images, images[:1]])
  assert close(net(more, width=0.5)[2:], expected[:1], 0.05)
  assert net(images[:0], width=0.5).shape == (0, 3)
  with pytest.raises(ValueError, match='without preprocessing'):
    net(np.zeros((2, 8, 8, 3), np.uint8), width=0.5)


def test_wrong_calls_are_refused(net, path):
  with pytest.raises(ValueError, match=r'shape \[b, 32, 32, 3\], got \[32'):
    net(np.zeros((32, 32, 3), np.uint8), width=0.5)
  with pytest.raises(ValueError, match='uint8, or floating .* got int32'):
    net(np.zeros((1, 32, 32, 3), np.int32), width=0.5)
  with pytest.raises(
    ValueError, match=r'width 0.75 is not loaded, only \(0.25'
  ):
    net(images_of(1), width=0.75)
  with pytest.raises(ValueError, match='has no width 0.75, only 0.25, 0.5'):
    runtime.load(path, widths=(0.75,))
  with pytest.raises(ValueError, match='backend must be one of'):
    runtime.load(path, backend='tensorrt')
  with pytest.raises(ValueError, match=r'batch_sizes\[1\] must be .* from 1'):
    runtime.load(path, batch_sizes=(1, 0))
  with pytest.raises(ValueError, match='max_batch must be .* from 1 .*, got 0'):
    runtime.load(path, max_batch=0)
  with pytest.raises(ValueError, match='no ONNX models; export it with'):
    runtime.load(path, backend='onnxruntime')


def test_exports_that_can_not_be(model, variables, tmp_path, monkeypatch):
  def export(**options):
    runtime.export(
      model, variables, tmp_path / 'new', **{'image_size': SIZE, **options}
    )

  with pytest.raises(ValueError, match='formats must be of jax, onnx'):
    export(formats=('tflite',))
  with pytest.raises(ValueError, match='platforms must be of cpu'):
    export(platforms=())
  with pytest.raises(ValueError, match='3 class names, but the model has 10'):
    export(class_names=('a', 'b', 'c'))
  with pytest.raises(ValueError, match='width 0.75 is not one of'):
    export(widths=(0.75,))
  with pytest.raises(ValueError, match='default_width 0.5 is not one of those'):
    export(widths=(0.25,), default_width=0.5)
  with pytest.raises(ValueError, match="'detections', got 'boxes'"):
    export(outputs='boxes')
  with pytest.raises(ValueError, match=r'but this network gives output float'):
    export(
      outputs='detections',
      predict=lambda forward, batch: forward(batch['image']),
      batch_size=1,
    )
  with pytest.raises(ValueError, match='a detector .*: give batch_size=1'):
    export(outputs='detections')
  pixels = lambda forward, batch: forward(batch['image'])[:, None]
  with pytest.raises(ValueError, match=r'logits are a single array \[b, clas'):
    export(outputs='logits', predict=pixels)
  (tmp_path / 'new').mkdir()
  with pytest.raises(FileExistsError, match='choose another folder'):
    export()
  (tmp_path / 'new').rmdir()

  def fail(*args, **kwargs):
    raise OSError('the disk is full')

  monkeypatch.setattr('slimjax.runtime.writer._save', fail)
  with pytest.raises(OSError, match='the disk is full'):
    export(widths=(0.25,))
  assert not list(tmp_path.iterdir())  # nothing half-written
