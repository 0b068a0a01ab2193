"""ONNX models: equal to the networks they were made of."""

import collections

from bundles import close
from bundles import images_of
from bundles import randomised
from bundles import SIZE
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax import runtime
from slimjax.data.preprocess import Normalise
from slimjax.runtime import BundleError
from slimjax.runtime.onnx.writing import write_onnx

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

# The widths of a family differ in sizes, not in operations; MobileNet v2 has
# all the operations of v1.
FAMILIES = {'mobilenet_v2': 0.5, 'shufflenet': 0.5, 'resnet50': 0.25}


def operations(path):
  graph = onnx.load(path).graph
  return collections.Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize('name, width', FAMILIES.items())
def test_the_published_networks_give_the_published_logits(
  name, width, tmp_path
):
  model = slimjax.create_model(
    name, num_classes=1000, widths=goldens.widths(name)
  )
  variables = slimjax.load_torch(model, goldens.weights(name))
  small, weights = slimjax.extract(model, variables, width=width)
  small, weights = slimjax.fold_batch_norm(small, weights)

  def predict(weights, images):
    return slimjax.apply(small, weights, images, width=width)

  path = tmp_path / 'network.onnx'
  shape = jax.ShapeDtypeStruct(
    jax.export.symbolic_shape('b, 64, 64, 3'), jnp.float32
  )
  write_onnx(predict, weights, shape, path, name=name)
  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  images, expected = goldens.images(4), goldens.logits(name)[width]
  for count in (1, 4):
    (logits,) = session.run(None, {'images': images[:count]})
    assert close(logits, expected[:count], 2e-4)
  found = operations(path)
  # Images are turned once; but for ShuffleNet's shuffles nothing else is.
  shuffles = 16 if name == 'shufflenet' else 0
  assert found['Transpose'] == 1 + shuffles
  kernels = [x for x in jax.tree.leaves(weights['params']) if jnp.ndim(x) == 4]
  assert found['Conv'] == len(kernels)


def test_backends_have_one_interface(both):
  by_xla = runtime.load(both)
  by_onnx = runtime.load(both, backend='onnxruntime')
  assert (by_xla.backend, by_onnx.backend) == ('jax', 'onnxruntime')
  assert max(by_onnx.verify().values()) < 1e-4
  for width in by_xla.widths:
    for images in (images_of(1), images_of(3), images_of(2, 'float32')):
      logits = by_onnx(images, width=width)
      assert close(logits, by_xla(images, width=width), 1e-4)
      assert logits.dtype == np.float32
  with pytest.raises(ValueError, match="functions are of the backend 'jax'"):
    by_onnx.functions[0.5]


def test_its_benchmark_knows_no_temporary_memory(both):
  lean = runtime.load(both, backend='onnxruntime', prepare='lean')
  table = lean.benchmark(rounds=3)
  assert all(row.temp_bytes is None for row in table.rows)
  assert table.versions['onnxruntime'] == onnxruntime.__version__
  with pytest.raises(ValueError, match='no peak memory'):
    runtime.Controller(table, budget_ms=1.0, memory_mb=10.0)


def test_models_alone(tmp_path):
  model = slimjax.create_model(
    tiny_net.NAME, num_classes=3, widths=(0.25,), dtype=jnp.bfloat16
  )
  variables = slimjax.init(model, jax.random.key(0), image_size=SIZE)
  variables = randomised(model, variables)
  path = tmp_path / 'onnx_only'
  runtime.export(model, variables, path, image_size=SIZE, formats=('onnx',))
  assert not (path / 'programs').exists()
  with pytest.raises(ValueError, match="load it with backend='onnxruntime'"):
    runtime.load(path)
  net = runtime.load(path, backend='onnxruntime')
  # The models compute in float32, whatever the network does on accelerators.
  assert net(images_of(1, 'float32'), width=0.25).shape == (1, 3)


def test_preprocessing_may_be_inside(tmp_path):
  """uint8 with a mean and a deviation for each channel, any batch."""
  normalise = Normalise(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
  path = tmp_path / 'inside'
  model = slimjax.create_model(tiny_net.NAME, num_classes=3, widths=(0.25,))
  runtime.export(
    model,
    randomised(model, slimjax.init(model, jax.random.key(0), image_size=SIZE)),
    path,
    image_size=SIZE,
    preprocess=normalise,
    onnx_input='uint8',
    formats=('jax', 'onnx'),
    platforms=('cpu',),
  )
  by_onnx = runtime.load(path, backend='onnxruntime')
  by_xla = runtime.load(path, batch_sizes=(1, 4))
  for count in (1, 3):
    images = images_of(count)
    assert close(by_onnx(images), by_xla(images), 1e-4)
  with pytest.raises(ValueError, match='give uint8, got float32'):
    by_onnx(np.asarray(normalise(images_of(1))))
  # The constants are repeated by the operations themselves.
  assert operations(path / 'onnx' / 'w025.onnx')['Expand'] == 0
  with pytest.raises(ValueError, match="onnx_input='uint8' needs `preprocess`"):
    runtime.export(
      model, {}, tmp_path / 'no', image_size=SIZE, onnx_input='uint8'
    )


def test_what_is_repeated_has_its_whole_shape(tmp_path):
  """Where an operation does not repeat it by itself, as in a sum."""
  path = tmp_path / 'x.onnx'

  def predict(weights, images):
    repeated = jnp.broadcast_to(weights, (images.shape[0], 4, 5, 3))
    row = jnp.broadcast_to(images.sum((1, 2, 3))[:, None], (images.shape[0], 3))
    return repeated.sum((1, 2)) + row

  shape = jax.ShapeDtypeStruct(
    jax.export.symbolic_shape('b, 4, 5, 3'), jnp.float32
  )
  weights = np.arange(3, dtype=np.float32)
  write_onnx(predict, weights, shape, path, name='x')
  session = onnxruntime.InferenceSession(
    path, providers=['CPUExecutionProvider']
  )
  images = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
  images = images.astype(np.float32)
  (found,) = session.run(None, {'images': images})
  assert close(found, predict(jnp.asarray(weights), jnp.asarray(images)), 1e-5)


def test_an_operation_without_translation_is_named(tmp_path):
  shape = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  with pytest.raises(BundleError, match='operation sort has no translation'):
    write_onnx(
      lambda weights, images: jnp.sort(images * weights, axis=1).mean((1, 2)),
      jnp.ones((1, 1, 1, 3)),
      shape,
      tmp_path / 'x.onnx',
      name='x',
    )
