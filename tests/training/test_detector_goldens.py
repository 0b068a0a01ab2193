"""Two optimiser steps of a detector over two widths, equal to torchvision's."""

import dataclasses
import functools

import detectors
import goldens
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import slimjax
from slimjax.detection import losses
from slimjax.tasks.base import means
from slimjax.training import mesh as placing
from slimjax.training import steps
from slimjax.training.parts import find_parts
from slimjax.training.parts import partly
from slimjax.training.state import TrainState

CASE = 'tiny_keypoint'
GOLDEN = goldens.detection(CASE)
FROZEN = ('norm', 'backbone/stem', 'backbone/stage1_*')


@dataclasses.dataclass(frozen=True)
class Task:
  """Takes every anchor and every roi; see `slimjax.tasks.base.Task`."""

  def prepare(self, model, batch, key):
    del key
    return {**batch, **model.match_anchors(batch)}

  def loss(self, forward, batch, key, teacher):
    del key
    found, _ = forward(batch, None, method='losses')
    return sum(map(losses.mean, found.values())), teacher, found


@functools.cache
def run():
  """Returns the metrics of two steps, and the state after them."""
  model = detectors.detector(CASE)
  config = detectors.described(CASE)['config']
  parts = find_parts(model, FROZEN)
  trained = optax.chain(
    optax.clip_by_global_norm(config['clip']),
    optax.add_decayed_weights(1e-4),
    optax.sgd(config['lr'], momentum=0.9),
  )
  optimizer = partly(trained, parts)
  mesh = placing.data_mesh(jax.devices()[:1])
  state = TrainState.create(detectors.variables(CASE), optimizer)
  state = placing.replicate(state, mesh)
  batch = placing.shard(detectors.batch(CASE), mesh)
  step = steps.make_train_step(
    model,
    Task(),
    optimizer,
    optax.constant_schedule(config['lr']),
    mesh,
    frozen=parts.frozen,
  )
  state, first = step(state, batch)
  state, second = step(state, batch)
  return jax.device_get((first, second)), jax.device_get(state)


def frozen(name):
  return name.startswith(('features.0.', 'features.1.'))


@pytest.mark.parametrize('width', [1.0, 0.5])
@pytest.mark.parametrize('step', [0, 1])
def test_losses_of_both_steps(step, width):
  metrics, _ = run()
  switch = detectors.detector(CASE).switch(width)
  found = means(metrics[step]['widths'][switch])
  prefix = 'step1/' if step else ''
  for name, value in found.items():
    golden = GOLDEN[f'{prefix}{width}/loss/{detectors.LOSSES[name]}']
    assert value == pytest.approx(golden, rel=1e-4), name


def test_the_norm_that_is_clipped_is_that_of_what_trains():
  metrics, _ = run()
  assert metrics[0]['gradient_norm'] == pytest.approx(
    GOLDEN['step0/clip_norm'], rel=1e-4
  )
  assert metrics[1]['gradient_norm'] == pytest.approx(
    GOLDEN['step1/clip_norm'], rel=1e-3
  )


def test_variables_after_both_steps():
  _, state = run()
  arrays = detectors.gradients(CASE, state.variables['params'])
  before = detectors.weights(CASE)
  for name, norm, head in zip(
    GOLDEN['param_names'],
    GOLDEN['after2/norm'],
    GOLDEN['after2/head'],
    strict=True,
  ):
    array = arrays[str(name)]
    assert np.linalg.norm(array) == pytest.approx(norm, rel=1e-5), name
    gap = np.abs(array.ravel()[:8] - head[: array.size]).max()
    assert gap <= 1e-5 * np.abs(array).max(), name
    moved = not np.array_equal(array, before[str(name)])
    assert moved != frozen(str(name)), name


def test_nothing_leaves_a_device_in_the_program_of_a_width():
  """Suppression's loops would wait for each other in every round."""
  model = detectors.tiny((0.5,))
  mesh = placing.data_mesh(jax.devices()[:2])
  optimizer, schedule = optax.sgd(0.1), optax.constant_schedule(0.1)
  step = steps.make_train_step(model, Task(), optimizer, schedule, mesh)
  shapes = jax.eval_shape(
    lambda key: TrainState.create(slimjax.init(model, key), optimizer),
    jax.random.key(0),
  )
  spread = NamedSharding(mesh, P(placing.AXIS))
  whole = NamedSharding(mesh, P())
  on = lambda tree, sharding: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
  batch = {
    'image': np.zeros((2, 64, 64, 3), np.float32),
    'hw': np.zeros((2, 2), np.int32),
    'boxes': np.zeros((2, 3, 4), np.float32),
    'labels': np.zeros((2, 3), np.int32),
    'crops': np.zeros((2, 3, 8, 8), np.uint8),
    'keypoints': np.zeros((2, 3, 2, 3), np.float32),
  }
  programs = step.lower(on(shapes, whole), on(batch, spread))
  text = programs['gradient/w050'].as_text()
  assert 'while' in text
  for collective in ('all_reduce', 'all_gather', 'collective_permute'):
    assert f'stablehlo.{collective}' not in text
  # The one of a step.
  assert 'stablehlo.all_reduce' in programs['update'].as_text()
