"""Refuses a network in a process that was forked from the one it is in.

A fork copies memory, and one thread: those of XLA and of ONNX Runtime, which
would compute, are not there, and whoever waits for them waits for ever.
"""

import functools
import os


def check_process(home: int, what: str) -> None:
  """Raises RuntimeError in a process other than the one where something is.

  Args:
    home: id of the process where it was made.
    what: name of it in the error, such as 'the network'.
  """
  if os.getpid() != home:
    raise RuntimeError(
      f'{what} is in process {home}, and this one, {os.getpid()}, was forked'
      ' from it: the threads that compute were not copied. Load in each process'
      " that serves, after it started: multiprocessing.get_context('spawn') or"
      " 'forkserver'; gunicorn and uvicorn workers without --preload"
    )


@functools.cache
def first_process() -> int:
  """Returns the id of the process in which the first network was made.

  A fork has the answer of its parent.
  """
  return os.getpid()
