"""Losses and metrics against formulas written out in numpy."""

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
