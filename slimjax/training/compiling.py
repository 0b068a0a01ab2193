"""Compiles the programs of a step side by side, and says how far it is."""

from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait
import time
from typing import Any

_SILENCE_SECONDS = 5.0


def quiet(text: str) -> None:
  """Says nothing."""


def compile_all(
  lower: Mapping[str, Callable[[], Any]], say: Callable[[str], None] = quiet
) -> dict[str, Any]:
  """Returns the compiled programs by name.

  Tracing is Python and goes one after another; compilation runs in threads
  beside it.

  Args:
    lower: functions that trace a program, in order.
    say: told the name of each program when it is begun, and every few seconds
      what is still being compiled.
  """
  start = time.perf_counter()
  futures: dict[str, Future] = {}
  with ThreadPoolExecutor() as pool:
    for number, (name, trace) in enumerate(lower.items(), 1):
      say(f'compiling {name} ({number} of {len(lower)})')
      futures[name] = pool.submit(trace().compile)
    while left := [n for n, future in futures.items() if not future.done()]:
      done, _ = wait(
        [futures[name] for name in left], _SILENCE_SECONDS, FIRST_COMPLETED
      )
      if not done:
        seconds = time.perf_counter() - start
        say(f'still compiling {", ".join(left)} ({seconds:.0f} s)')
  return {name: future.result() for name, future in futures.items()}
