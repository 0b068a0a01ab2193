"""Lets several processes, on one machine or many, train as one.

What they call here together is a collective: every process must call it, in the
same order.
"""

from collections.abc import Callable
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any
from typing import TypeVar

from absl import flags
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

# A process that is silent for so long is lost, and the others stop.
HEARTBEAT_SECONDS = 60
_LAST_WORDS_SECONDS = 2.0
_TEXT_BYTES = 2048
T = TypeVar('T')


class OtherProcessError(RuntimeError):
  """Another process failed; this one cannot continue without it."""


def initialize(
  coordinator: str | None = None,
  process_count: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes; call it before anything else in jax.

  Without arguments they are found from the environment: Cloud TPU, SLURM, Open
  MPI, Kubernetes; if that names none, this process is alone.

  Args:
    coordinator: HOST:PORT of process 0, which every host can reach; default: as
      found.
    process_count: number of processes of all hosts together; default: as found.
    process_id: number of this process, from 0; default: as found.

  Raises:
    ValueError: only some of the arguments are given, or they are wrong.
  """
  given = (coordinator, process_count, process_id)
  if given == (None, None, None):
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
      if 'coordinator_address should be defined' not in str(error):
        raise
    return
  if coordinator is None or process_count is None or process_id is None:
    raise ValueError(
      '--coordinator, --process_count and --process_id must be given together,'
      f' got {coordinator}, {process_count} and {process_id}'
    )
  if ':' not in coordinator or not 0 <= process_id < process_count:
    raise ValueError(
      '--coordinator must be HOST:PORT and --process_id below --process_count,'
      f' got {coordinator}, {process_id} of {process_count}'
    )
  jax.distributed.initialize(
    coordinator,
    process_count,
    process_id,
    # Detection from SLURM's environment would leave one GPU to each process.
    cluster_detection_method='deactivate',
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )


def define_flags() -> None:
  """Defines the flags of `joined`."""
  flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of process 0. Default: found from the environment.',
  )
  flags.DEFINE_integer(
    'process_count', None, 'Number of processes of all hosts together.'
  )
  flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')


@contextlib.contextmanager
def joined():
  """Joins the processes that the flags name; all leave together.

  After an error this process ends soon: an orderly shutdown would wait for the
  others, which may be gone, and they would wait for this one.
  """
  values = flags.FLAGS
  initialize(values.coordinator, values.process_count, values.process_id)
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1:
      raise
    # The text is written at once: jax may end this process while it prints. The
    # pause lets the others print their errors: jax ends them when one is gone.
    text = ''.join(traceback.format_exception(error))
    sys.stderr.write(f'{text}process {jax.process_index()} stops\n')
    sys.stderr.flush()
    time.sleep(_LAST_WORDS_SECONDS)
    os._exit(1)
  if jax.process_count() > 1:
    jax.distributed.shutdown()


def is_primary() -> bool:
  """Returns whether this process writes and prints."""
  return jax.process_index() == 0


def together(function: Callable[[], T]) -> T:
  """Returns what the function returns, if it raises in no process.

  Raises:
    OtherProcessError: the function raised in other processes; the message is
      that of the first.
  """
  if jax.process_count() == 1:
    return function()
  result, raised, text = None, None, b''
  try:
    result = function()
  except Exception as error:
    raised = error
    text = f'{type(error).__name__}: {error}'.encode()[:_TEXT_BYTES]
  buffer = np.zeros(_TEXT_BYTES, np.uint8)
  buffer[: len(text)] = np.frombuffer(text, np.uint8)
  texts = multihost_utils.process_allgather(buffer)
  if raised is not None:
    raise raised
  for process, row in enumerate(texts):
    if row.any():
      said = bytes(row).rstrip(b'\0').decode(errors='replace')
      raise OtherProcessError(f'process {process} failed: {said}')
  return result  # type: ignore[return-value]


def gather(array: np.ndarray) -> np.ndarray:
  """Returns the arrays of all processes, stacked; a collective."""
  if jax.process_count() == 1:
    return array[None]
  return np.asarray(multihost_utils.process_allgather(array))


def run_ahead() -> int:
  """Returns how many programs may wait on the devices before one must be done.

  With two, the devices never wait for the host, and the host does not fill its
  memory with batches. On CPU, collectives between processes (gloo) can block
  each other when several are under way.
  """
  return 0 if jax.default_backend() == 'cpu' and jax.process_count() > 1 else 2


class Stop:
  """A context in which SIGTERM and Ctrl-C are remembered, not obeyed at once.

  SIGTERM to any process stops all. A second Ctrl-C ends this process.

  Attributes:
    reason: signal that asked, for messages.
  """

  def __enter__(self) -> 'Stop':
    self._asked = False
    self.reason = 'SIGTERM'
    self._old: dict[int, Any] = {}
    # Python calls handlers in the main thread alone.
    if threading.current_thread() is threading.main_thread():
      # A shell that starts it in the background lets it ignore Ctrl-C.
      if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        self._handle(signal.SIGINT, self._interrupt)
      # Among several processes jax's own service hears SIGTERM, and agrees with
      # the others on a step.
      if jax.process_count() == 1:
        self._handle(signal.SIGTERM, self._remember)
    return self

  def _handle(self, number: int, handler: Any) -> None:
    self._old[number] = signal.signal(number, handler)

  def _remember(self, *_: Any) -> None:
    self._asked = True

  def _interrupt(self, *_: Any) -> None:
    self.reason = 'Ctrl-C'
    # `print` cannot be used: this may have interrupted it.
    os.write(2, b'\nsaving after this step; Ctrl-C again ends at once\n')
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if jax.process_count() == 1:
      self._asked = True
    else:
      os.kill(os.getpid(), signal.SIGTERM)

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def after(self, step: int) -> bool:
    """Returns whether all processes stop after this step; asked after each."""
    if jax.process_count() == 1:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(step)


class Timer:
  """Says when it is time to save again, alike in all processes.

  A single process looks at its clock after every step. Several processes go by
  the clock of process 0, and ask for it every few steps.
  """

  def __init__(
    self,
    minutes: float,
    *,
    every_steps: int,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts to count.

    Args:
      minutes: time between saves; 0 asks for none.
      every_steps: steps after which several processes ask each other.
      clock: function that gives seconds; default: a monotonic clock.
    """
    self._seconds = 60.0 * minutes
    self._every_steps = every_steps
    self._clock = clock
    self._last = clock()

  def saved(self) -> None:
    """Starts to count again."""
    self._last = self._clock()

  def due(self, step: int) -> bool:
    """Returns whether to save after a step; a collective, asked after each."""
    if not self._seconds:
      return False
    if jax.process_count() > 1 and step % self._every_steps:
      return False
    own = self._clock() - self._last >= self._seconds
    return bool(gather(np.array([own], np.int32))[0, 0])


@contextlib.contextmanager
def exclusive(folder: epath.Path):
  """Keeps a second run out of a folder, inside the context.

  The lock is the kernel's (flock): nothing is left of it when a run is killed.
  Cloud storage has no locks and is not guarded.

  Raises:
    ValueError: another process holds it, or the folder cannot be written.
  """
  path = folder / 'lock'
  cloud = '://' in str(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    file = None if cloud else path.open('a')
  except OSError as error:
    raise ValueError(
      f'the workdir {folder} cannot be written: {error}. Take another'
      ' --workdir, or change its owner'
    ) from error
  if file is None:
    yield
    return
  with file:
    try:
      import fcntl

      fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(
        f'another run is at work in {folder} (it holds {path}); take another'
        ' --workdir, or wait until it has ended'
      ) from error
    except (OSError, ModuleNotFoundError, AttributeError):
      pass  # the file system, or the system, has no locks
    yield
