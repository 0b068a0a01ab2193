"""Prepares batches before they are requested."""

from collections.abc import Callable
from collections.abc import Iterator
import queue
import threading
import time
from typing import Any

from slimjax.data.batches import Batch

_JOIN_SECONDS = 10.0


class Prefetched(Iterator):
  """Reads ahead in a thread, up to a few items.

  Attributes:
    waited: seconds spent waiting in `next`.
  """

  def __init__(
    self,
    batches: Iterator[Batch],
    place: Callable[[Batch], Any],
    *,
    ahead: int = 2,
  ):
    """Starts to read.

    Args:
      batches: generator, closed by the thread that reads it.
      place: function that puts a batch on the devices.
      ahead: the most batches that wait; default: 2.
    """
    self.waited = 0.0
    self._queue: queue.Queue[tuple[Any, BaseException | None]]
    self._queue = queue.Queue(ahead)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._work, args=(batches, place), daemon=True, name='prefetch'
    )
    self._thread.start()

  def _work(self, batches, place) -> None:
    end: BaseException = StopIteration()
    try:
      for batch in batches:
        if not self._put((place(batch), None)):
          break
    except BaseException as error:
      end = error
    finally:
      batches.close()
    self._put((None, end))

  def _put(self, item) -> bool:
    while not self._closed.is_set():
      try:
        self._queue.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def __next__(self) -> Any:
    start = time.perf_counter()
    item, error = self._queue.get()
    self.waited += time.perf_counter() - start
    if error is not None:
      self._queue.put((None, error))  # the next call raises the same
      raise error
    return item

  def close(self) -> None:
    """Stops the thread, and closes what it reads."""
    self._closed.set()
    self._thread.join(_JOIN_SECONDS)

  def __enter__(self) -> 'Prefetched':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()
