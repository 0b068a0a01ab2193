"""Chooses the examples of every batch, and reads them in worker processes.

The training examples of all epochs stand in one endless row: a permutation of
the split, then another. Step `s` takes the s-th batch of that row, and process
`p` of `n` the p-th of its n parts. So a batch is a function of (seed, step)
alone: no example is lost or repeated within an epoch, the number of processes
changes nothing, and the step is the only position that has to be saved.

Groups of examples have a row each, see `slimjax.data.order`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any
from typing import Protocol
import zlib

from absl import logging
import numpy as np

from slimjax.data import fingerprint
from slimjax.data import order
from slimjax.data.workers import read_batches

Batch = dict[str, Any]  # examples are the first axis of each array


class Split(Protocol):
  """Examples that can be read in any order, in any process.

  A split may also have `fingerprint() -> str`, a hash of what its examples are:
  by it a run knows again what it was trained on (`slimjax.data.record`).

  A split may also have `groups`, the group of each example, int [n] from 0 up.
  A batch is of one group then: its arrays may have another shape than those of
  other groups.
  """

  def __len__(self) -> int:
    """Returns the number of examples."""

  def read_train(self, indices: np.ndarray, keys: np.ndarray) -> Batch:
    """Returns {'image': uint8 [b, h, w, 3], ...}, cropped at random.

    The other arrays are what the task needs, such as 'label': int32 [b]. `keys`
    [b, 3] seed the crop of each example. `corrupt`, if present, holds the names
    of the images that were replaced by another, or {name: reason}.
    """

  def read_eval(self, indices: np.ndarray) -> Batch:
    """Returns evaluation crops, and `mask`: False for unreadable images."""


@dataclasses.dataclass(frozen=True)
class ArraySplit:
  """Examples held in memory.

  Attributes:
    arrays: arrays by name; examples are the first axis of each.
  """

  arrays: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def fingerprint(self) -> str:
    """Returns a hash of the arrays."""
    return fingerprint.of(
      part
      for name, array in sorted(self.arrays.items())
      for part in (
        f'{name} {array.dtype} {array.shape}'.encode(),
        array,
      )
    )

  def read_train(self, indices: np.ndarray, keys: np.ndarray) -> Batch:
    return {name: array[indices] for name, array in self.arrays.items()}

  def read_eval(self, indices: np.ndarray) -> Batch:
    batch = {name: array[indices] for name, array in self.arrays.items()}
    return {**batch, 'mask': np.ones(len(indices), bool)}


class CorruptImagesError(ValueError):
  """More images cannot be decoded than the configuration allows."""


@dataclasses.dataclass(frozen=True)
class Share:
  """The part of every global batch that one process reads."""

  index: int = 0
  count: int = 1

  def of(self, batch_size: int) -> slice:
    if batch_size % self.count:
      raise ValueError(
        f'batch_size {batch_size} does not divide among {self.count} processes;'
        f' try {-(-batch_size // self.count) * self.count}'
      )
    part = batch_size // self.count
    return slice(self.index * part, (self.index + 1) * part)


ALONE = Share()  # the part of a process that has no others beside it


@dataclasses.dataclass(frozen=True)
class TrainReader:
  """Reads the training batches of some steps, numbered from the first one."""

  split: Split
  batch_size: int
  seed: int
  steps: range
  share: Share = ALONE

  def __post_init__(self):
    if not 0 < self.batch_size <= len(self.split):
      raise ValueError(
        f'batch_size {self.batch_size} must be between 1 and the'
        f' {len(self.split)} training examples'
      )
    self.share.of(self.batch_size)

  def __len__(self) -> int:
    return len(self.steps)

  def __getitem__(self, number: int) -> Batch:
    members = _members(self.split)
    group, batch = order.group_of_step(
      [len(found) for found in members], self.steps[number]
    )
    start = batch * self.batch_size
    row = np.arange(start, start + self.batch_size)[
      self.share.of(self.batch_size)
    ]
    indices, epochs = order.examples_of(self.seed, group, members[group], row)
    keys = np.stack([np.full_like(row, self.seed), epochs, indices], axis=-1)
    return self.split.read_train(indices, keys)


def _members(split: Split) -> list[np.ndarray]:
  """Returns the examples of each group; all are one where there are none."""
  groups = getattr(split, 'groups', None)
  if groups is None:
    return [np.arange(len(split))]
  return [np.flatnonzero(groups == g) for g in range(int(np.max(groups)) + 1)]


@dataclasses.dataclass(frozen=True)
class EvalReader:
  """Reads every example once, group by group, in order.

  The last batch of a group is padded; `mask` is False for padding. All
  processes have the same number of batches: a process with fewer would leave
  the others waiting.
  """

  split: Split
  batch_size: int
  share: Share = ALONE

  def __len__(self) -> int:
    return sum(self._batches(members) for members in _members(self.split))

  def __getitem__(self, number: int) -> Batch:
    for members in _members(self.split):
      if number < self._batches(members):
        break
      number -= self._batches(members)
    start = number * self.batch_size
    row = np.arange(start, start + self.batch_size)[
      self.share.of(self.batch_size)
    ]
    batch = self.split.read_eval(members[np.minimum(row, len(members) - 1)])
    return {**batch, 'mask': batch['mask'] & (row < len(members))}

  def _batches(self, members: np.ndarray) -> int:
    return -(-len(members) // self.batch_size)


class Corrupt:
  """Counts the images that cannot be decoded, over all processes together.

  Every process counts the images that it reads itself. `check` combines the
  counts, at a place that all processes reach; a process that has too many on
  its own stops at once.
  """

  def __init__(self, allowed: int):
    """Starts at no unreadable image.

    Args:
      allowed: number of images that may be unreadable.
    """
    self._allowed = allowed
    self._reasons: dict[str, str] = {}

  def add(self, names: Iterable[str] | Mapping[str, str]) -> None:
    """Counts images by name, each once, and logs the new ones.

    Args:
      names: names of the images, with the reasons if they are known.

    Raises:
      CorruptImagesError: this process has too many.
    """
    reasons = dict(names) if isinstance(names, Mapping) else {}
    for name in sorted({*names} - {*self._reasons}):
      self._reasons[name] = reasons.get(name, '')
      logging.error(
        'the image %s cannot be decoded; it is left out', self._said(name)
      )
    self._refuse(len(self._reasons))

  def _said(self, name: str) -> str:
    reason = self._reasons[name]
    return f'{name} ({reason})' if reason else name

  def check(self, gather: Callable[[np.ndarray], np.ndarray]) -> None:
    """Compares the number over all processes with the allowed number.

    Args:
      gather: collective function that takes this process's array and returns
        the arrays of all processes, stacked.

    Raises:
      CorruptImagesError: all processes together have too many; it is raised in
        every one.
    """
    hashes = np.zeros(self._allowed + 1, np.uint32)  # 0 is an unused place
    own = [zlib.crc32(name.encode()) | 1 for name in sorted(self._reasons)]
    hashes[: len(own)] = own
    self._refuse(len(set(gather(hashes).ravel().tolist()) - {0}))

  def _refuse(self, count: int) -> None:
    if count > self._allowed:
      said = [self._said(name) for name in sorted(self._reasons)]
      names = _some(said) or 'read by other processes'
      raise CorruptImagesError(
        f'{count} images cannot be decoded, more than config.data.max_corrupt ='
        f' {self._allowed}: {names}.'
        ' Replace them, or allow more: the run resumes with a larger number'
      )


def read(
  reader: TrainReader | EvalReader, *, corrupt: Corrupt, workers: int = 0
) -> Iterator[Batch]:
  """Yields the batches of a reader, read ahead by worker processes.

  Args:
    reader: reader of the batches.
    corrupt: counter of the unreadable images.
    workers: number of worker processes; default: 0, which reads in this process
      when a batch is requested.

  Raises:
    CorruptImagesError: more images are unreadable than allowed.
    RuntimeError: worker processes died, more than three times.
  """
  with contextlib.closing(read_batches(reader, workers)) as batches:
    for batch in batches:
      corrupt.add(batch.pop('corrupt', ()))
      yield batch


def _some(names: Sequence[str]) -> str:
  return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
