"""Proposals and detections equal the oracle's; what is padded never wins."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection.anchors import anchors
from slimjax.detection.boxes import clip
from slimjax.detection.boxes import decode
from slimjax.detection.detecting import detections
from slimjax.detection.proposals import proposals
from slimjax.detection.ranking import best

detect = functools.partial(jax.jit, static_argnames='limit')(detections)


def test_best_are_in_order_and_padded():
  priority = jnp.array([3, 1, 4, 1, 5, 9, 2, 6], jnp.bfloat16)
  index, valid = best(priority, priority < 5, 6)
  np.testing.assert_array_equal(index, [2, 0, 6, 1, 3, 0])
  np.testing.assert_array_equal(valid, [1, 1, 1, 1, 1, 0])
  index, valid = best(priority, priority < 5, 20)
  np.testing.assert_array_equal(index[:5], [2, 0, 6, 1, 3])
  assert valid.sum() == 5


@pytest.fixture(scope='module')
def proposed():
  """The golden; its logits, deltas and anchors by level; its pictures."""
  golden = goldens.detection('rpn')
  places = anchors((64, 128), (16, 32, 64, 128, 256))
  cuts = np.cumsum([len(level) for level in places])[:-1]
  levels = lambda name: tuple(np.split(golden[name], cuts, axis=1))
  return golden, levels('objectness'), levels('deltas'), places


def test_proposals(proposed):
  golden, logits, deltas, places = proposed
  propose = functools.partial(proposals, candidates=60, limit=40)
  propose = jax.jit(jax.vmap(propose, (0, 0, None, 0)))
  boxes, logits, valid = propose(logits, deltas, places, golden['sizes'])
  assert valid.all()
  for i in range(2):
    np.testing.assert_allclose(boxes[i], golden[f'proposals/{i}'], 1e-5, 1e-5)
    scores = jax.nn.sigmoid(logits[i])
    np.testing.assert_allclose(scores, golden[f'scores/{i}'], atol=1e-6)


def test_fewer_anchors_than_asked_for_are_padded():
  """Equal sure scores rank by logit; a box without area is none."""
  places = (
    jnp.array([[0.0, 0, 9, 9], [20, 20, 40, 40], [0, 0, 9, 8]]),
    jnp.array([[50.0, 50, 70, 70], [90, 90, 99, 99]]),
  )
  logits = (jnp.array([40.0, 30, 35]), jnp.array([50.0, 60]))
  zeros = tuple(jnp.zeros_like(level) for level in places)
  propose = jax.jit(functools.partial(proposals, candidates=10, limit=7))
  found, scores, valid = propose(logits, zeros, places, np.array([80, 80]))
  np.testing.assert_array_equal(valid, np.arange(7) < 3)
  expected = [[50, 50, 70, 70], [0, 0, 9, 9], [20, 20, 40, 40]]
  np.testing.assert_array_equal(found[:3], expected)
  np.testing.assert_array_equal(scores, [50, 40, 30, 0, 0, 0, 0])
  np.testing.assert_array_equal(found[3:], 0)


@pytest.fixture(scope='module')
def classified():
  """The golden; its boxes [2, 70, 5, 4] and scores [2, 70, 5]."""
  golden = goldens.detection('post')
  deltas = golden['deltas'].reshape(2, 70, 6, 4)[:, :, 1:]
  references = golden['proposals'][:, :, None]
  moved = decode(deltas, references, (10, 10, 5, 5))
  boxes = jax.vmap(clip)(moved, golden['sizes'])
  scores = jax.nn.softmax(golden['logits'].reshape(2, 70, 6))[..., 1:]
  return golden, boxes, scores


def test_detections_whatever_is_padded(classified):
  """Before each picture's proposals there is padding, sure of itself."""
  golden, boxes, scores = classified
  boxes = jnp.concatenate((boxes[:, :9], boxes), axis=1)
  scores = jnp.concatenate((scores[:, :9] * 0 + 0.2, scores), axis=1)
  valid = np.arange(79) >= 9
  every = jax.vmap(functools.partial(detections, limit=60), (0, 0, None))
  boxes, scores, labels, valid = jax.jit(every)(boxes, scores, valid)
  assert valid.all()
  assert labels.dtype == jnp.int32
  for i in range(2):
    np.testing.assert_allclose(boxes[i], golden[f'{i}/boxes'], 1e-5, 1e-5)
    np.testing.assert_allclose(scores[i], golden[f'{i}/scores'], atol=1e-6)
    np.testing.assert_array_equal(labels[i], golden[f'{i}/labels'])


def test_one_proposal_is_detected_as_every_class_it_may_be():
  """A box may be two classes; as one class it is found once."""
  box = jnp.array([0.0, 0, 10, 10])
  boxes = jnp.broadcast_to(box, (2, 3, 4))
  scores = jnp.array([[0.5, 0.05, 0.44], [0.1, 0.1, 0.7]])
  found, score, label, valid = detect(boxes, scores, np.ones(2, bool), limit=5)
  np.testing.assert_array_equal(valid, [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(label, [3, 1, 2, 0, 0])
  np.testing.assert_allclose(score, [0.7, 0.5, 0.1, 0, 0])
  np.testing.assert_array_equal(found[:3], boxes[0])


def test_a_picture_without_detections():
  boxes, scores = jnp.ones((4, 2, 4)), jnp.full((4, 2), 0.4)
  scores = scores.at[0].set(0.05)
  for valid in (np.arange(4) == 0, np.zeros(4, bool)):
    result = detect(boxes, scores, valid, limit=3)
    for array in result:
      np.testing.assert_array_equal(array, jnp.zeros_like(array))
