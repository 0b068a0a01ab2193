"""How many worker processes there are, and what is said when they fail."""

import collections
import errno
import os
import subprocess
import sys

from photos import write_folder
from places import ROOT
import pytest

from slimjax.data import workers

Usage = collections.namedtuple('Usage', 'total used free')


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """Writes a file system that says what a process may use."""
  monkeypatch.setattr(
    os, 'sched_getaffinity', lambda process: set(range(8)), raising=False
  )

  def write(**files):
    for name, text in files.items():
      path = tmp_path / name.replace('__', '/').replace('-', '.')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return tmp_path

  return write


def test_workers_are_as_many_as_the_process_may_use(machine):
  assert workers.processors(machine()) == 8
  # Version 2: the tightest of the group and those above it.
  group = {'proc__self__cgroup': '0::/pod/box\n'}
  root = machine(**group, **{'sys__fs__cgroup__pod__cpu-max': '350000 100000'})
  assert workers.processors(root) == 4
  root = machine(**{'sys__fs__cgroup__pod__box__cpu-max': 'max 100000\n'})
  assert workers.processors(root) == 4
  root = machine(**{'sys__fs__cgroup__pod__box__cpu-max': '50000 100000\n'})
  assert workers.processors(root) == 1


def test_workers_of_an_old_container(machine):
  """Version 1; the group has another path inside than outside."""
  root = machine(
    **{
      'proc__self__cgroup': '4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n',
      'sys__fs__cgroup__cpu__cpu-cfs_quota_us': '200000\n',
      'sys__fs__cgroup__cpu__cpu-cfs_period_us': '100000\n',
    }
  )
  assert workers.processors(root) == 2
  root = machine(**{'sys__fs__cgroup__cpu__cpu-cfs_quota_us': '-1\n'})
  assert workers.processors(root) == 8
  root = machine(**{'sys__fs__cgroup__cpu__cpu-cfs_quota_us': 'nonsense'})
  assert workers.processors(root) == 8


@pytest.mark.parametrize(
  'error',
  [
    RuntimeError(
      'Worker process was terminated unexpectedly with exit code -7. Search'
    ),
    OSError(errno.ENOSPC, 'No space left on device'),
  ],
)
def test_full_shared_memory_says_how_to_make_room(error):
  says = r'no room in /dev/shm \(67.1 MB, 1.05 MB of it free\).*--shm-size'
  with pytest.raises(RuntimeError, match=says) as raised:
    workers._explain(error, lambda place: Usage(64 << 20, 63 << 20, 1 << 20))
  assert 'config.data.workers=1' in str(raised.value)


def test_other_deaths_are_not_explained():
  for text in ('terminated unexpectedly with exit code -9.', 'another error'):
    workers._explain(RuntimeError(text))


SCRIPT = """
from slimjax.data import create_dataset
from slimjax.data.batches import Share

dataset = create_dataset(
  {'name': 'image_folder', 'data_dir': %r, 'image_size': 8, 'workers': 2}
)
for batch in dataset.train_batches(2, seed=0, steps=range(3), share=Share()):
  print('a batch', flush=True)
"""


def test_a_script_that_starts_itself_is_told_so_once(tmp_path):
  folder = write_folder(tmp_path / 'photos', train={'ant': 4, 'bee': 4})
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT % str(folder))
  done = subprocess.run(
    [sys.executable, str(script)],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 1
  assert done.stdout == ''
  assert done.stderr == (
    f'error: {script} trains whenever it is imported, and its worker processes'
    " import it: put what it does under `if __name__ == '__main__':`, or set"
    ' config.data.workers = 0\n'
  )
