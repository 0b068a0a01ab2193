"""Losses, metrics, schedules and SGD against formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slimjax.tasks import Classification
from slimjax.tasks.classification import classification_metrics
from slimjax.tasks.classification import top_k_correct
from slimjax.tasks.losses import cross_entropy
from slimjax.tasks.losses import soft_cross_entropy
from slimjax.training import optim

NAN, INF = np.nan, np.inf


def _logits(rows=6, classes=5):
  return 3.0 * np.random.RandomState(0).standard_normal((rows, classes))


def _log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


# Losses.


def test_cross_entropy_is_that_of_optax():
  logits = jnp.asarray(_logits(), jnp.float32)
  labels = jnp.array([0, 4, 2, 1, 3, 3])
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  losses = cross_entropy(logits, labels)
  assert losses.shape == (6,)
  np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.usefixtures('x64')
def test_label_smoothing_spreads_eps_over_the_wrong_classes():
  logits, labels, eps = _logits(), np.array([0, 4, 2, 1, 3, 3]), 0.1
  targets = np.full((6, 5), eps / 4)
  targets[np.arange(6), labels] = 1 - eps
  expected = -(targets * _log_softmax(logits)).sum(axis=-1)
  losses = cross_entropy(
    jnp.asarray(logits), jnp.asarray(labels), label_smoothing=eps
  )
  np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.usefixtures('x64')
def test_soft_cross_entropy():
  logits, teacher = _logits(), _logits()[::-1]
  targets = np.exp(_log_softmax(teacher))
  expected = -(targets * _log_softmax(logits)).sum(axis=-1)
  losses = soft_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
  np.testing.assert_allclose(losses, expected, rtol=1e-12)
  # Its gradient is the difference of the distributions.
  gradient = jax.grad(lambda x: soft_cross_entropy(x, targets).sum())
  np.testing.assert_allclose(
    gradient(jnp.asarray(logits)),
    np.exp(_log_softmax(logits)) - targets,
    atol=1e-12,
  )


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
def test_losses_survive_extreme_logits(label_smoothing):
  logits = jnp.array([[3e4, -3e4, 0.0], [-3e4, 3e4, 0.0]])
  losses = cross_entropy(
    logits, jnp.array([0, 0]), label_smoothing=label_smoothing
  )
  assert np.isfinite(losses).all()
  assert losses[1] > 5e4


# Metrics.


@pytest.mark.parametrize(
  'logits, label, correct',
  [
    # correct: for k = 1, 2, 3
    ([3.0, 2.0, 1.0, 0.0], 0, (1, 1, 1)),
    ([3.0, 2.0, 1.0, 0.0], 1, (0, 1, 1)),
    ([3.0, 2.0, 1.0, 0.0], 3, (0, 0, 0)),
    # A tie is resolved against the label, wherever it stands.
    ([2.0, 2.0, 1.0, 0.0], 0, (0, 1, 1)),
    ([2.0, 2.0, 1.0, 0.0], 1, (0, 1, 1)),
    ([1.0, 1.0, 1.0, 1.0], 2, (0, 0, 0)),
    # So is a NaN: of the label, which loses to all, and of another class.
    ([NAN, 2.0, 1.0, 0.0], 0, (0, 0, 0)),
    ([3.0, NAN, 1.0, 0.0], 0, (0, 1, 1)),
    ([NAN, NAN, NAN, NAN], 3, (0, 0, 0)),
    ([INF, 2.0, 1.0, 0.0], 0, (1, 1, 1)),
    ([-INF, 2.0, 1.0, 0.0], 0, (0, 0, 0)),
  ],
)
def test_top_k_counts_ties_and_nans_as_errors(logits, label, correct):
  logits, label = jnp.array([logits]), jnp.array([label])
  found = tuple(int(top_k_correct(logits, label, k)[0]) for k in (1, 2, 3))
  assert found == correct


def test_fewer_classes_than_k_always_hold_the_label():
  logits = jnp.array([[2.0, 1.0, 0.0], [NAN, NAN, NAN]])
  assert top_k_correct(logits, jnp.array([2, 0]), 5).tolist() == [1.0, 1.0]


def test_padding_does_not_count_whatever_it_holds():
  logits = jnp.asarray(_logits(rows=4, classes=8), jnp.float32)
  labels = jnp.argmax(logits, axis=-1).at[1].set(jnp.argmin(logits[1]))
  losses = jnp.array([1.0, 2.5, NAN, INF])
  logits = logits.at[2:].set(NAN)
  mask = jnp.array([True, True, False, False])
  metrics = classification_metrics(logits, labels, losses, mask)
  assert {name: (float(s), float(c)) for name, (s, c) in metrics.items()} == {
    'loss': (3.5, 2.0),
    'top1': (1.0, 2.0),
    'top5': (1.0, 2.0),
  }
  assert Classification().summarise(metrics) == {
    'loss': 1.75,
    'top1_error': 50.0,
    'top5_error': 50.0,
  }


def test_without_a_mask_all_examples_count():
  logits, labels = jnp.eye(3), jnp.array([0, 1, 0])
  metrics = classification_metrics(logits, labels, jnp.ones(3))
  assert [float(x) for x in metrics['top1']] == [2.0, 3.0]


def test_scores_are_of_all_batches():
  task, total = Classification(), None
  for labels, mask in (([0, 1, 0], [1, 1, 1]), ([2, 0, 0], [1, 0, 0])):
    labels, mask = jnp.array(labels), jnp.array(mask, bool)
    measured = classification_metrics(jnp.eye(3), labels, jnp.ones(3), mask)
    total = task.accumulate(total, measured)
  scores = task.score(total)
  assert scores.pop('top1_error') == pytest.approx(50.0)
  assert scores == {'loss': 1.0, 'top5_error': 0.0, 'examples': 4}


def test_nothing_has_no_score():
  """No batch at all, or none whose examples could be read."""
  task = Classification()
  measured = classification_metrics(
    jnp.eye(3), jnp.arange(3), jnp.ones(3), jnp.zeros(3, bool)
  )
  for total in (None, task.accumulate(None, measured)):
    with pytest.raises(ValueError, match='no example was scored: the split is'):
      task.score(total)


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


@pytest.mark.parametrize(
  'name, arguments, says',
  [
    ('step', {}, 'unknown schedule'),
    ('multi_step', {'factor': 0.1}, 'epochs'),
    ('multi_step', {'epochs': (1,)}, 'factor'),
    ('exponential', {}, 'factor'),
    ('exponential', {'factor': 0.1, 'epochs': (1,)}, 'epochs'),
    ('cosine', {'factor': 0.1}, 'factor'),
    ('linear', {'epochs': (3,)}, 'epochs'),
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
  'nesterov, clip_norm',
  [(True, None), (False, None), (True, 3.0), (True, 1e6)],
)
def test_sgd_is_that_of_pytorch(nesterov, clip_norm):
  rates, momentum, decay = [0.3, 0.2, 0.1], 0.9, 1e-2
  schedule = lambda step: jnp.asarray(rates)[step]
  optimizer = optim.sgd(
    schedule,
    momentum=momentum,
    nesterov=nesterov,
    weight_decay=decay,
    clip_norm=clip_norm,
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
      if name in DECAYED:
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
