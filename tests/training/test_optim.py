"""Schedules and SGD against formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slimjax.training import optim

# Schedules. Ten steps are an epoch.


def _rates(name, steps, **arguments):
  schedule = optim.create_schedule(
    name, peak_lr=0.5, steps_per_epoch=10, **arguments
  )
  return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
  'name, arguments, rates',
  [
    (
      'multi_step',
      {'epochs': (2, 4), 'factor': 0.1},
      {0: 0.5, 19: 0.5, 20: 0.05, 39: 0.05, 40: 0.005, 59: 0.005},
    ),
    (
      'exponential',
      {'factor': 0.5},
      {0: 0.5, 9: 0.5, 10: 0.25, 19: 0.25, 20: 0.125, 50: 0.015625},
    ),
    ('linear', {}, {0: 0.5, 15: 0.375, 30: 0.25, 59: 0.5 / 60, 60: 0.0}),
    (
      'cosine',
      {},
      {
        0: 0.5,
        20: 0.375,
        30: 0.25,
        59: 0.25 * (1 + np.cos(np.pi * 59 / 60)),
        60: 0.0,
      },
    ),
  ],
)
def test_schedules_at_named_steps(name, arguments, rates):
  found = _rates(name, rates, total_epochs=6, **arguments)
  np.testing.assert_allclose(found, [*rates.values()], rtol=1e-5, atol=1e-8)
  # Inside a compiled program the step is an array.
  schedule = optim.create_schedule(
    name, peak_lr=0.5, steps_per_epoch=10, total_epochs=6, **arguments
  )
  steps = jnp.array([*rates])
  np.testing.assert_allclose(
    jax.jit(jax.vmap(schedule))(steps), [*rates.values()], rtol=1e-5, atol=1e-7
  )


def test_warmup_rises_to_the_schedule_and_leaves_it_alone():
  arguments = {'total_epochs': 6, 'epochs': (1, 2), 'factor': 0.1}
  steps = [0, 1, 4, 9, 10, 14, 15, 19, 20]
  found = _rates('multi_step', steps, warmup_epochs=1.5, **arguments)
  warm = [(step + 1) / 15 if step < 15 else 1.0 for step in steps]
  plain = [0.5] * 4 + [0.05] * 4 + [0.005]
  np.testing.assert_allclose(found, np.multiply(warm, plain), rtol=1e-6)


def test_warmup_may_begin_at_a_part_of_the_rate():
  """As of the published detectors: 500 steps from a third."""
  arguments = {'total_epochs': 200, 'epochs': (60,), 'factor': 0.1}
  found = _rates(
    'multi_step',
    [0, 250, 499, 500, 599, 600],
    warmup_steps=500,
    warmup_start=1 / 3,
    **arguments,
  )
  last = 1 - (1 - 499 / 500) * (1 - 1 / 3)
  rates = [0.5 / 3, 0.5 * 2 / 3, 0.5 * last, 0.5, 0.5, 0.05]
  np.testing.assert_allclose(found, rates, rtol=1e-5)


@pytest.mark.parametrize(
  'name, arguments, says',
  [
    ('step', {}, "name must be one of 'multi_step', .* got 'step'"),
    ('multi_step', {'factor': 0.1}, 'epochs'),
    ('multi_step', {'epochs': (1,)}, 'factor'),
    ('exponential', {}, 'factor'),
    ('exponential', {'factor': 0.1, 'epochs': (1,)}, 'epochs'),
    ('cosine', {'factor': 0.1}, 'factor'),
    ('linear', {'epochs': (3,)}, 'epochs'),
    ('linear', {'warmup_steps': 9, 'warmup_epochs': 1.0}, 'say the same'),
    ('linear', {'warmup_start': 2.0}, 'from 0 to 1'),
  ],
)
def test_schedules_refuse_missing_and_unused_arguments(name, arguments, says):
  with pytest.raises(ValueError, match=says):
    _rates(name, [0], total_epochs=6, **arguments)


# SGD.


def _trainable():
  rng = np.random.RandomState(1)
  draw = lambda *shape: rng.standard_normal(shape)
  return {
    'params': {
      'stem': {'conv': {'kernel': draw(3, 3, 3, 8)}},
      'depthwise': {'conv': {'kernel': draw(3, 3, 1, 8)}},
      'grouped': {'conv': {'kernel': draw(1, 1, 2, 8)}},
      'classifier': {'kernel': draw(8, 4), 'bias': draw(4)},
    },
    'norm': {'w100': {'stem': {'norm': {'scale': draw(8), 'bias': draw(8)}}}},
  }


def _named(tree):
  leaves, _ = jax.tree.flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


DECAYED = {
  "['params']['stem']['conv']['kernel']",
  "['params']['grouped']['conv']['kernel']",
  "['params']['classifier']['kernel']",
}


def test_dense_kernels_and_the_classifier_decay_and_nothing_else():
  mask = _named(optim.decay_mask(_trainable()))
  assert {name for name, decays in mask.items() if decays} == DECAYED
  assert len(mask) == 7


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  'nesterov, clip_norm, decay_all',
  [
    (True, None, False),
    (False, None, False),
    (True, 3.0, False),
    (True, 1e6, False),
    (False, 3.0, True),
  ],
)
def test_sgd_is_that_of_pytorch(nesterov, clip_norm, decay_all):
  rates, momentum, decay = [0.3, 0.2, 0.1], 0.9, 1e-2
  schedule = lambda step: jnp.asarray(rates)[step]
  optimizer = optim.sgd(
    schedule,
    momentum=momentum,
    nesterov=nesterov,
    weight_decay=decay,
    clip_norm=clip_norm,
    decay_all=decay_all,
  )
  trainable = jax.tree.map(jnp.asarray, _trainable())
  opt_state = optimizer.init(trainable)

  # torch.optim.SGD (dampening 0), written out.
  expected, buffers = _named(_trainable()), {}
  rng = np.random.RandomState(2)
  for rate in rates:
    gradients = jax.tree.map(lambda x: rng.standard_normal(x.shape), trainable)
    updates, opt_state = optimizer.update(gradients, opt_state, trainable)
    trainable = optax.apply_updates(trainable, updates)

    named = _named(gradients)
    norm = np.sqrt(sum((g**2).sum() for g in named.values()))
    assert 3.0 < norm < 1e6
    # torch.nn.utils.clip_grad_norm_ over all, before the decay
    scale = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
    for name, gradient in named.items():
      g = gradient * scale
      if decay_all or name in DECAYED:
        g = g + decay * expected[name]
      buffer = momentum * buffers[name] + g if name in buffers else g
      buffers[name] = buffer
      step = g + momentum * buffer if nesterov else buffer
      expected[name] = expected[name] - rate * step
  found = _named(trainable)
  for name, array in expected.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-9, err_msg=name)


def test_a_run_may_resume_with_another_bound():
  """Clipping has no state, and none of it stands in that of the optimiser."""
  trainable = _trainable()
  schedule = optim.linear(0.1, total_steps=10)
  structures = {
    jax.tree.structure(optim.sgd(schedule, clip_norm=norm).init(trainable))
    for norm in (None, 1.0, 5.0)
  }
  assert len(structures) == 1
