"""Steps of some of the widths, as a plan of a user's own gives them."""

import dataclasses
import logging

from flax import linen as nn
import jax
import numpy as np
import optax
import pytest

import slimjax
from slimjax import configuration
from slimjax.configs import digits
from slimjax.tasks import Classification
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.mesh import shard
from slimjax.training.runs import build_model
from slimjax.training.runs import build_plan
from slimjax.training.state import TrainState
from slimjax.training.steps import make_train_step

WIDTHS = (0.25, 0.5, 1.0)


class Net(slimjax.SlimNet):
  """A convolution and its norm."""

  @nn.nowrap
  def layer_names(self):
    return [('conv', None)]

  @nn.nowrap
  def uniform_channels(self, width):
    return [int(8 * width)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (count,) = self.channels(width)
    conv = self.conv_norm(nn.relu)(self.full_channels[0], name='conv')
    return self.classify(conv(images, count, train=train))


@dataclasses.dataclass(frozen=True)
class InTurn:
  """The widest with one of the others, in turn."""

  widths: tuple[float, ...]
  first: int = 1

  def __call__(self, step):
    others = self.widths[1:]
    return (self.widths[0], others[(step + self.first) % len(others)])


def start(widths, compiled, shared=(), **random_widths):
  model = Net(num_classes=3, widths=widths, shared=shared)
  optimizer = optax.sgd(0.1)
  mesh = data_mesh(jax.devices()[:2])
  variables = slimjax.init(model, jax.random.key(0), image_size=8)
  state = replicate(TrainState.create(variables, optimizer), mesh)
  step = make_train_step(
    model,
    Classification(),
    optimizer,
    optax.constant_schedule(0.1),
    mesh,
    **random_widths,
  )
  random = np.random.default_rng(0)
  batch = {
    'image': np.float32(random.normal(size=(8, 8, 8, 3))),
    'label': np.int32(random.integers(3, size=8)),
  }
  batch = shard(batch, mesh)
  return step.compile(state, batch) if compiled else step, state, batch


@pytest.mark.parametrize('compiled', [False, True])
def test_widths_that_are_not_in_a_step_stay_as_they_were(compiled):
  step, state, batch = start(WIDTHS, compiled)
  before = jax.device_get(state.variables)
  state, metrics = step(state, batch, (1.0, 0.25))
  assert set(metrics['widths']) == {'w100', 'w025'}
  after = jax.device_get(state.variables)
  for collection in ('norm', 'batch_stats'):
    idle = [tree[collection]['w050'] for tree in (before, after)]
    jax.tree.map(np.testing.assert_array_equal, *idle)
    for switch in ('w025', 'w100'):
      moved = jax.tree.map(
        lambda x, y: np.any(x != y),
        before[collection][switch],
        after[collection][switch],
      )
      assert any(jax.tree.leaves(moved))
  # What is trained is what a network of these two widths would train.
  step, state, batch = start((0.25, 1.0), compiled)
  state, _ = step(state, batch)
  expected = jax.device_get(state.variables)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
    after['params'],
    expected['params'],
  )


def test_a_step_may_leave_out_the_widest():
  trained = []
  # 4 channels of 8: the width 0.5, and a random one inside a bound of 6.
  for width in (0.5, (4,)):
    step, state, batch = start(
      WIDTHS, True, ('norm',), random=1, bounds=(0.75, 1.0)
    )
    state, _ = step(state, batch, (width,))
    trained.append(
      jax.device_get([state.variables[name] for name in ('params', 'norm')])
    )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    *trained,
  )


def test_a_sequence_of_widths_compiles_once(caplog):
  step, state, batch = start(WIDTHS, compiled=True)
  plan = InTurn(WIDTHS[::-1])

  def take(count):
    nonlocal state
    for number in range(count):
      state, _ = step(state, batch, plan(number))

  take(2)
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    take(4)
  assert 'Compiling' not in caplog.text


def test_an_unknown_width_is_refused():
  step, state, batch = start(WIDTHS, compiled=False)
  with pytest.raises(ValueError, match=r'width 0\.75 is not one of 1\.0, 0\.5'):
    step(state, batch, (1.0, 0.75))


def test_a_plan_is_named_in_the_configuration(monkeypatch):
  monkeypatch.syspath_prepend(__file__.rpartition('/')[0])
  config = digits.get_config()
  config.unlock()
  config.plan = {'name': 'test_plans:InTurn', 'first': 0}
  run = configuration.parse(config)
  plan = build_plan(run, build_model(run))
  assert [plan(step) for step in (0, 1, 3)] == [
    (1.0, 0.75), (1.0, 0.5), (1.0, 0.75),
  ]  # fmt: skip
  config.plan = {'name': 'every_other'}
  with pytest.raises(ValueError, match='config.plan.name .*every_other'):
    build_plan(configuration.parse(config), build_model(run))
