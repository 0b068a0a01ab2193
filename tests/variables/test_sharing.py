"""What is private to each width, and what all share (`SlimNet.shared`)."""

from flax import linen as nn
from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SwitchableBatchNorm
from slimjax.models.mobilenet_v2 import SHARED_TAIL
from slimjax.tasks import Classification
from slimjax.training import mesh as placing
from slimjax.training import steps
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.saved import read_state
from slimjax.training.saved import variables_of
from slimjax.training.state import TrainState
from slimjax.variables import select
from slimjax.variables.format import variable_shapes
from slimjax.variables.profile import count_parameters
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

NAIVE = ('norm', 'batch_stats')
FULL = (8, 16)
RATE = 0.1


class Net(slimjax.SlimNet):
  """Two convolutions, as in the README."""

  def layer_names(self):
    return [('conv1', None), ('conv2', None)]

  def uniform_channels(self, width):
    return [int(c * width) for c in FULL]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    x = images
    for i, active in enumerate(self.channels(width)):
      x = SlimConv(FULL[i], name=f'conv{i}')(x, active)
      x = SwitchableBatchNorm(name=f'norm{i}')(x, train=train)
      x = nn.relu(x)
    return self.classify(x)


def net(shared, widths=(0.5, 1.0)):
  return Net(num_classes=3, widths=widths, shared=shared)


def scattered(variables):
  """Variables with no two entries alike."""
  rng = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: jnp.float32(rng.uniform(0.5, 1.5, x.shape)), variables
  )


def by_hand(params, norm, stats, images, labels, width):
  """Loss and new statistics of one width, everything shared and sliced."""
  x, new = images, {}
  for i, full in enumerate(FULL):
    count = int(full * width)
    kernel = params[f'conv{i}']['kernel'][:, :, : x.shape[-1], :count]
    x = lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    n = x.size // count
    old = stats[f'norm{i}']
    new[f'norm{i}'] = {
      'mean': old['mean']
      .at[:count]
      .set(0.9 * old['mean'][:count] + 0.1 * mean),
      'var': old['var']
      .at[:count]
      .set(0.9 * old['var'][:count] + 0.1 * var * n / (n - 1)),
    }
    scale, bias = norm[f'norm{i}']['scale'], norm[f'norm{i}']['bias']
    row = lambda v: v.reshape(1, 1, 1, -1)
    x = (x - row(mean)) / jnp.sqrt(row(var) + 1e-5)
    x = nn.relu(x * row(scale[:count]) + row(bias[:count]))
  x = x.mean((1, 2))
  classifier = params['classifier']
  logits = x @ classifier['kernel'][: x.shape[-1]] + classifier['bias'][None]
  picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
  return -picked.mean(), new


def test_naive_training_is_one_batch_norm_sliced():
  """Gradients add up; the statistics move once a width, the widest first."""
  devices = 2
  model = net(NAIVE)
  variables = scattered(slimjax.init(model, jax.random.key(0), image_size=6))
  assert {c: set(variables[c]) for c in NAIVE} == {
    c: {'w050', 'w100', 'shared'} for c in NAIVE
  }
  assert variables['norm']['w050'] == {}
  assert variables['norm']['shared']['norm1']['scale'].shape == (16,)
  rng = np.random.RandomState(1)
  images = np.float32(rng.standard_normal((8, 6, 6, 3)))
  labels = np.int32(rng.randint(0, 3, 8))

  slope = jax.jit(
    jax.grad(by_hand, argnums=(0, 1), has_aux=True), static_argnums=5
  )
  expected = []
  for part in np.split(np.arange(8), devices):
    stats = variables['batch_stats']['shared']
    gradients = None
    for width in (1.0, 0.5):
      gradient, stats = slope(
        variables['params'], variables['norm']['shared'], stats,
        images[part], labels[part], width,
      )  # fmt: skip
      gradients = (
        gradient
        if gradients is None
        else jax.tree.map(jnp.add, gradients, gradient)
      )
    expected.append((gradients, stats))
  (params, norm), stats = jax.tree.map(lambda *x: sum(x) / devices, *expected)

  mesh = placing.data_mesh(jax.devices()[:devices])
  optimizer = optax.sgd(RATE)
  step = steps.make_train_step(
    model, Classification(), optimizer, optax.constant_schedule(RATE), mesh
  )
  state = placing.replicate(TrainState.create(variables, optimizer), mesh)
  batch = placing.shard({'image': images, 'label': labels}, mesh)
  state, _ = step(state, batch)

  moved = lambda old, gradient: old - RATE * gradient
  for actual, wanted in (
    (
      state.variables['params'],
      jax.tree.map(moved, variables['params'], params),
    ),
    (
      state.variables['norm']['shared'],
      jax.tree.map(moved, variables['norm']['shared'], norm),
    ),
    (state.variables['batch_stats']['shared'], stats),
  ):
    jax.tree.map(
      lambda a, w: np.testing.assert_allclose(a, w, rtol=2e-5, atol=2e-6),
      jax.device_get(actual),
      jax.device_get(wanted),
    )


def test_scale_and_bias_alone_are_shared():
  """Table 6: they learn from both widths, statistics stay private."""
  model, private = net(('norm',)), net(())
  variables = slimjax.init(model, jax.random.key(0), image_size=6)
  assert list(variables['norm']) == ['w050', 'w100', 'shared']
  assert list(variables['batch_stats']) == ['w050', 'w100']
  assert count_parameters(model) == count_parameters(net((), widths=(1.0,)))
  assert count_parameters(private) == count_parameters(model) + 2 * (4 + 8)


def test_one_width_shares_with_nobody():
  """Then shared or private is a name: the same steps."""
  images = np.float32(np.random.RandomState(0).standard_normal((4, 6, 6, 3)))
  batch = {'image': images, 'label': np.int32([0, 1, 2, 0])}
  mesh, optimizer = placing.data_mesh(jax.devices()[:1]), optax.sgd(RATE)
  after = []
  for shared in ((), NAIVE):
    model = net(shared, widths=(1.0,))
    variables = slimjax.init(model, jax.random.key(0), image_size=6)
    state = placing.replicate(TrainState.create(variables, optimizer), mesh)
    step = steps.make_train_step(
      model, Classification(), optimizer, optax.constant_schedule(RATE), mesh
    )
    for _ in range(2):
      state, _ = step(state, placing.shard(batch, mesh))
    after.append(select(state.variables, 'w100'))
  jax.tree.map(np.testing.assert_array_equal, *after)


@pytest.mark.parametrize('shared', [NAIVE, ('norm',), ('norm/norm1',)])
def test_an_extracted_width_is_the_same_network(shared):
  model = net(shared)
  variables = scattered(slimjax.init(model, jax.random.key(0), image_size=6))
  images = jnp.float32(np.random.RandomState(0).standard_normal((2, 6, 6, 3)))
  small, weights = slimjax.extract(model, variables, width=0.5)
  assert small.shared == ()
  assert weights['norm']['w050']['norm1']['scale'].shape == (8,)
  np.testing.assert_allclose(
    slimjax.apply(small, weights, images, width=0.5),
    slimjax.apply(model, variables, images, width=0.5),
    rtol=1e-5,
  )


def test_checkpoints_hold_what_is_shared(tmp_path):
  """Empty trees of switches come back too."""
  model, optimizer = net(NAIVE), optax.sgd(RATE, momentum=0.9)
  variables = scattered(slimjax.init(model, jax.random.key(0), image_size=6))
  state = TrainState.create(variables, optimizer)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state, {}, None)
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, state)
    alone = variables_of(read_state(tmp_path / '1'))
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  images = jnp.float32(np.random.RandomState(0).standard_normal((2, 6, 6, 3)))
  np.testing.assert_array_equal(
    slimjax.apply(model, alone, images, width=0.5),
    slimjax.apply(model, variables, images, width=0.5),
  )


def test_the_shared_tail_is_one_norm_in_a_published_checkpoint():
  model = slimjax.create_model(
    'mobilenet_v2', num_classes=3, widths=(0.35, 0.5), shared=SHARED_TAIL
  )
  rng = np.random.RandomState(0)
  variables = jax.tree.map(  # positive: no variance is negative
    lambda x: jnp.float32(rng.uniform(0.5, 1.5, x.shape)),
    variable_shapes(model),
  )
  arrays = save_torch(model, variables)
  tail = [name for name in arrays if name.startswith('features.18.1.')]
  assert tail == [
    f'features.18.1.{name}'
    for name in ('weight', 'bias', 'running_mean', 'running_var')
  ]
  back = load_torch(model, arrays)
  flat, expected = map(traverse_util.flatten_dict, (back, variables))
  assert flat.keys() == expected.keys()
  for path, array in expected.items():
    np.testing.assert_array_equal(flat[path], array, err_msg='/'.join(path))


@pytest.mark.parametrize(
  'path', ['params', 'norm/nowhere', 'norm/norm', 'scale', 'w050', 'norm/']
)
def test_sharing_what_is_not_there_is_refused(path):
  with pytest.raises(ValueError, match='is no norm of Net'):
    slimjax.init(net((path,)), jax.random.key(0), image_size=6)
