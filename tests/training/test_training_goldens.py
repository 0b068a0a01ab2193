"""Two optimiser steps, equal to those of the published training code.

Everything is float64: gradients through a network this deep agree to ten digits
or one of the two is wrong, which float32 could not tell.

MobileNet v2, whose last norm all widths share, runs whole. The thinnest width
of the others runs alone: its loss, and the gradients of its own norms, which
are those of every layer above them. That widths are summed as they should be
depends on no family (test_steps.py, test_us_goldens.py); `pytest -m complete`
runs all families whole.
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
# The published MobileNet v2 has one last norm for all switches.
WHOLE = 'mobilenet_v2'
SHARED = {WHOLE: SHARED_TAIL}
OTHERS = [name for name in goldens.MODELS if name != WHOLE]
whole = pytest.mark.parametrize(
  'name',
  [WHOLE, *(pytest.param(n, marks=pytest.mark.complete) for n in OTHERS)],
)
both_steps = pytest.mark.parametrize('step', [0, 1])


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
  """

  losses: list[dict[float, float]]
  gradients: list[dict[str, Summary]]
  state: dict[str, Summary]


def recorder():
  """Passes gradients on, and keeps the last one as its state."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradients, state, params=None: (gradients, gradients),
  )


def begin(name):
  """Returns the model, the step, its optimiser, the variables and a batch."""
  model = slimjax.create_model(
    name,
    num_classes=1000,
    widths=goldens.widths(name),
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
  variables = placing.replicate(variables, mesh)
  step = steps.make_train_step(
    model, Classification(), optimizer, schedule, mesh
  )
  return model, step, optimizer, variables, batch


# One compilation for all tests of a family.
@functools.cache
def run(name):
  model, step, optimizer, variables, batch = begin(name)
  state = TrainState.create(variables, optimizer)
  state = placing.replicate(state, placing.data_mesh(jax.devices()[:1]))
  step = step.compile(state, batch)
  losses, gradients = [], []
  for _ in range(2):
    state, metrics = step(state, batch)
    loss = {}
    for width in model.widths:
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
  return Run(losses, gradients, by_torch_name(model, state.variables))


def by_torch_name(model, variables):
  arrays = save_torch(model, jax.device_get(variables))
  return {name: Summary.of(array) for name, array in arrays.items()}


@whole
@both_steps
def test_losses(name, step):
  golden = goldens.training(name)
  for width, loss in run(name).losses[step].items():
    expected = float(golden[f'step{step}/loss/{width}'])
    assert loss == pytest.approx(expected, rel=1e-10, abs=0), width


@whole
@both_steps
def test_gradients(name, step):
  golden = goldens.training(name)
  gradients = run(name).gradients[step]
  names = [str(n) for n in golden['param_names']]
  norms = dict(zip(names, golden[f'step{step}/grad_norm'], strict=True))
  assert_as_published(gradients, norms, 1e-9)
  if step == 0:
    heads = dict(zip(names, golden['step0/grad_head'], strict=True))
    assert_heads(gradients, heads, norms)


@whole
def test_state_after_two_steps(name):
  golden = goldens.training(name)
  state = run(name).state
  names = [str(n) for n in golden['state_names']]
  norms = dict(zip(names, golden['after2/norm'], strict=True))
  assert_as_published(state, norms, 1e-9)
  heads = dict(zip(names, golden['after2/head'], strict=True))
  assert_heads(state, heads, norms)


def assert_as_published(actual, norms, tolerance):
  """Asserts that every published tensor is there, no other, with its norm."""
  assert actual.keys() == norms.keys()
  for tensor, expected in norms.items():
    error = abs(actual[tensor].norm - expected)
    assert error < tolerance * expected + ROUNDING, tensor


def assert_heads(actual, heads, norms):
  """Asserts the first values of every tensor, which are stored in float32."""
  for tensor, summary in actual.items():
    np.testing.assert_allclose(
      summary.head,
      heads[tensor],
      rtol=1e-6,
      atol=1e-7 * norms[tensor] + ROUNDING,
      err_msg=tensor,
    )


@pytest.mark.parametrize('name', OTHERS)
def test_the_thinnest_width_alone(name):
  """Channels that it does not use have no gradient."""
  golden = goldens.training(name)
  model, step, _, variables, batch = begin(name)
  width = model.ordered_widths[0]
  switch = model.switch(width)
  selected = select(variables, switch)
  carry, private = step.gradient[switch](selected, batch, step.key, {})
  total, count = private['metrics']['loss']
  expected = float(golden[f'step0/loss/{width}'])
  assert float(total[0] / count[0]) == pytest.approx(expected, rel=1e-10, abs=0)

  # Of the norms of all widths, for save_torch, those of the thinnest count.
  gradient = {
    'params': variables['params'],
    'norm': {
      **variables['norm'],
      switch: jax.tree.map(lambda x: x[0], private['gradients']['norm']),
    },
    'batch_stats': variables['batch_stats'],
  }
  own = f'.bn.{model.widths.index(width)}.'
  gradients = {
    n: g
    for n, g in by_torch_name(model, gradient).items()
    if own in n and 'running' not in n
  }
  names = [str(n) for n in golden['param_names']]
  norms = dict(zip(names, golden['step0/grad_norm'], strict=True))
  assert_as_published(gradients, {n: norms[n] for n in names if own in n}, 1e-9)
  assert len(gradients) > 50
  heads = dict(zip(names, golden['step0/grad_head'], strict=True))
  assert_heads(gradients, heads, norms)

  index = jax.tree.map(
    lambda x: np.arange(x.size).reshape(x.shape), variables['params']
  )
  numbered = {**variables, 'params': index}
  _, taken = slimjax.extract(model, numbered, width=width)
  found = jax.device_get(carry['shared']['gradients']['params'])
  found = traverse_util.flatten_dict(found)
  taken = traverse_util.flatten_dict(jax.device_get(taken['params']))
  assert found.keys() == taken.keys()
  entries = {path: Idle.of(found[path], taken[path]) for path in found}
  for path, entry in entries.items():
    assert entry.moved == 0, path
    # A few are zero, those of a unit that is dead in all images.
    assert entry.still < 0.1 * entry.used, path
  assert sum(entry.idle for entry in entries.values()) > 1_000_000
