"""Batches of a data set that is held in memory."""

from collections.abc import Iterator

import numpy as np

Arrays = dict[str, np.ndarray]  # the first axis of each is that of examples


class TrainBatches(Iterator):
  """Endless batches; the order of an epoch depends on (seed, epoch) alone.

  A batch is this process's share of the global one. The last batch of an epoch
  is dropped if it is not full. The position can be saved and restored.
  """

  def __init__(
    self,
    arrays: Arrays,
    batch_size: int,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """
    Args:
      arrays: the whole split.
      batch_size: examples in a global batch.
      seed: of the order.
      process_index: whose share.
      process_count: of how many.
    """
    self._arrays = arrays
    self._size = len(arrays['label'])
    self._batch_size = batch_size
    self._seed = seed
    if not 0 < batch_size <= self._size:
      raise ValueError(
        f'batch_size {batch_size} must be between 1 and the {self._size}'
        ' training examples'
      )
    if batch_size % process_count:
      raise ValueError(
        f'batch_size {batch_size} does not divide among {process_count}'
        ' processes'
      )
    share = batch_size // process_count
    self._share = slice(process_index * share, (process_index + 1) * share)
    self._position = {'epoch': 0, 'batch': 0}
    self._order = self._epoch_order()

  @property
  def batches_per_epoch(self) -> int:
    return self._size // self._batch_size

  def _epoch_order(self) -> np.ndarray:
    rng = np.random.default_rng((self._seed, self._position['epoch']))
    return rng.permutation(self._size)

  def __next__(self) -> Arrays:
    if self._position['batch'] == self.batches_per_epoch:
      self.set_state({'epoch': self._position['epoch'] + 1, 'batch': 0})
    start = self._position['batch'] * self._batch_size
    self._position['batch'] += 1
    chosen = self._order[start : start + self._batch_size][self._share]
    return {name: array[chosen] for name, array in self._arrays.items()}

  def get_state(self) -> dict[str, int]:
    """The position: what `set_state` takes."""
    return dict(self._position)

  def set_state(self, state: dict[str, int]) -> None:
    """Goes on from a saved position."""
    self._position = {key: int(state[key]) for key in ('epoch', 'batch')}
    self._order = self._epoch_order()


def padded_batches(
  arrays: Arrays,
  batch_size: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Arrays]:
  """Every example once, in order; the last batch is filled up.

  A batch has a `mask`, False where an example only fills it up. `batch_size` is
  that of the global batch, of which each process gets its share.
  """
  size = len(arrays['label'])
  share = batch_size // process_count
  for start in range(0, size, batch_size):
    first = start + process_index * share
    chosen = np.arange(first, first + share)
    mask = chosen < size
    chosen = np.minimum(chosen, size - 1)
    batch = {name: array[chosen] for name, array in arrays.items()}
    yield {**batch, 'mask': mask}
