"""Batches: every example once, in an order that the step decides."""

import logging
import threading

import numpy as np
import pytest

from slimjax.data.batches import ArraySplit
from slimjax.data.batches import Corrupt
from slimjax.data.batches import CorruptImagesError
from slimjax.data.batches import EvalReader
from slimjax.data.batches import read
from slimjax.data.batches import Share
from slimjax.data.batches import TrainReader
from slimjax.data.prefetch import Prefetched

ALONE = Share()


def _numbers(size):
  numbers = np.arange(size, dtype=np.int32)
  return ArraySplit({'image': numbers[:, None] * 10, 'label': numbers})


def _read(reader):
  return read(reader, corrupt=Corrupt(0))


def _batches(size=23, batch_size=5, *, seed=0, steps=range(100), share=ALONE):
  reader = TrainReader(_numbers(size), batch_size, seed, steps, share)
  return [batch['label'].tolist() for batch in _read(reader)]


def test_no_example_is_lost_or_repeated_within_an_epoch():
  row = [i for batch in _batches(steps=range(23)) for i in batch]
  epochs = [row[start : start + 23] for start in range(0, 5 * 23, 23)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_images_and_labels_stay_together():
  batch = next(_read(TrainReader(_numbers(23), 5, 0, range(9))))
  assert (batch['image'][:, 0] == batch['label'] * 10).all()


def test_the_order_depends_on_seed_and_step_alone():
  batches = _batches(seed=3)
  assert _batches(seed=3) == batches
  assert _batches(seed=4) != batches
  # From any step, in the middle of an epoch or at its end.
  for first in (1, 4, 5, 23, 57):
    assert _batches(seed=3, steps=range(first, 100)) == batches[first:]


@pytest.mark.parametrize('processes', [2, 4])
def test_shares_together_are_the_batch_of_one_process(processes):
  """So a run may resume with another number of hosts."""
  shares = [
    _batches(batch_size=8, seed=1, share=Share(i, processes))
    for i in range(processes)
  ]
  whole = _batches(batch_size=8, seed=1)
  for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
    assert {len(part) for part in parts} == {8 // processes}
    assert [i for part in parts for i in part] == batch


def test_impossible_batches_are_refused():
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainReader(_numbers(23), 24, 0, range(1))
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainReader(_numbers(23), 0, 0, range(1))
  with pytest.raises(ValueError, match='6 .* among 4 processes; try 8'):
    TrainReader(_numbers(23), 6, 0, range(1), Share(0, 4))


@pytest.mark.parametrize('batch_size', [4, 8, 12, 20, 24, 40])
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_padded_batches_hold_each_example_once(batch_size, processes):
  shares = [
    list(_read(EvalReader(_numbers(23), batch_size, Share(i, processes))))
    for i in range(processes)
  ]
  # All processes run the same steps: one with fewer would hang the others.
  assert len({len(share) for share in shares}) == 1
  scored = []
  for parts in zip(*shares, strict=True):
    for batch in parts:
      assert batch['label'].shape == (batch_size // processes,)
      assert (batch['image'][:, 0] == batch['label'] * 10).all()
      scored += batch['label'][batch['mask']].tolist()
  assert scored == list(range(23))


# Images that cannot be decoded.


class _Unreadable(ArraySplit):
  """Some examples, by number, are corrupt."""

  def read_eval(self, indices):
    batch = super().read_eval(indices)
    names = [f'{i}.jpg' for i in indices if i in (2, 3, 11)]
    return {**batch, 'corrupt': tuple(names)}


def test_corrupt_images_are_counted_once_and_named(caplog):
  reader = EvalReader(_Unreadable(_numbers(23).arrays), 5)
  corrupt = Corrupt(3)
  for _ in range(2):  # in a second pass they are the same
    with caplog.at_level(logging.ERROR):
      batches = list(read(reader, corrupt=corrupt))
    assert all(set(b) == {'image', 'label', 'mask'} for b in batches)
  assert [r.getMessage().split()[2] for r in caplog.records] == [
    *('2.jpg', '3.jpg', '11.jpg')
  ]
  with pytest.raises(CorruptImagesError, match=r'3 images .*max_corrupt = 2'):
    list(read(reader, corrupt=Corrupt(2)))


def _gathered(counts):
  """Returns what a collective gives each of several processes, stacked."""
  sent = []

  def keep(hashes):
    sent.append(hashes)
    return np.zeros_like(hashes)[None]

  for corrupt in counts:
    corrupt.check(keep)
  assert len({hashes.shape for hashes in sent}) == 1
  return lambda hashes: np.stack(sent)


@pytest.mark.parametrize(
  'names, together',
  [
    ((['a', 'b'], ['c', 'd']), 4),
    ((['a', 'b'], ['c', 'b']), 3),
    ((['a', 'b', 'c'], ['c', 'b']), 3),
    (([], ['a', 'b', 'c']), 3),
  ],
)
def test_corrupt_images_are_counted_over_all_processes(names, together):
  counts = [Corrupt(3) for _ in names]
  for corrupt, own in zip(counts, names, strict=True):
    corrupt.add(own)  # alone none has too many
  gather = _gathered(counts)
  for corrupt in counts:
    if together == 3:
      corrupt.check(gather)
      continue
    with pytest.raises(CorruptImagesError, match='4 images .*max_corrupt = 3'):
      corrupt.check(gather)


# Prefetching.


def test_prefetching_keeps_the_order_and_hands_errors_on():
  closed = []

  def numbers(stop_at=None):
    try:
      for i in range(10):
        if i == stop_at:
          raise KeyError(i)
        yield i
    finally:
      closed.append(True)

  with Prefetched(numbers(), lambda i: i * 2) as batches:
    assert list(batches) == [2 * i for i in range(10)]
    with pytest.raises(StopIteration):
      next(batches)
  with Prefetched(numbers(stop_at=3), lambda i: i) as batches:
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
      with pytest.raises(KeyError):
        next(batches)
  # Left early, the reader is closed in its own thread.
  with Prefetched(numbers(), lambda i: i, ahead=1) as batches:
    next(batches)
  assert len(closed) == 3


def test_waiting_for_input_is_counted():
  release = threading.Event()

  def slow():
    release.wait(10)
    yield 0

  with Prefetched(slow(), lambda i: i) as batches:
    threading.Timer(0.2, release.set).start()
    next(batches)
    assert 0.1 < batches.waited < 5
