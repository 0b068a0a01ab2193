"""Losses and metrics against formulas written out in numpy."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console

from slimjax.data import digits
from slimjax.tasks import Classification
from slimjax.tasks.classification import classification_metrics
from slimjax.tasks.classification import predicted_class
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


def _measure(logits, labels, mask):
  """Returns what a task measures of a network that gives these logits."""
  batch = {'image': jnp.asarray(logits), 'label': jnp.asarray(labels)}
  batch['mask'] = jnp.asarray(mask, bool)
  measured = Classification().measure(lambda images: images, batch)
  return jax.tree.map(np.asarray, measured)


def test_scores_are_of_all_batches():
  task, total = Classification(), None
  logits = 40.0 * jnp.eye(3, 6)
  for labels, mask in (([0, 1, 0], [1, 1, 1]), ([2, 0, 0], [1, 0, 0])):
    total = task.accumulate(total, _measure(logits, labels, mask))
  scores = task.score(total, None)
  assert scores.pop('top1_error') == pytest.approx(50.0)
  assert scores.pop('loss') == pytest.approx(20.0)
  # A tie counts against the label: with it there are six that are not below.
  assert scores == {'top5_error': 50.0, 'examples': 4}


def test_five_of_five_classes_are_no_score():
  task = Classification()
  measured = _measure(jnp.eye(3, 5), [0, 1, 0], [1, 1, 1])
  assert set(task.score(task.accumulate(None, measured), None)) == {
    *('loss', 'top1_error', 'examples')
  }


def test_nothing_has_no_score():
  """No batch at all, or none whose examples could be read."""
  task = Classification()
  measured = _measure(jnp.eye(3), [0, 1, 2], [0, 0, 0])
  for total in (None, task.accumulate(None, measured)):
    with pytest.raises(ValueError, match='no example was scored: the split is'):
      task.score(total, None)


@pytest.mark.parametrize(
  'logits, label, predicted',
  [
    ([3.0, 2.0, 1.0], 0, 0),
    ([3.0, 2.0, 1.0], 1, 0),
    ([2.0, 2.0, 1.0], 0, 1),  # a tie is no hit, as in the score
    ([2.0, 2.0, 1.0], 1, 0),
    ([1.0, 1.0, 1.0], 1, 0),
    ([NAN, 2.0, 1.0], 0, 1),
    ([-INF, -INF, -INF], 0, 1),
  ],
)
def test_a_prediction_is_the_label_where_it_is_right(logits, label, predicted):
  logits, label = jnp.array([logits]), jnp.array([label])
  found = predicted_class(logits, label)[0]
  right = top_k_correct(logits, label, 1)[0] > 0
  assert bool(right) == (int(found) == int(label[0]))
  if predicted:
    assert int(found) == predicted


# Which classes are taken for which.


def _totals(classes=3, seed=0, batches=3):
  rng = np.random.default_rng(seed)
  task, total, labels, logits = Classification(), None, [], []
  for _ in range(batches):
    labels.append(rng.integers(0, classes, 40))
    logits.append(rng.normal(size=(40, classes)))
    logits[-1][np.arange(40), labels[-1]] += 1.0
    mask = np.arange(40) < 33
    total = task.accumulate(total, _measure(logits[-1], labels[-1], mask))
  seen = [np.concatenate([x[:33] for x in xs]) for xs in (labels, logits)]
  return task, total, *seen


def _dataset(names):
  return dataclasses.replace(
    digits.create(), num_classes=len(names), class_names=tuple(names)
  )


def test_the_confusion_is_that_of_every_scored_image(tmp_path):
  task, total, labels, logits = _totals()
  expected = np.zeros((3, 3), int)
  for label, guess in zip(labels, logits.argmax(-1), strict=True):
    expected[label, guess] += 1
  names = ['ant 蚂蚁', 'bee [old]', r'cat $\frac{']
  (table,) = task.write_details({0.25: total}, _dataset(names), tmp_path)
  record = json.loads((tmp_path / 'confusion.json').read_text())
  assert record['class_names'] == names
  (of_width,) = record['widths']
  assert of_width['width'] == 0.25
  assert of_width['matrix'] == expected.tolist()
  confused = [tuple(triple) for triple in of_width['confused']]
  assert sorted(confused) == [
    (i, j, expected[i, j]) for i in range(3) for j in range(3) if i != j
  ]
  assert [count for *_, count in confused] == sorted(
    (count for *_, count in confused), reverse=True
  )
  for number, entry in enumerate(of_width['classes']):
    wrong = expected[number].sum() - expected[number, number]
    assert entry['examples'] == expected[number].sum()
    assert entry['wrong'] == wrong
    assert entry['error'] == pytest.approx(100 * wrong / entry['examples'])
  # Together they are the score.
  wrong = sum(entry['wrong'] for entry in of_width['classes'])
  assert task.score(total, None)['top1_error'] == pytest.approx(
    100 * wrong / 99
  )
  assert (tmp_path / 'confusion.png').read_bytes().startswith(b'\x89PNG')
  console = rich.console.Console(record=True, width=80, file=io.StringIO())
  console.print(table)
  text = console.export_text()
  assert 'bee [old]' in text
  assert f'{of_width["classes"][0]["error"]:.2f} %' in text


def test_a_thousand_classes_are_a_short_list(tmp_path):
  task, total, labels, _ = _totals(classes=1000)
  names = [f'class {i}' for i in range(1000)]
  (table,) = task.write_details({1.0: total}, _dataset(names), tmp_path)
  assert table.row_count == 20
  assert not (tmp_path / 'confusion.png').exists()
  text = (tmp_path / 'confusion.json').read_text()
  assert len(text) < 1.2e5
  (of_width,) = json.loads(text)['widths']
  assert 'matrix' not in of_width
  without = np.setdiff1d(np.arange(1000), labels)
  assert of_width['classes'][without[0]]['error'] is None
