"""Runs programs in forked children, each of them fresh and quick to start.

The parent imports everything and computes nothing, so that a child starts with
the modules at hand and with a jax that has no devices or threads yet.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import os
import pathlib
import runpy
import signal
import sys
import time
import traceback
from typing import Any
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

# What a program exports must not tell from where it was called here.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'

import matplotlib.pyplot  # noqa: F401
import orbax.checkpoint  # noqa: F401
import rich.console  # noqa: F401
import tensorboardX  # noqa: F401

from slimjax.analysis import any_width  # noqa: F401
from slimjax.analysis import figures  # noqa: F401
from slimjax.analysis import scoring  # noqa: F401
from slimjax.data import digits  # noqa: F401
from slimjax.runtime import exporting  # noqa: F401
from slimjax.runtime import opening  # noqa: F401
from slimjax.training import loop  # noqa: F401

# A script's own folder is on sys.path, where config.py's network is found.
HERE = pathlib.Path(__file__).resolve().parent
SECONDS = 240.0
_MOST_LINES = 15
_CLOSED = 'RuntimeError: Event loop is closed'


@dataclasses.dataclass(frozen=True)
class End:
  """How a child ended.

  Attributes:
    status: exit status, negative for a signal; None if it hung.
    text: its output.
  """

  status: int | None
  text: str

  @property
  def kind(self) -> str:
    """Returns done, sentence, noise, bare, killed, crashed or hung.

    Noise is a sentence behind a traceback that a thread of tensorstore prints,
    whose caller has given up.
    """
    if self.status is None:
      return 'hung'
    if self.status == -signal.SIGKILL:
      return 'killed'
    if self.status < 0:
      return 'crashed'
    if not self.status:
      return 'done'
    said = self.text.rpartition('error: ')[2]
    lines = len(said.strip().splitlines())
    # slimjax.verify prints what is not whole, and has no error beside.
    told = any(sign in self.text for sign in ('error: ', 'not whole'))
    if not told or lines > _MOST_LINES:
      return 'bare'
    ours = self.text.count('Traceback') - self.text.count(_CLOSED)
    return 'bare' if ours else 'noise' if _CLOSED in self.text else 'sentence'


def run(function: Callable[[], Any], output: pathlib.Path) -> End:
  """Runs a function in a child, and waits for its end."""
  output.parent.mkdir(parents=True, exist_ok=True)
  child = os.fork()
  if not child:
    _work(function, output)
  deadline = time.monotonic() + SECONDS
  while True:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      break
    if time.monotonic() > deadline:
      os.killpg(child, signal.SIGKILL)
      os.waitpid(child, 0)
      return End(None, output.read_text(errors='replace'))
    time.sleep(0.01)
  code = os.waitstatus_to_exitcode(status)
  return End(code, output.read_text(errors='replace'))


def _work(function: Callable[[], Any], output: pathlib.Path) -> None:
  """Is the child: runs the function, and never returns."""
  status = 1
  try:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = function() or 0
  except SystemExit as error:
    status = (
      error.code if isinstance(error.code, int) else int(bool(error.code))
    )
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(BaseException):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(status)


def program(
  name: str, *arguments: str, before: Callable[[], Any] = lambda: None
) -> Callable[[], None]:
  """Returns a function that is `python -m slimjax.NAME ARGUMENTS`.

  Args:
    name: name of the program.
    *arguments: its arguments.
    before: function that is called before; default: none. Calls that led to the
      program are in what it exports, so that they must not differ.
  """

  def call() -> None:
    warnings.simplefilter('ignore')
    before()
    sys.argv = [name, *arguments]
    runpy.run_module(f'slimjax.{name}', run_name='__main__', alter_sys=True)

  return call
