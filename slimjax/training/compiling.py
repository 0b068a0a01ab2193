"""Compiles the programs of a step side by side, and says how far it is."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
import contextlib
import threading
import time
from typing import Any

_SILENCE_SECONDS = 5.0


def quiet(text: str) -> None:
  """Says nothing."""


@contextlib.contextmanager
def alive(say: Callable[[str], None], doing: Callable[[], str]) -> Iterator:
  """Says every few seconds what is still being done inside.

  Args:
    say: function that is told, from a thread.
    doing: function that returns what is being done now, in words.
  """
  start = time.perf_counter()
  done = threading.Event()

  def tell():
    while not done.wait(_SILENCE_SECONDS):
      say(f'still {doing()} ({time.perf_counter() - start:.0f} s)')

  thread = threading.Thread(target=tell, daemon=True, name='alive')
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


def compile_all(
  lower: Mapping[str, Callable[[], Any]], say: Callable[[str], None] = quiet
) -> dict[str, Any]:
  """Returns the compiled programs by name.

  Tracing is Python and goes one after another; compilation runs in threads
  beside it.

  Args:
    lower: functions that trace a program, in order.
    say: function that is told the name of each program when it is begun, and
      every few seconds what is still being compiled; default: none.
  """
  futures: dict[str, Future] = {}

  def doing() -> str:
    left = [n for n, future in list(futures.items()) if not future.done()]
    return f'compiling {", ".join(left) or "the next"}'

  with ThreadPoolExecutor() as pool, alive(say, doing):
    for number, (name, trace) in enumerate(lower.items(), 1):
      say(f'compiling {name} ({number} of {len(lower)})')
      futures[name] = pool.submit(trace().compile)
    return {name: future.result() for name, future in futures.items()}
