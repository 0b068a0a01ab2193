"""Pads and splits batches of any size for programs of a few sizes.

The outputs of an example do not depend on the others in its batch, so rows that
only fill a batch up change nothing.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Examples that go through one program together.

  Attributes:
    start, stop: range of the examples in the batch.
    size: the program's batch size, at least `stop - start`.
  """

  start: int
  stop: int
  size: int


def bucket_sizes(limit: int, also: Sequence[int] = ()) -> tuple[int, ...]:
  """Returns the powers of two up to a limit and the sizes named, in order."""
  powers = [2**i for i in range(limit.bit_length()) if 2**i <= limit]
  return tuple(sorted({*powers, *also}))


def power_of_two(count: int) -> int:
  """Returns the least power of two that is not below `count`."""
  return 1 << max(count - 1, 0).bit_length()


def next_size(left: int, sizes: Sequence[int]) -> int:
  """Returns the size of the program that takes the next examples of a batch.

  The rest is padded to the next size if that is less than twice as large;
  otherwise a part of the next smaller size is split off first.

  Args:
    left: number of examples that are left.
    sizes: batch sizes of programs.
  """
  above = min((s for s in sizes if s >= left), default=None)
  below = max((s for s in sizes if s <= left), default=None)
  if above is not None and (below is None or above < 2 * left):
    return above
  assert below is not None
  return below


def split(count: int, sizes: Sequence[int]) -> list[Chunk]:
  """Returns how a batch goes through programs of the sizes given.

  A batch without examples is one chunk, too: its program tells the shape of the
  outputs.
  """
  chunks: list[Chunk] = []
  start = 0
  while start < count or not chunks:
    size = next_size(count - start, sizes)
    chunks.append(Chunk(start, min(start + size, count), size))
    start = chunks[-1].stop
  return chunks


def padded(images: np.ndarray, size: int) -> np.ndarray:
  """Returns images filled up with zeros to a batch of `size`, on the host."""
  if len(images) == size:
    return images
  whole = np.zeros((size, *images.shape[1:]), images.dtype)
  whole[: len(images)] = images
  return whole


def joined(arrays: Sequence[Any], chunks: Sequence[Chunk]) -> np.ndarray:
  """Returns the rows of one output over all chunks, on the host, unpadded."""
  rows = [
    np.asarray(array)[: chunk.stop - chunk.start]
    for array, chunk in zip(arrays, chunks, strict=True)
  ]
  return rows[0] if len(rows) == 1 else np.concatenate(rows)
