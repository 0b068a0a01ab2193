"""Suppression keeps exactly the boxes that a greedy one does."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection.boxes import iou
from slimjax.detection.nms import nms

SETS = [
  ('clustered', '0.3'),
  ('clustered', '0.5'),
  ('clustered', '0.7'),
  ('chain', '0.25'),
  ('chain', '0.5'),
  ('chain', '0.65'),
  ('equal', '0.5'),
]
suppress = functools.partial(jax.jit, static_argnames=('limit', 'tile'))(nms)


@pytest.fixture(scope='module')
def golden():
  return goldens.detection('nms')


def ordered(golden, name):
  """Returns the boxes by falling score, and their places in the golden."""
  order = np.argsort(-golden[f'{name}/scores'], kind='stable')
  return golden[f'{name}/boxes'][order], order


@pytest.mark.parametrize('name, threshold', SETS)
def test_indices_are_those_of_the_oracle(golden, name, threshold):
  boxes, order = ordered(golden, name)
  n = len(boxes)
  keep = suppress(boxes, np.ones(n, bool), float(threshold), limit=n)
  expected = golden[f'{name}/keep/{threshold}']
  np.testing.assert_array_equal(order[keep], expected)


def test_groups_do_not_suppress_each_other(golden):
  boxes, order = ordered(golden, 'batched')
  groups = golden['batched/classes'][order]
  valid = np.ones(len(boxes), bool)
  keep = suppress(boxes, valid, 0.5, limit=800, groups=groups)
  np.testing.assert_array_equal(order[keep], golden['batched/keep/0.5'])


@pytest.mark.parametrize('limit', [0, 1, 37, 52, 1000])
def test_a_limit_gives_the_beginning(golden, limit):
  boxes, order = ordered(golden, 'clustered')
  valid = np.ones(len(boxes), bool)
  keep = suppress(boxes, valid, 0.3, limit=limit, tile=32)
  expected = golden['clustered/keep/0.3'][:limit]
  np.testing.assert_array_equal(order[keep], expected)


def greedy(boxes, valid, threshold):
  """Returns what is kept, by the definition."""
  overlap = np.asarray(iou(boxes, boxes))
  keep = []
  for i in np.flatnonzero(valid):
    if not np.any(overlap[keep, i] > threshold):
      keep.append(i)
  return keep


def test_padding_never_suppresses_in_any_tiling():
  """Tiles end inside, at and past the list; a tile may be all padding."""
  rng = np.random.RandomState(0)
  corner = rng.uniform(0, 40, (2, 90, 2))
  boxes = np.concatenate((corner, corner + rng.uniform(5, 30, (2, 90, 2))), -1)
  boxes = boxes.astype(np.float32)
  valid = rng.uniform(size=(2, 90)) < 0.5
  valid[1, :32] = False
  for tile in (16, 45, 256):
    one = lambda b, v, tile=tile: nms(b, v, 0.4, 90, tile=tile)
    keep = jax.jit(jax.vmap(one))(boxes, valid)
    for i in range(2):
      expected = greedy(boxes[i], valid[i], 0.4)
      np.testing.assert_array_equal(np.flatnonzero(keep[i]), expected)


def test_the_longest_chain_is_decided_link_by_link():
  """Each overlaps its two neighbours: every second one is kept."""
  left = np.arange(300, dtype=np.float32)
  boxes = np.stack((left, 0 * left, left + 2, 0 * left + 1), axis=-1)
  keep = suppress(boxes, np.ones(300, bool), 0.3, limit=300)
  np.testing.assert_array_equal(np.flatnonzero(keep), np.arange(0, 300, 2))


def test_nothing_valid_keeps_nothing():
  keep = suppress(jnp.zeros((5, 4)), jnp.zeros(5, bool), 0.5, limit=3)
  assert not keep.any()
