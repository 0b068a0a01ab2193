"""Two optimiser steps, equal to those of the published training code.

Everything is float64: gradients through a network this deep agree to ten digits
or one of the two is wrong, which float32 could not tell.
"""

import dataclasses
import functools

from flax import traverse_util
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import slimjax
from slimjax.models.mobilenet_v2 import SHARED_TAIL
from slimjax.tasks import Classification
from slimjax.training import mesh as placing
from slimjax.training import optim
from slimjax.training import steps
from slimjax.training.state import TrainState
from slimjax.variables import select
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

pytestmark = pytest.mark.usefixtures('x64')
# A bias that the next norm takes away has a gradient of zero but for rounding.
ROUNDING = 1e-11
CASES = [(name, step) for name in goldens.MODELS for step in (0, 1)]
# The published MobileNet v2 has one last norm for all switches.
SHARED = {'mobilenet_v2': SHARED_TAIL}


@dataclasses.dataclass(frozen=True)
class Summary:
  """L2 norm and first 8 values of a tensor in PyTorch's layout."""

  norm: float
  head: np.ndarray

  @classmethod
  def of(cls, array):
    head = np.zeros(8)
    head[: array.size] = array.ravel()[:8]
    return cls(float(np.linalg.norm(array)), head)


@dataclasses.dataclass(frozen=True)
class Idle:
  """The gradient of a parameter some of which a width does not use.

  Attributes:
    moved: entries that are not used and have a gradient.
    still: entries that are used and have none.
    used, idle: entries that are, and are not.
  """

  moved: int
  still: int
  used: int
  idle: int

  @classmethod
  def of(cls, gradient, taken):
    used = np.zeros(gradient.size, bool)
    used[taken.ravel().astype(int)] = True
    nonzero = gradient.ravel() != 0
    counts = nonzero & ~used, ~nonzero & used, used, ~used
    return cls(*(int(count.sum()) for count in counts))


@dataclasses.dataclass(frozen=True)
class Run:
  """What is left of two steps.

  Attributes:
    losses: losses of each step, by width.
    gradients: gradients of each step, by PyTorch's name.
    state: variables after both, by PyTorch's name.
    thinnest: gradient of `params` at the thinnest width alone, by path.
  """

  losses: list[dict[float, float]]
  gradients: list[dict[str, Summary]]
  state: dict[str, Summary]
  thinnest: dict[tuple[str, ...], Idle]


def recorder():
  """Passes gradients on, and keeps the last one as its state."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradients, state, params=None: (gradients, gradients),
  )


# One compilation for all tests of a family.
@functools.cache
def run(name):
  widths = goldens.widths(name)
  model = slimjax.create_model(
    name,
    num_classes=1000,
    widths=widths,
    dtype=jnp.float64,
    shared=SHARED.get(name, ()),
  )
  variables = load_torch(model, goldens.weights(name, np.float64))
  mesh = placing.data_mesh(jax.devices()[:1])
  schedule = optax.constant_schedule(0.1)
  optimizer = optax.chain(recorder(), optim.sgd(schedule))
  batch = {
    'image': goldens.images(8, np.float64),
    'label': (7 * np.arange(8) % 1000).astype(np.int32),
  }
  batch = placing.shard(batch, mesh)
  state = placing.replicate(TrainState.create(variables, optimizer), mesh)
  step = steps.make_train_step(
    model, Classification(), optimizer, schedule, mesh
  )
  step = step.compile(state, batch)

  thinnest = gradient_of_thinnest(model, step, state, batch)
  losses, gradients = [], []
  for _ in range(2):
    state, metrics = step(state, batch)
    loss = {}
    for width in widths:
      total, count = metrics['widths'][model.switch(width)]['loss']
      loss[width] = float(total / count)
    losses.append(loss)
    # With statistics, for save_torch, that are no gradient and left out again.
    gradient = {
      **state.opt_state[0],
      'batch_stats': state.variables['batch_stats'],
    }
    gradient = by_torch_name(model, gradient)
    gradients.append({n: g for n, g in gradient.items() if 'running' not in n})
  return Run(losses, gradients, by_torch_name(model, state.variables), thinnest)


def by_torch_name(model, variables):
  arrays = save_torch(model, jax.device_get(variables))
  return {name: Summary.of(array) for name, array in arrays.items()}


def gradient_of_thinnest(model, step, state, batch):
  width = model.ordered_widths[0]
  switch = model.switch(width)
  # The program adds to what the wider ones left: to nothing, here.
  nothing = {
    'gradients': {
      'params': jax.tree.map(jnp.zeros_like, state.variables['params'])
    },
    'states': {},
  }
  for kind, collection in (('gradients', 'norm'), ('states', 'batch_stats')):
    shared = state.variables[collection].get('shared')
    if shared is not None:
      nothing[kind][collection] = jax.tree.map(jnp.copy, shared)
  nothing = jax.tree.map(lambda x: x[None], nothing)
  nothing = jax.device_put(nothing, batch['image'].sharding)
  selected = select(state.variables, switch)
  carry, _ = step.gradient[switch](
    selected, batch, step.key, {'shared': nothing}
  )
  index = jax.tree.map(
    lambda x: jnp.arange(x.size, dtype=x.dtype).reshape(x.shape),
    state.variables['params'],
  )
  numbered = {**state.variables, 'params': index}
  _, taken = slimjax.extract(model, numbered, width=width)
  gradient = jax.device_get(carry['shared']['gradients']['params'])
  gradient = traverse_util.flatten_dict(gradient)
  taken = traverse_util.flatten_dict(jax.device_get(taken['params']))
  assert gradient.keys() == taken.keys()
  return {path: Idle.of(gradient[path], taken[path]) for path in gradient}


@pytest.mark.parametrize('name, step', CASES)
def test_losses(name, step):
  golden = goldens.training(name)
  for width, loss in run(name).losses[step].items():
    expected = float(golden[f'step{step}/loss/{width}'])
    assert loss == pytest.approx(expected, rel=1e-10, abs=0), width


@pytest.mark.parametrize('name, step', CASES)
def test_gradients(name, step):
  golden = goldens.training(name)
  gradients = run(name).gradients[step]
  names = [str(n) for n in golden['param_names']]
  norms = dict(zip(names, golden[f'step{step}/grad_norm'], strict=True))
  assert_as_published(gradients, norms, 1e-9)
  if step == 0:
    heads = dict(zip(names, golden['step0/grad_head'], strict=True))
    # Stored in float32.
    for tensor, expected in heads.items():
      np.testing.assert_allclose(
        gradients[tensor].head,
        expected,
        rtol=1e-6,
        atol=1e-7 * norms[tensor] + ROUNDING,
        err_msg=tensor,
      )


@pytest.mark.parametrize('name', goldens.MODELS)
def test_state_after_two_steps(name):
  golden = goldens.training(name)
  state = run(name).state
  names = [str(n) for n in golden['state_names']]
  norms = dict(zip(names, golden['after2/norm'], strict=True))
  assert_as_published(state, norms, 1e-9)
  # Stored in float32.
  for tensor, expected in zip(names, golden['after2/head'], strict=True):
    np.testing.assert_allclose(
      state[tensor].head,
      expected,
      rtol=1e-6,
      atol=1e-7 * norms[tensor],
      err_msg=tensor,
    )


def assert_as_published(actual, norms, tolerance):
  """Asserts that every published tensor is there, no other, with its norm."""
  assert actual.keys() == norms.keys()
  for tensor, expected in norms.items():
    error = abs(actual[tensor].norm - expected)
    assert error < tolerance * expected + ROUNDING, tensor


@pytest.mark.parametrize('name', goldens.MODELS)
def test_idle_channels_have_no_gradient(name):
  entries = run(name).thinnest
  for path, entry in entries.items():
    assert entry.moved == 0, path
    # A few are zero, those of a unit that is dead in all images.
    assert entry.still < 0.1 * entry.used, path
  assert sum(entry.idle for entry in entries.values()) > 1_000_000
