"""Keeps compiled programs: each is compiled once, and the latest are kept.

A program is compiled outside of the lock, so that calls that need another one
go on. Beyond a number, the least recently used program is forgotten.
"""

from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Hashable
from concurrent.futures import Future
import logging
import threading
from typing import Generic
from typing import TypeVar

Key = TypeVar('Key', bound=Hashable)
Program = TypeVar('Program')
_LOG = logging.getLogger(__name__)


class Programs(Generic[Key, Program]):
  """Keeps programs by their keys; may be used from many threads."""

  def __init__(self, compile: Callable[[Key], Program], limit: int):
    """Starts without programs.

    Args:
      compile: function that makes the program of a key.
      limit: number of programs that are kept.
    """
    self._compile = compile
    self._limit = limit
    self._lock = threading.Lock()
    # The least recently used is first.
    self._found: OrderedDict[Key, Future[Program]] = OrderedDict()
    self._one_behind = threading.Lock()

  def __len__(self) -> int:
    return len(self._found)

  def __contains__(self, key: Key) -> bool:
    """Returns whether a program has been compiled; that does not use it."""
    with self._lock:
      return _is_done(self._found.get(key))

  def get(self, key: Key) -> Program:
    """Returns a program; compiles it or waits for another thread that does."""
    future, mine = self._claim(key)
    if mine:
      self._fulfil(key, future)
    return future.result()

  def ready(self, key: Key) -> Program | None:
    """Returns a program that has been compiled, or None."""
    with self._lock:
      future = self._found.get(key)
      if future is None or not _is_done(future):
        return None
      self._found.move_to_end(key)
      return future.result()

  def start(self, key: Key) -> None:
    """Compiles a program in another thread, one program at a time.

    At its end the process waits for the program that is being compiled; those
    that have not been begun are dropped.
    """
    future, mine = self._claim(key)
    if mine:
      threading.Thread(
        target=self._behind, args=(key, future), name=f'slimjax: {key}'
      ).start()

  def all_ready(self) -> list[Program]:
    """Returns all programs that have been compiled."""
    with self._lock:
      done = [future for future in self._found.values() if _is_done(future)]
    return [future.result() for future in done]

  def _claim(self, key: Key) -> tuple[Future[Program], bool]:
    """Returns a key's future, and whether the caller has to fulfil it."""
    with self._lock:
      found = self._found.get(key)
      if found is not None:
        self._found.move_to_end(key)
        return found, False
      future: Future[Program] = Future()
      self._found[key] = future
      self._forget()
      return future, True

  def _forget(self) -> None:
    done = [key for key, future in self._found.items() if future.done()]
    for key in done[: max(0, len(self._found) - self._limit)]:
      del self._found[key]

  def _fulfil(self, key: Key, future: Future[Program]) -> None:
    try:
      future.set_result(self._compile(key))
    except BaseException as error:
      self._fail(key, future, error)

  def _fail(
    self, key: Key, future: Future[Program], error: BaseException
  ) -> None:
    with self._lock:  # The next call tries again.
      if self._found.get(key) is future:
        del self._found[key]
    future.set_exception(error)

  def _behind(self, key: Key, future: Future[Program]) -> None:
    with self._one_behind:
      if not threading.main_thread().is_alive():
        self._fail(key, future, RuntimeError('the process ends'))
        return
      self._fulfil(key, future)
    error = future.exception()
    if error is not None:
      _LOG.warning('the program of %s was not compiled: %s', key, error)


def _is_done(future: Future | None) -> bool:
  return future is not None and future.done() and not future.exception()
