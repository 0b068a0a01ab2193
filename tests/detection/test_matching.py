"""Matches equal the oracle's; ties, padding and short supply are decided."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection import matching
from slimjax.detection.boxes import iou

RULES = {
  'rpn': {'high': 0.7, 'low': 0.3, 'low_quality': 0},
  'rpn_no_low_quality': {'high': 0.7, 'low': 0.3},
  'roi': {'high': 0.5, 'low': 0.5},
}
RULE = {'high': 0.7, 'low': 0.3, 'low_quality': 0.3}


@pytest.fixture(scope='module')
def golden():
  return goldens.detection('matcher')


@pytest.mark.parametrize('rule', RULES)
def test_match_equals_the_oracle_whatever_is_padded(golden, rule):
  """Padding lies before, between and after, and would match everything."""
  anchors, gt = golden['anchors'], golden['gt']
  place = np.delete(np.arange(20), [0, 3, 7, 17, 18, 19])
  padded = np.tile(anchors[::200], (2, 1))[:20].copy()
  padded[place] = gt
  valid = np.isin(np.arange(20), place)
  match = jax.jit(lambda *args: matching.match(*args, **RULES[rule]))
  matched, label = match(anchors, padded, valid)
  assert (matched.dtype, label.dtype) == (jnp.int32, jnp.int8)
  expected = golden[f'{rule}/matched']  # -1 is negative, -2 between.
  positive = expected >= 0
  np.testing.assert_array_equal(
    label, np.where(positive, 1, np.where(expected == -1, 0, -1))
  )
  np.testing.assert_array_equal(matched[positive], place[expected[positive]])


def test_a_batch_matches_as_its_images_do(golden):
  anchors, gt = golden['anchors'], golden['gt']
  valid = np.arange(14) < np.array([[3], [0], [14]])
  match = lambda v: matching.match(anchors, gt, v, **RULES['rpn'])
  matched, label = jax.vmap(match)(valid)
  for i in range(3):
    alone = match(valid[i])
    np.testing.assert_array_equal(matched[i], alone[0])
    np.testing.assert_array_equal(label[i], alone[1])
  np.testing.assert_array_equal(match(valid[1]), np.zeros((2, len(anchors))))


def test_every_tie_is_a_low_quality_match():
  """Boxes with an equal IoU tie, though it is no short binary number."""
  rng = np.random.RandomState(0)
  gt = rng.uniform(10, 50, (6, 2)).astype(np.float32)
  gt = np.concatenate((gt, gt + rng.uniform(3, 5, (6, 2))), axis=-1)
  boxes = np.repeat(gt + np.float32(0.7), 7, axis=0)[::-1].copy()
  match = lambda *args: matching.match(*args, **RULES['rpn'])
  _, label = jax.jit(match)(boxes, gt, np.ones(6, bool))
  assert iou(boxes, gt).max() < 0.7
  np.testing.assert_array_equal(label, 1)


def test_low_quality_matches_stay_or_go():
  """The first box overlaps gt 0 most, and is the best that gt 1 has."""
  gt = jnp.array([[0.0, 0, 10, 10], [0, 5, 10, 20], [90, 90, 91, 91]])
  boxes = jnp.array([[0.0, 0, 10, 12], [0, 0, 10, 10], [50, 50, 60, 60]])
  valid = jnp.array([True, True, True])
  assert iou(boxes, gt)[0, 1] == pytest.approx(0.35)
  stay = matching.match(boxes, gt, valid, **RULE)
  go = matching.match(boxes, gt, valid, **RULE, reassign=True)
  np.testing.assert_array_equal(stay[0][:2], [0, 0])
  np.testing.assert_array_equal(go[0][:2], [1, 0])
  for _, label in (stay, go):
    np.testing.assert_array_equal(label, [1, 1, 0])
  boxes = boxes[1:]
  label = matching.match(boxes, gt, valid, **RULE)[1]
  np.testing.assert_array_equal(label, [1, 0])  # An IoU of .25 is too little.


def test_a_ground_truth_that_touches_nothing_forces_nothing():
  boxes = jnp.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
  far = jnp.array([[50.0, 50, 60, 60]])
  _, label = matching.match(boxes, far, jnp.array([True]), **RULES['rpn'])
  np.testing.assert_array_equal(label, 0)


def test_unusable_boxes_are_ignored_and_are_nobodys_best():
  gt = jnp.array([[0.0, 0, 10, 10]])
  boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 30]])
  usable = jnp.array([False, True, True])
  _, label = matching.match(boxes, gt, gt[:, 0] == 0, **RULE, usable=usable)
  np.testing.assert_array_equal(label, [-1, 1, -1])


LABEL = jnp.array([0, 1, -1, 1, 0, 0, 1, 0])


def test_sample_takes_the_highest_priorities_positives_first():
  priority = jnp.array([0.1, 0.2, 9, 0.9, 0.3, 0.8, 0.5, 0.7])
  index, positive, valid = matching.sample(priority, LABEL, 4, 0.5)
  np.testing.assert_array_equal(index, [3, 6, 5, 7])
  np.testing.assert_array_equal(positive, [True, True, False, False])
  assert valid.all()


@pytest.mark.parametrize('n', [12, 100])
def test_sample_of_more_than_there_are_is_all_then_padding(n):
  index, positive, valid = matching.sample(-jnp.arange(8.0), LABEL, n, 0.5)
  np.testing.assert_array_equal(index[:7], [1, 3, 6, 0, 4, 5, 7])
  np.testing.assert_array_equal(index[7:], 0)
  np.testing.assert_array_equal(positive, np.arange(n) < 3)
  np.testing.assert_array_equal(valid, np.arange(n) < 7)


def test_negatives_fill_the_places_of_missing_positives():
  label = jnp.where(jnp.arange(8) == 5, 1, 0)
  index, positive, valid = matching.sample(-jnp.arange(8.0), label, 6, 0.5)
  np.testing.assert_array_equal(index, [5, 0, 1, 2, 3, 4])
  assert positive.sum() == 1
  assert valid.all()


def test_sample_without_positives_or_without_anything():
  priority = -jnp.arange(8.0)
  index, positive, valid = matching.sample(priority, 0 * LABEL, 1, 0.5)
  np.testing.assert_array_equal(index, [0])
  assert valid.all()
  assert not positive.any()
  _, positive, valid = matching.sample(priority, 0 * LABEL - 1, 4, 0.5)
  assert not valid.any()
  assert not positive.any()
