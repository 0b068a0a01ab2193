"""Which examples a step has, where examples of a split cannot share a batch."""

import collections
import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from slimjax.data.batches import ALONE
from slimjax.data.batches import ArraySplit
from slimjax.data.batches import EvalReader
from slimjax.data.batches import Share
from slimjax.data.batches import TrainReader
from slimjax.data.order import group_of_step


@dataclasses.dataclass(frozen=True)
class Grouped(ArraySplit):
  """Numbers, each with its group."""

  groups: np.ndarray | None = None

  def read_train(self, indices, keys):
    return {**super().read_train(indices, keys), 'keys': keys}


def grouped(*sizes, seed=0):
  """Returns a split with so many examples of each group, mixed."""
  groups = np.repeat(np.arange(len(sizes)), sizes)
  groups = np.random.default_rng(seed).permutation(groups)
  return Grouped({'number': np.arange(len(groups))}, groups)


def numbers(split, batch_size, steps, *, seed=3, share=ALONE):
  reader = TrainReader(split, batch_size, seed, steps, share)
  return [reader[i]['number'].tolist() for i in range(len(reader))]


# By the code from before there were groups.
BEFORE = [[6, 16, 5, 22, 20], [2, 9, 11, 14, 10], [20, 19, 16, 1, 5]]


def test_a_split_without_groups_has_the_batches_it_always_had():
  plain = ArraySplit({'number': np.arange(23)})
  assert numbers(plain, 5, range(3, 6), seed=7) == BEFORE
  # A single group is none.
  one = grouped(23)
  assert numbers(one, 5, range(40)) == numbers(plain, 5, range(40))


@pytest.mark.parametrize('sizes', [(17, 6), (5, 40, 11), (3, 1, 60, 2)])
def test_every_group_has_an_endless_row_of_permutations(sizes):
  """None is lost or repeated within a group's epoch, whatever the batch."""
  split = grouped(*sizes)
  rows = collections.defaultdict(list)
  for batch in numbers(split, 4, range(300)):
    (group,) = {*split.groups[batch].tolist()}
    rows[group] += batch
  assert len(rows) == len(sizes)
  for group, row in rows.items():
    size = sizes[group]
    members = np.flatnonzero(split.groups == group).tolist()
    epochs = [row[i : i + size] for i in range(0, len(row) - size + 1, size)]
    assert len(epochs) > 1
    for epoch in epochs:
      assert sorted(epoch) == members
    assert len({*map(tuple, epochs)}) > 1 or size < 3


def test_keys_tell_the_epoch_of_the_group():
  split = grouped(17, 6)
  reader = TrainReader(split, 4, 9, range(60))
  passed = collections.Counter()
  for step in range(60):
    batch = reader[step]
    for number, key in zip(batch['number'], batch['keys'], strict=True):
      assert key.tolist() == [9, passed[number], number]
      passed[number] += 1


@pytest.mark.parametrize('sizes', [(1,), (17, 6), (5, 40, 11), (9, 9, 9, 1, 0)])
def test_batches_of_a_group_are_in_proportion_to_its_examples(sizes):
  counts = [0] * len(sizes)
  for step in range(500):
    group, batch = group_of_step(sizes, step)
    assert batch == counts[group]
    counts[group] += 1
    for count, size in zip(counts, sizes, strict=True):
      share = Fraction((step + 1) * size, sum(sizes))
      assert abs(count - share) <= (1 if len(sizes) < 3 else 2)


def test_batches_are_trained_on_when_they_fall_due():
  """By hand: (b + 1/2) 23 / 17 = .7, 2.0, 3.4, 4.7, 6.1; 23 / 6: 1.9, 5.8."""
  groups = [group_of_step((17, 6), step)[0] for step in range(7)]
  assert groups == [0, 1, 0, 0, 0, 1, 0]


def test_any_step_is_found_at_once():
  """So a run resumes anywhere, in the middle of a group's epoch too."""
  split = grouped(17, 6)
  whole = numbers(split, 4, range(100))
  for first in (1, 7, 58, 99):
    assert numbers(split, 4, range(first, 100)) == whole[first:]
  assert numbers(split, 4, range(100), seed=4) != whole
  # Far on, the parts of two steps are still those of their neighbours.
  assert group_of_step((80_000, 37_266), 10**7)[1] > 3 * 10**6


@pytest.mark.parametrize('processes', [2, 4])
def test_all_processes_read_parts_of_one_group(processes):
  split = grouped(17, 6)
  whole = numbers(split, 8, range(50))
  shares = [
    numbers(split, 8, range(50), share=Share(i, processes))
    for i in range(processes)
  ]
  for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
    assert [n for part in parts for n in part] == batch


@pytest.mark.parametrize('batch_size', [4, 8, 24])
@pytest.mark.parametrize('processes', [1, 2])
def test_every_example_is_scored_once(batch_size, processes):
  split = grouped(17, 6, 0, 3)
  readers = [
    EvalReader(split, batch_size, Share(i, processes)) for i in range(processes)
  ]
  assert len({len(reader) for reader in readers}) == 1
  scored = []
  for i in range(len(readers[0])):
    parts = [reader[i] for reader in readers]
    read = np.concatenate([part['number'] for part in parts])
    mask = np.concatenate([part['mask'] for part in parts])
    assert len(read) == batch_size
    assert len({*split.groups[read].tolist()}) == 1
    scored += read[mask].tolist()
  assert sorted(scored) == list(range(26))
  assert scored == sorted(scored, key=lambda i: (split.groups[i], i))
