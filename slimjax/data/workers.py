"""Worker processes that read batches, and what becomes of them.

They are started anew (spawned), and so import the script that is run once more:
one that trains whenever it is imported would start itself without end.
"""

from collections.abc import Callable
from collections.abc import Generator
import concurrent.futures
import errno
import gc
import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
from typing import Any
from typing import Protocol

from absl import flags
from absl import logging
import numpy as np

from slimjax import units

_RESTARTS = 3  # how often dead workers are replaced in one pass over batches
_IMPORTED = 97  # exit status of a worker that was about to start a run
_SHARED_MEMORY = '/dev/shm'
_NO_INTERRUPTS = (signal.SIG_BLOCK, {signal.SIGINT})


class Reader(Protocol):
  """Batches by number; see `slimjax.data.batches`."""

  def __len__(self) -> int: ...

  def __getitem__(self, number: int) -> dict[str, Any]: ...


def processors(root: pathlib.Path = pathlib.Path('/')) -> int:
  """Returns how many processors this process may use, at least one.

  It is bound to some of the machine's (affinity), and in a container to a share
  of their time (cgroups, of both versions).

  Args:
    root: folder in which the file system begins; default: /.
  """
  if hasattr(os, 'sched_getaffinity'):
    count = len(os.sched_getaffinity(0))
  else:
    count = os.cpu_count() or 1
  quotas = [math.ceil(quota) for quota in _quotas(root)]
  return max(1, min([count, *quotas]))


def _quotas(root: pathlib.Path) -> list[float]:
  """Returns the processors that each cgroup of this process leaves it."""
  groups = ['/']
  try:
    lines = (root / 'proc/self/cgroup').read_text().splitlines()
    groups += [line.split(':', 2)[2] for line in lines]
  except (OSError, IndexError):
    pass  # no cgroups
  found = []
  for group in {*groups}:
    for place in (pathlib.PurePath(group), *pathlib.PurePath(group).parents):
      below = str(place).lstrip('/')
      two = root / 'sys/fs/cgroup' / below / 'cpu.max'
      one = root / 'sys/fs/cgroup/cpu' / below
      for files in (
        (two,),
        (one / 'cpu.cfs_quota_us', one / 'cpu.cfs_period_us'),
      ):
        try:
          text = ' '.join(file.read_text() for file in files)
          quota, period = map(float, text.split())
        except (OSError, ValueError):  # 'max' is no limit
          continue
        if quota > 0 and period > 0:
          found.append(quota / period)
  return found


def refuse_import() -> None:
  """Ends this process if it is a worker that imports the script of its run."""
  if getattr(multiprocessing.current_process(), '_inheriting', False):
    os._exit(_IMPORTED)


def read_batches(
  reader: Reader, workers: int
) -> Generator[dict[str, Any], None, None]:
  """Yields batches in order, whichever process read them.

  Args:
    reader: batches by number.
    workers: number of worker processes; 0 reads here.

  Raises:
    RuntimeError: worker processes died, more than three times, or shared memory
      is full.
    SystemExit: the script that is run starts itself in its workers.
  """
  if not workers:
    for number in range(len(reader)):
      yield reader[number]
    return
  refuse_import()
  done, deaths = 0, 0
  while done < len(reader):
    # Ctrl-C is the main process's alone: all that grain starts, at whichever
    # batch, inherits this thread's mask, from before it has imported anything.
    # The process that Python starts to clean up would clear the mask.
    multiprocessing.resource_tracker.ensure_running()
    thread = concurrent.futures.ThreadPoolExecutor(
      1, initializer=signal.pthread_sigmask, initargs=_NO_INTERRUPTS
    )
    batches = thread.submit(_start, reader, done, workers).result()
    try:
      while batch := thread.submit(next, batches, None).result():
        # The arrays are copied out of the workers' shared memory.
        batch = {
          name: np.array(value) if isinstance(value, np.ndarray) else value
          for name, value in batch.items()
        }
        done += 1
        yield batch
    except (RuntimeError, OSError) as error:
      deaths += 1
      _explain(error)
      if 'terminated unexpectedly' not in str(error) or deaths > _RESTARTS:
        raise
      logging.error(
        'a worker process of the input pipeline died (%s); starting %d new'
        ' ones, death %d of at most %d',
        error,
        workers,
        deaths,
        _RESTARTS,
      )
    finally:
      batches.close()
      thread.shutdown(wait=False)
      # The last batches stay in cycles of grain's iterators. Their shared
      # memory would be reported as leaked when the process ends.
      del batches
      gc.collect()


def _start(reader: Reader, first: int, workers: int) -> Any:
  import grain  # imported here: slow to import, and only images need it

  if not flags.FLAGS.is_parsed():  # grain reads flags; notebooks parse none
    flags.FLAGS.mark_as_parsed()
  # Few batches wait in a worker: a batch of 256 images takes 40 MB.
  ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
  return iter(
    grain.MapDataset.source(reader)[first:]
    .to_iter_dataset(ahead)
    .mp_prefetch(
      grain.MultiprocessingOptions(
        num_workers=min(workers, len(reader) - first), per_worker_buffer_size=1
      ),
      worker_init_fn=_begin,
    )
  )


def _begin(worker: int, workers: int) -> None:
  """Lets a worker end when its parent ends: it would outlive a killed run."""
  del worker, workers
  parent = multiprocessing.parent_process()

  def watch():
    if parent is not None:
      parent.join()
      os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _explain(
  error: Exception,
  usage: Callable[[str], Any] = shutil.disk_usage,
) -> None:
  """Raises an error that says what to do, if it is known what happened."""
  match = re.search(
    r'terminated unexpectedly with exit code (-?\d+)', str(error)
  )
  code = int(match[1]) if match else None
  if code == _IMPORTED:
    script = getattr(sys.modules['__main__'], '__file__', 'the script')
    raise SystemExit(
      f'error: {script} trains whenever it is imported, and its worker'
      ' processes import it: put what it does under'
      " `if __name__ == '__main__':`, or set config.data.workers = 0"
    ) from None
  full = isinstance(error, OSError) and error.errno == errno.ENOSPC
  if code == -signal.SIGBUS or full:
    try:
      place = usage(_SHARED_MEMORY)
      size = f'{units.size(place.total)}, {units.size(place.free)} of it free'
    except OSError:
      size = 'of unknown size'
    raise RuntimeError(
      f'a worker process found no room in {_SHARED_MEMORY} ({size}), through'
      ' which it hands over batches. Make it larger (docker run --shm-size=2g;'
      ' in Kubernetes a volume of medium Memory), have fewer workers'
      ' (--config.data.workers=1), or none (0)'
    ) from error
