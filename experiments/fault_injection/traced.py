"""Sees every call of Python that touches a file below a folder, and spoils one.

Python tells its audit hooks of each file that is opened, each folder that is
made or listed, each renaming and deletion, by whichever library. A hook that
raises makes the call fail. What libraries in C++ do by themselves is not seen.
"""

from collections.abc import Callable
import dataclasses
import errno
import os
import pathlib
import re
import signal
import sys
import threading

_EVENTS = {
  'open',
  'os.mkdir',
  'os.rename',
  'os.remove',
  'os.rmdir',
  'os.listdir',
  'os.scandir',
  'os.chmod',
  'os.truncate',
  'os.utime',
  'os.link',
  'os.symlink',
  'shutil.rmtree',
  'shutil.copyfile',
  'shutil.move',
}
_READING = ('os.listdir', 'os.scandir')
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
# Names that differ from run to run.
_VARIABLE = re.compile(
  r'[0-9a-f]{32}|tfevents.*|(?<=tmp-)[\w-]+|(?<=_pid_)\w+|\d{9,}'
)


@dataclasses.dataclass(frozen=True)
class Site:
  """A call, alike in each run of the same command.

  Attributes:
    event: name of Python's audit event.
    writes: whether it changes something.
    path: path below the folder, without what differs from run to run.
    number: how many such calls were made before.
  """

  event: str
  writes: bool
  path: str
  number: int


def watch(folder: pathlib.Path, see: Callable[[Site], None]) -> None:
  """Calls a function with every site from now on, in this process."""
  counts: dict[tuple[str, bool, str], int] = {}
  busy = threading.local()
  root = f'{os.path.realpath(folder)}{os.sep}'

  def hook(event: str, arguments: tuple) -> None:
    if event not in _EVENTS or getattr(busy, 'now', False):
      return
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
      return
    path = os.path.abspath(os.fsdecode(path))
    if not path.startswith(root):
      return
    busy.now = True
    try:
      writes = event not in _READING
      if event == 'open':
        writes = bool((arguments[2] or 0) & _WRITING)
      key = event, writes, _VARIABLE.sub('*', path[len(root) :])
      number = counts[key] = counts.get(key, 0) + 1
      see(Site(*key, number - 1))
    finally:
      busy.now = False

  sys.addaudithook(hook)


def spoil(folder: pathlib.Path, site: Site, fault: str) -> None:
  """Makes a call fail when it comes, and what would fail with it.

  Args:
    folder: folder of `watch`.
    site: the call.
    fault: 'full', from there on nothing can be written; 'denied', from there on
      this path cannot be used; 'memory', this call finds no memory; 'kill', the
      process is killed in it.
  """
  struck = False

  def see(now: Site) -> None:
    nonlocal struck
    first = not struck and now == site
    struck = struck or first
    if first and fault == 'kill':
      os.kill(os.getpid(), signal.SIGKILL)
    if first and fault == 'memory':
      raise MemoryError
    if struck and fault == 'full' and now.writes and not _frees(now):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if struck and fault == 'denied' and now.path == site.path:
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

  watch(folder, see)


def _frees(site: Site) -> bool:
  return site.event in ('os.remove', 'os.rmdir', 'shutil.rmtree')
