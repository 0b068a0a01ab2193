"""Runs that are killed, stopped or refused, in processes of their own.

Whatever happens to a run, the same command takes it to the end it would have
had: the same bits in the parameters, the same lines in metrics.jsonl.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from slimjax.training.checkpoint import Checkpoints
from slimjax.evaluate import load_run
from slimjax.training.log import METRICS
from slimjax.training.log import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS, STEPS = 3, 22  # per epoch
TIMING = ('images_per_second', 'step_ms', 'input_wait')
ARGUMENTS = (
  '--config=configs/digits.py',
  '--config.model.name=resnet14',  # the first to compile
  f'--config.epochs={EPOCHS}',
  '--config.eval_every_epochs=1',
  # Not a divisor of an epoch: sums of training metrics cross checkpoints.
  '--config.log_every_steps=8',
  '--config.schedule.warmup_epochs=0.5',
)
WIDTHS = '--config.model.widths=(0.25,)'


def _held(name, when):
  """Arguments of a python that runs a module and waits in a call, for a file.

  Args:
    name: of the function, below slimjax.
    when: expression of its arguments `a` and the number `n` of the call.
  """
  code = f"""
import itertools, pathlib, runpy, sys, time
from slimjax import evaluate, reporting
was, numbers = {name}, itertools.count(1)
def held(*a):
  n = next(numbers)
  if {when}:
    print('held', flush=True)
    workdir, = [x.split('=')[1] for x in sys.argv if x.startswith('--workdir=')]
    while not pathlib.Path(workdir + '.go').exists():
      time.sleep(0.01)
  return was(*a)
{name} = held
runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)
"""
  return '-c', code


def _environment():
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    # One device; quick to compile, and restarts do not compile.
    'XLA_FLAGS': '--xla_llvm_disable_expensive_passes=true',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'PYTHONUNBUFFERED': '1',
  }


def _start(
  workdir, *overrides, module='slimjax.train', shell=(), python=('-m',)
):
  """The process, and the file its output goes to."""
  arguments = [f'--workdir={workdir}', *overrides]
  if module == 'slimjax.train':
    # Given twice, a tuple would be joined.
    told = any(
      argument.startswith('--config.model.widths') for argument in overrides
    )
    arguments = [*ARGUMENTS, *(() if told else (WIDTHS,)), *arguments]
  output = workdir.with_name(f'{workdir.name}.{time.time_ns()}.txt')
  with output.open('w') as file:
    process = subprocess.Popen(
      [*shell, sys.executable, *python, module, *arguments],
      cwd=ROOT,
      env=_environment(),
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return process, output


def _held_in_step(step):
  return _held('reporting.Progress.step', f'a[1] == {step}')


def _is_held(output):
  return 'held\n' in output.read_text()


def _run(workdir, *overrides, **options):
  """Exit status and output of a process that ends on its own."""
  process, output = _start(workdir, *overrides, **options)
  return process.wait(timeout=300), output.read_text()


def _when(condition, process, output):
  """Waits for the moment, at which the process must still be running."""
  deadline = time.monotonic() + 300
  while not condition():
    assert process.poll() is None, output.read_text()
    assert time.monotonic() < deadline, output.read_text()
    time.sleep(0.002)


def _saved(workdir):
  """Steps of the whole checkpoints; a draft's name is no number."""
  folder = workdir / 'checkpoints'
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _state(workdir):
  """Every array of the last checkpoint, by path."""
  with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    step = checkpoints.latest
    state = checkpoints._manager.restore(step)['state']
  leaves, _ = jax.tree.flatten_with_path(state)
  arrays = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}
  return step, arrays


def _lines(workdir):
  return [
    {key: value for key, value in record.items() if key not in TIMING}
    for record in read_metrics(workdir)
  ]


def _assert_same_end(workdir, reference):
  step, arrays = _state(workdir)
  expected_step, expected = _state(reference)
  assert step == expected_step == EPOCHS * STEPS
  assert arrays.keys() == expected.keys()
  different = [
    name
    for name, array in expected.items()
    if array.tobytes() != arrays[name].tobytes()
  ]
  assert different == []
  assert _lines(workdir) == _lines(reference)
  results = (workdir / 'results.json').read_text()
  assert results == (reference / 'results.json').read_text()
  assert _saved(workdir) == _saved(reference)


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that nothing happened to."""
  workdir = tmp_path_factory.mktemp('reference') / 'run'
  status, output = _run(workdir)
  assert status == 0, output
  assert len(_lines(workdir)) == EPOCHS * STEPS // 8 + 1 + EPOCHS
  return workdir


def test_a_run_killed_again_and_again_ends_the_same(reference, tmp_path):
  workdir = tmp_path / 'run'
  drafts = lambda: [*(workdir / 'checkpoints').glob('*orbax-checkpoint-tmp*')]

  # In the first epoch: nothing is saved yet.
  process, output = _start(workdir, python=_held_in_step(10))
  _when(lambda: _is_held(output), process, output)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  assert _saved(workdir) == []

  # While the first checkpoint is written.
  process, output = _start(workdir)
  _when(drafts, process, output)
  process.kill()
  process.wait()
  assert 'going on' not in output.read_text()
  left = _saved(workdir)
  assert left == [] or not drafts()

  # In the middle of the second epoch: what was logged since is trained again.
  process, output = _start(workdir, python=_held_in_step(2 * STEPS - 4))
  _when(lambda: _is_held(output) and STEPS in _saved(workdir), process, output)
  process.kill()
  process.wait()
  assert ('going on' in output.read_text()) == bool(left)
  assert _saved(workdir) == [STEPS]
  assert STEPS < _lines(workdir)[-1]['step'] < 2 * STEPS

  # In an evaluation: the last, when its line of the training is written.
  process, output = _start(workdir, python=_held('evaluate._add', 'n == 2'))
  _when(lambda: _is_held(output), process, output)
  _when(lambda: 2 * STEPS in _saved(workdir), process, output)
  process.kill()
  process.wait()
  assert f'going on from the checkpoint of step {STEPS}' in output.read_text()
  last = _lines(workdir)[-1]
  assert (last['split'], last['step']) == ('train', EPOCHS * STEPS)
  assert _saved(workdir) == [STEPS, 2 * STEPS]
  # And the machine failed too, in the middle of a line.
  with (workdir / METRICS).open('a') as file:
    file.write('{"split": "tra')

  status, output = _run(workdir)
  assert status == 0, output
  assert f'going on from the checkpoint of step {2 * STEPS}' in output
  assert not drafts()
  _assert_same_end(workdir, reference)


def test_sigterm_saves_and_a_full_disk_loses_nothing(reference, tmp_path):
  workdir = tmp_path / 'run'

  # SIGTERM in the second epoch.
  process, output = _start(workdir, python=_held_in_step(2 * STEPS - 4))
  _when(lambda: _is_held(output), process, output)
  process.terminate()
  workdir.with_name('run.go').touch()
  assert process.wait(timeout=60) == 0, output.read_text()
  stopped = _saved(workdir)[-1]
  assert STEPS < stopped < 2 * STEPS
  assert f'SIGTERM: saved step {stopped}' in output.read_text()

  # Checkpoints do not fit any more, the small files do.
  before = _files(workdir / 'checkpoints')
  status, text = _run(
    workdir, shell=('sh', '-c', 'ulimit -f 400; exec "$@"', 'sh')
  )
  assert status not in (0, -signal.SIGXFSZ), text
  assert f'going on from the checkpoint of step {stopped}' in text
  error = text[text.rindex('SaveError: a checkpoint could not be saved') :]
  assert f'The last whole one is of step {stopped}. Make room' in error
  after = _files(workdir / 'checkpoints')
  assert {name: after.get(name) for name in before} == before

  status, text = _run(workdir)
  assert status == 0, text
  assert f'going on from the checkpoint of step {stopped}' in text
  _assert_same_end(workdir, reference)


def _truncate(folder):
  """The largest file of a checkpoint loses its second half."""
  path = max(
    (p for p in folder.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  os.truncate(path, path.stat().st_size // 2)


def _delete(folder):
  """The largest file of a checkpoint is gone."""
  path = max(
    (p for p in folder.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  path.unlink()


@pytest.mark.parametrize('damage', [_truncate, _delete])
def test_a_damaged_checkpoint_is_set_aside(reference, tmp_path, damage):
  """The run goes on from the one before, and ends the same."""
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  *_, before, last = _saved(workdir)
  damage(workdir / 'checkpoints' / str(last))
  status, output = _run(workdir)
  assert status == 0, output
  assert f'the checkpoint of step {last} is damaged' in output
  assert f'it was renamed to damaged-{last}' in output
  assert f'going on from the checkpoint of step {before}' in output
  assert (workdir / 'checkpoints' / f'damaged-{last}').is_dir()
  _assert_same_end(workdir, reference)


def test_a_deleted_checkpoint_is_not_missed(reference, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  *_, before, last = _saved(workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(last))
  status, output = _run(workdir)
  assert status == 0, output
  assert f'going on from the checkpoint of step {before}' in output
  _assert_same_end(workdir, reference)


def test_a_second_run_on_a_workdir_is_refused(reference, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  shutil.rmtree(workdir / 'checkpoints')
  process, output = _start(workdir)
  _when(lambda: 'the first step' in output.read_text(), process, output)
  process.send_signal(signal.SIGSTOP)  # it would be over too soon
  status, text = _run(workdir)
  assert status != 0
  assert f'another run is at work in {workdir}' in text
  process.send_signal(signal.SIGCONT)
  # The first does not notice; of a run that is killed no lock is left.
  _when(lambda: _saved(workdir), process, output)
  process.kill()
  process.wait()
  status, text = _run(workdir)
  assert status == 0, text
  assert 'going on' in text
  _assert_same_end(workdir, reference)


def test_a_workdir_that_can_not_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  status, output = _run(tmp_path / 'file')
  assert status != 0
  assert f'the workdir {tmp_path}/file can not be written' in output
  setpriv = shutil.which('setpriv')
  if os.getuid() == 0 and not setpriv:
    pytest.skip('root writes everywhere')
  folder = tmp_path / 'readonly'
  folder.mkdir()
  folder.chmod(0o555)
  # Root too is bound by the bits, without its capability.
  drop = '-dac_override,-dac_read_search'
  shell = (setpriv, '--bounding-set', drop) if os.getuid() == 0 else ()
  status, output = _run(folder, shell=shell)
  assert status != 0
  assert f'the workdir {folder} can not be written: ' in output
  assert 'Permission denied' in output
  assert list(folder.iterdir()) == []


# Time as a machine tells it whose clock is set again and again, by a minute.
# (By five, in the moment of a save, orbax gives up: it waits by that clock.)
JUMPING = """
import random, runpy, sys, time
real = time.time
time.time = lambda: real() + random.choice([-60, 0, 60])
runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)
"""


def test_a_clock_that_jumps_changes_nothing(reference, tmp_path):
  workdir = tmp_path / 'run'
  status, output = _run(workdir, python=('-c', JUMPING))
  assert status == 0, output
  _assert_same_end(workdir, reference)
  assert all(r['step_ms'] > 0 for r in read_metrics(workdir) if 'step_ms' in r)


def test_a_run_with_another_configuration_is_refused(reference, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  before = _files(workdir)
  status, output = _run(
    workdir,
    '--config.model.widths=(0.25, 0.5)',
    '--config.model.name=mobilenet_v1',
    '--config.optimizer.weight_decay=0.1',
    '--config.epochs=4',
  )
  assert status != 0
  assert 'config.model.widths: [0.25] before, [0.25, 0.5] now' in output
  assert 'config.model.name: resnet14 before, mobilenet_v1 now' in output
  assert 'config.optimizer.weight_decay: 0.0001 before, 0.1 now' in output
  assert 'config.epochs: 3 before, 4 now' in output
  assert 'config.seed' not in output
  assert _files(workdir) == before


def test_evaluate_scores_the_run_again(reference, tmp_path):
  (result,) = json.loads((reference / 'results.json').read_text())
  status, output = _run(
    reference, '--widths=0.25', '--batch_size=7', module='slimjax.evaluate'
  )
  assert status == 0, output
  assert f'step {EPOCHS * STEPS}: 360 examples' in ' '.join(output.split())
  (row,) = [line for line in output.splitlines() if '0.25' in line]
  assert f'{result["top1_error"]:.2f} %' in row
  assert f'{result["top5_error"]:.2f} %' in row

  # The same, and the errors, without a process each.
  run, model, variables, step = load_run(reference)
  assert (run.epochs, step, model.widths) == (EPOCHS, EPOCHS * STEPS, (0.25,))
  assert set(variables['norm']) == {'w025'}
  status, output = _run(reference, '--widths=0.3', module='slimjax.evaluate')
  assert status != 0
  assert 'width 0.3 is not one of (0.25,)' in output
  with pytest.raises(FileNotFoundError, match='holds no run'):
    load_run(tmp_path / 'nothing')
  (tmp_path / 'young').mkdir()
  shutil.copy(reference / 'config.json', tmp_path / 'young')
  with pytest.raises(FileNotFoundError, match='no whole checkpoint yet'):
    load_run(tmp_path / 'young')
