"""Chooses the examples of every training batch: a function of (seed, step).

A split may have groups of examples that cannot share a batch, such as pictures
on canvases of two shapes. Each group has an endless row of its own, and every
batch is of one group.

Batch b of a group of n_g of all n examples is due at (b + 1/2) n / n_g steps.
Batches are trained on as they fall due, so that all steps up to any hold the
batches of a group in proportion to its examples, but for one or two. A split
without groups is one group, whose batch b is that of step b.
"""

from collections.abc import Sequence
from fractions import Fraction
import functools
import heapq

import numpy as np


def group_of_step(sizes: Sequence[int], step: int) -> tuple[int, int]:
  """Returns the group that a step's batch is of, and its number in the group.

  Args:
    sizes: number of examples of each group.
    step: the step, from 0.
  """
  total = sum(sizes)
  # A group is at most half a batch ahead of its share: not all steps up to here
  # are used up.
  begun = max(step - len(sizes), 0)
  counts = [_due(size, total, begun) for size in sizes]
  queue = [
    (_time(size, total, count), group, count)
    for group, (size, count) in enumerate(zip(sizes, counts, strict=True))
    if size
  ]
  heapq.heapify(queue)
  for _ in range(step - sum(counts)):
    _, group, count = queue[0]
    later = (_time(sizes[group], total, count + 1), group, count + 1)
    heapq.heapreplace(queue, later)
  _, group, count = queue[0]
  return group, count


def _time(size: int, total: int, batch: int) -> Fraction:
  """Returns when a batch of a group is due, in steps."""
  return Fraction((2 * batch + 1) * total, 2 * size)


def _due(size: int, total: int, time: int) -> int:
  """Returns how many batches of a group are due before a time."""
  # The least b with (b + 1/2) total / size >= time.
  return max(-((total - 2 * time * size) // (2 * total)), 0)


def examples_of(
  seed: int, group: int, members: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the examples at some places of a group's endless row.

  Args:
    seed: seed of the run.
    group: number of the group.
    members: examples of the group, int [n].
    row: the places, int [b].

  Returns:
    The examples, int [b], and how often the group was passed before, int [b].
  """
  epochs, places = np.divmod(row, len(members))
  order = np.concatenate(
    [
      epoch_order(seed, int(epoch), len(members), group)[
        places[epochs == epoch]
      ]
      for epoch in np.unique(epochs)
    ]
  )
  return members[order], epochs


@functools.lru_cache(maxsize=4)  # a batch may hold parts of two epochs
def epoch_order(seed: int, epoch: int, size: int, group: int = 0) -> np.ndarray:
  """Returns a permutation of a group: a function of (seed, epoch, group)."""
  # numpy draws the same by (seed, epoch, 0) as by (seed, epoch).
  return np.random.default_rng((seed, epoch, group)).permutation(size)
