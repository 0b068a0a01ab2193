"""Checkpoints whose files are changed, lost or out of reach.

What is damaged is passed over, and told; what cannot be read now stops whoever
reads, and changes nothing.
"""

import errno
import os
import re
import shutil

import ends
from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax import digests
from slimjax import files
from slimjax.training import saved
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.checkpoint import SaveError

# Errors by step; the best is kept beside the last two.
ERRORS = {1: 1.0, 2: 3.0, 3: 2.0}


def _kernel(step):
  return np.random.default_rng(step).standard_normal((40, 8)).astype('float32')


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Returns a folder with three checkpoints."""
  folder = tmp_path_factory.mktemp('written') / 'checkpoints'
  with Checkpoints(folder) as checkpoints:
    for step, error in ERRORS.items():
      state = {'params': {'kernel': jnp.asarray(_kernel(step))}}
      checkpoints.save(step, state, {'config': {'seed': 3}}, error)
      checkpoints.wait()
  return folder


@pytest.fixture
def folder(written, tmp_path):
  """Returns a copy of it."""
  return shutil.copytree(written, tmp_path / 'run' / 'checkpoints')


def _read(folder, **options):
  """Returns the step that is read, and what is said; its bits must be right."""
  said = []
  variables, step = saved.read_variables(folder, said.append, **options)
  np.testing.assert_array_equal(variables['params']['kernel'], _kernel(step))
  return step, '\n'.join(said)


def _largest(path):
  """Returns the file of a checkpoint that holds the arrays."""
  found = (p for p in (path / 'state').rglob('*') if p.is_file())
  return max(found, key=lambda p: p.stat().st_size)


def _flip(path):
  data = bytearray(_largest(path).read_bytes())
  data[len(data) // 2] ^= 64
  _largest(path).write_bytes(data)


def _truncate(path):
  os.truncate(_largest(path), _largest(path).stat().st_size // 2)


def _exchange_files(path):
  mine, other = (_largest(p) for p in (path, path.parent / '2'))
  shutil.copy(other, mine)


def _exchange_steps(path):
  """Renames checkpoints, each of them whole, to each other's steps."""
  aside = path.with_name('aside')
  path.rename(aside)
  (path.parent / '2').rename(path)
  aside.rename(path.parent / '2')


def _empty_folder(path):
  shutil.rmtree(path)
  path.mkdir()


def _write(name, text):
  def change(path):
    (path / name).write_text(text)

  change.__name__ = f'write {name}'
  return change


def _delete(name):
  def change(path):
    (path / name).unlink()

  change.__name__ = f'delete {name}'
  return change


DAMAGES = [
  _flip,
  _truncate,
  _exchange_files,
  _exchange_steps,
  _empty_folder,
  _delete('position/metadata'),
  _delete('metrics/metrics'),
  _write('metrics/metrics', '{"error": NaN'),
  _write('state/array_metadatas/process_0', '[]'),
  _write('_CHECKPOINT_METADATA', '\0\0'),
  _write(digests.DIGESTS, '{"step": 3'),
  _write(digests.DIGESTS, '{"step": 3, "files": {"../../x": {}}}'),
]


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda d: d.__name__)
def test_what_is_damaged_is_passed_over_and_told(folder, damage):
  damage(folder / '3')
  before = ends.files(folder)
  damaged = {2, 3} if damage is _exchange_steps else {3}
  whole = sorted({1, 2, 3} - damaged)
  step, said = _read(folder)
  assert step == whole[-1]
  assert re.search(rf'step 3 is damaged \(.+\); using {step}', said)
  assert _read(folder, best=True)[0] == 1
  assert ends.files(folder) == before  # who only reads changes nothing
  lines = saved.set_damaged_aside(folder)
  assert len(lines) == len(damaged)
  assert 'renamed to damaged-3' in lines[-1]
  assert ends.saved(folder.parent) == whole
  with Checkpoints(folder) as checkpoints:
    assert (checkpoints.latest, checkpoints.best) == (whole[-1], 1)
  assert saved.set_damaged_aside(folder) == []


def test_the_best_that_is_damaged_is_passed_over(folder):
  assert _read(folder, best=True) == (1, '')
  _flip(folder / '1')
  step, said = _read(folder, best=True)
  assert step == 3
  assert 'step 1 is damaged' in said
  assert 'using 3' in said


def test_older_code_wrote_no_digests(folder):
  """What it wrote is read all the same, and damage found as far as it can."""
  for step in ERRORS:
    (folder / str(step) / digests.DIGESTS).unlink()
  step, said = _read(folder)
  assert step == 3
  assert said.startswith('not compared with digests')
  _truncate(folder / '3')
  (folder / '2' / 'position' / 'metadata').write_text('{')
  assert _read(folder)[0] == 1
  assert len(saved.set_damaged_aside(folder)) == 3  # of digests, and two


def test_none_is_whole(folder):
  """Nothing is renamed then: a run does not begin again by itself."""
  for step in ERRORS:
    _flip(folder / str(step))
  before = ends.files(folder)
  for read in (_read, saved.set_damaged_aside):
    with pytest.raises(
      digests.DamageError, match='is whole:\n  step .: state/'
    ):
      read(folder)
  assert ends.files(folder) == before
  for step in ERRORS:
    (folder / str(step)).rename(folder / f'damaged-{step}')
  with pytest.raises(digests.DamageError, match='set aside as damaged'):
    saved.set_damaged_aside(folder)


@pytest.mark.parametrize(
  'trouble, says',
  [
    (OSError(errno.EIO, os.strerror(errno.EIO)), 'Input/output error'),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), 'See who owns'),
    (MemoryError(), 'not enough memory'),
  ],
)
@pytest.mark.parametrize('old', [False, True])
def test_trouble_that_passes_is_no_damage(
  folder, monkeypatch, trouble, says, old
):
  if old:
    (folder / '3' / digests.DIGESTS).unlink()
  before = ends.files(folder)
  kind = type(epath.Path(folder))
  was, largest = kind.open, _largest(folder / '3')

  def fail(path, *rest, **options):
    if str(path) == str(largest):
      raise trouble
    return was(path, *rest, **options)

  with monkeypatch.context() as patch:
    patch.setattr(kind, 'open', fail)
    for read in (_read, saved.set_damaged_aside):
      with pytest.raises(files.ReadError, match=says) as error:
        read(folder)
      assert 'Nothing was changed' in str(error.value)
  assert ends.files(folder) == before
  assert _read(folder)[0] == 3


def test_a_save_whose_digests_cannot_be_written_is_no_checkpoint(
  tmp_path, monkeypatch
):
  """And what is safe and what to do is said, by the reason."""
  checkpoints = Checkpoints(tmp_path / 'checkpoints')
  state = {'params': {'kernel': _kernel(0)}}
  checkpoints.save(1, state, {}, None)
  assert checkpoints.wait() == 1
  full = OSError(errno.EACCES, os.strerror(errno.EACCES))

  def fail(*_, **__):
    raise full

  with monkeypatch.context() as patch:
    patch.setattr(digests, 'write', fail)
    checkpoints.save(2, state, {}, None)
    says = 'The last whole one is of step 1. See who owns'
    with pytest.raises(SaveError, match=says):
      checkpoints.wait()
  assert ends.saved(tmp_path) == [1]
