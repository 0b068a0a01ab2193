"""Runs that are killed, stopped or refused.

Whatever happens to a run, the same command takes it to the end it would have
had: the same bits in the parameters, the same lines in metrics.jsonl. What a
kill, a signal or a full disk does is shown in processes of their own, the rest
in this one.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from places import ROOT
import pytest
from tiny_net import get_config
from tiny_net import NAME
from tiny_net import RUN_MODULE
from tiny_net import STEPS

from slimjax.analysis.scoring import evaluate
from slimjax.train import train_and_evaluate
from slimjax.training import processes
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.log import METRICS
from slimjax.training.log import read_metrics
from slimjax.training.runs import load_run

EPOCHS = 3
TIMING = ('images_per_second', 'step_ms', 'input_wait')
# As `get_config` has it, of one width.
ARGUMENTS = (
  '--config=digits',
  f'--config.model.name={NAME}',
  '--config.model.widths=(1.0,)',
  f'--config.epochs={EPOCHS}',
  '--config.eval_every_epochs=1',
  '--config.log_every_steps=8',
  '--config.schedule.warmup_epochs=0.5',
  '--config.schedule.peak_lr=0.1',
)


def _held(name, when):
  """Arguments of a python that runs a module and waits in a call, for a file.

  Args:
    name: name of the method, below slimjax.training.
    when: expression of its arguments `a` and the number `n` of the call.
  """
  code = f"""
import itertools, pathlib, sys, time
from slimjax.training import evaluator, progress
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
{RUN_MODULE}
"""
  return '-c', code


def _held_in_step(step):
  return _held('progress.Progress.step', f'a[1] == {step}')


def _environment():
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    # One device; quick to compile, and restarts do not compile.
    'XLA_FLAGS': '--xla_llvm_disable_expensive_passes=true',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'PYTHONPATH': str(ROOT / 'tests'),
    'PYTHONUNBUFFERED': '1',
  }


def _start(workdir, *, shell=(), python=('-c', RUN_MODULE)):
  """Returns the process, and the file its output goes to."""
  output = workdir.with_name(f'{workdir.name}.{time.time_ns()}.txt')
  with output.open('w') as file:
    process = subprocess.Popen(
      [
        *(*shell, sys.executable, *python, 'slimjax.train'),
        *(*ARGUMENTS, f'--workdir={workdir}'),
      ],
      cwd=ROOT,
      env=_environment(),
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return process, output


def _is_held(output):
  return 'held\n' in output.read_text()


def _run(workdir, **options):
  """Returns exit status and output of a process that ends on its own."""
  process, output = _start(workdir, **options)
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
  """Returns every array of the last checkpoint, by path."""
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


# In processes of their own.


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """Returns a run that nothing happened to."""
  workdir = tmp_path_factory.mktemp('reference') / 'run'
  status, output = _run(workdir)
  assert status == 0, output
  assert len(_lines(workdir)) == EPOCHS * STEPS // 8 + 1 + EPOCHS
  return workdir


def test_a_run_killed_again_and_again_ends_the_same(reference, tmp_path):
  workdir = tmp_path / 'run'
  drafts = lambda: [*(workdir / 'checkpoints').glob('*orbax-checkpoint-tmp*')]

  # While the first checkpoint is written.
  process, output = _start(workdir)
  _when(drafts, process, output)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  left = _saved(workdir)
  assert left == [] or not drafts()

  # In the middle of the second epoch: what was logged since is trained again.
  process, output = _start(workdir, python=_held_in_step(2 * STEPS - 4))
  _when(lambda: _is_held(output) and STEPS in _saved(workdir), process, output)
  process.kill()
  process.wait()
  assert ('resuming' in output.read_text()) == bool(left)
  assert _saved(workdir) == [STEPS]
  assert STEPS < _lines(workdir)[-1]['step'] < 2 * STEPS

  # In an evaluation: the last, when its line of the training is written.
  python = _held('evaluator.Evaluator.totals', 'n == 2')
  process, output = _start(workdir, python=python)
  _when(lambda: _is_held(output), process, output)
  _when(lambda: 2 * STEPS in _saved(workdir), process, output)
  process.kill()
  process.wait()
  assert f'resuming from the checkpoint of step {STEPS}' in output.read_text()
  last = _lines(workdir)[-1]
  assert (last['split'], last['step']) == ('train', EPOCHS * STEPS)
  assert _saved(workdir) == [STEPS, 2 * STEPS]
  # And the machine failed too, in the middle of a line.
  with (workdir / METRICS).open('a') as file:
    file.write('{"split": "tra')

  status, output = _run(workdir)
  assert status == 0, output
  assert f'resuming from the checkpoint of step {2 * STEPS}' in output
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
  assert (
    f'SIGTERM: saved step {stopped}; the same command resumes'
    in output.read_text()
  )

  # Checkpoints do not fit any more, the small files do.
  before = _files(workdir / 'checkpoints')
  status, text = _run(
    workdir, shell=('sh', '-c', 'ulimit -f 200; exec "$@"', 'sh')
  )
  assert status == 1, text
  assert f'resuming from the checkpoint of step {stopped}' in text
  error = text[text.rindex('error: a checkpoint could not be saved') :]
  assert 'File too large' in error
  assert f'The last whole one is of step {stopped}. Make room' in error
  assert len(error.splitlines()) <= 4
  assert 'orbax/' not in text  # what its threads raise is told once
  after = _files(workdir / 'checkpoints')
  assert {name: after.get(name) for name in before} == before

  status, text = _run(workdir)
  assert status == 0, text
  assert f'resuming from the checkpoint of step {stopped}' in text
  _assert_same_end(workdir, reference)


# In this process, whose programs are compiled once.


def _config(**overrides):
  return get_config(**{'epochs': EPOCHS, 'model__widths': (0.25,), **overrides})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """Returns such a run of this process."""
  workdir = tmp_path_factory.mktemp('finished') / 'run'
  train_and_evaluate(_config(), workdir)
  return workdir


@pytest.fixture
def workdir(finished, tmp_path):
  """Returns a copy of it."""
  return shutil.copytree(finished, tmp_path / 'run')


def _truncate(folder):
  """Cuts the second halves off the files of the arrays."""
  for path in (folder / 'state').rglob('d/*'):
    os.truncate(path, path.stat().st_size // 2)


def _delete(folder):
  """Deletes the files of the arrays."""
  for path in (folder / 'state').rglob('d/*'):
    path.unlink()


# The other arrays of a checkpoint that is given up are still being read.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('damage', [_truncate, _delete])
def test_a_damaged_checkpoint_is_set_aside(finished, workdir, capsys, damage):
  """The run resumes from the one before, and ends the same."""
  *_, before, last = _saved(workdir)
  damage(workdir / 'checkpoints' / str(last))
  train_and_evaluate(_config(), workdir)
  output = capsys.readouterr().out
  assert f'the checkpoint of step {last} is damaged' in output
  assert f'it was renamed to damaged-{last}' in output
  assert f'resuming from the checkpoint of step {before}' in output
  assert (workdir / 'checkpoints' / f'damaged-{last}').is_dir()
  _assert_same_end(workdir, finished)


def test_a_deleted_checkpoint_is_not_missed_though_the_clock_jumps(
  finished, workdir, capsys, monkeypatch
):
  """The clock of the machine is set again and again, by a minute.

  By five, in the moment of a save, orbax gives up: it waits by that clock.
  """
  *_, before, last = _saved(workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(last))
  real, jump = time.time, random.Random(0)
  monkeypatch.setattr(time, 'time', lambda: real() + jump.choice([-60, 0, 60]))
  train_and_evaluate(_config(), workdir)
  output = capsys.readouterr().out
  assert f'resuming from the checkpoint of step {before}' in output
  _assert_same_end(workdir, finished)
  assert all(r['step_ms'] > 0 for r in read_metrics(workdir) if 'step_ms' in r)


def test_a_second_run_on_a_workdir_is_refused(workdir):
  """The first does not notice; a run that is killed leaves no lock."""
  shutil.rmtree(workdir / 'checkpoints')
  before = _files(workdir)
  says = f'another run is at work in {workdir}'
  with processes.exclusive(workdir), pytest.raises(ValueError, match=says):
    train_and_evaluate(_config(), workdir)
  assert _files(workdir) == before
  with processes.exclusive(workdir):
    pass


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  says = f'the workdir {tmp_path}/file cannot be written'
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(_config(), tmp_path / 'file')
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o555)
    user = os.geteuid()
    if user == 0:
      os.seteuid(65534)  # root writes everywhere
    try:
      with pytest.raises(
        ValueError, match=f'the workdir {folder} .*Permission'
      ):
        train_and_evaluate(_config(), folder)
    finally:
      os.seteuid(user)
    assert os.listdir(folder) == []


def test_a_run_with_another_configuration_is_refused(workdir):
  before = _files(workdir)
  config = _config(
    model__widths=(0.25, 0.5),
    model__name='mobilenet_v1',
    optimizer__weight_decay=0.1,
    epochs=4,
  )
  with pytest.raises(ValueError, match='another configuration') as error:
    train_and_evaluate(config, workdir)
  lines = [line.strip() for line in str(error.value).splitlines()]
  assert lines[1:-2] == [
    'config.epochs: 3 before, 4 now',
    f'config.model.name: {NAME} before, mobilenet_v1 now',
    'config.model.widths: [0.25] before, [0.25, 0.5] now',
    'config.optimizer.weight_decay: 0.0001 before, 0.1 now',
  ]
  assert _files(workdir) == before


def test_evaluate_scores_the_run_again(finished, tmp_path, capsys):
  before = _files(finished)
  last = read_metrics(finished)[-1]
  (result,) = evaluate(workdir=finished, widths=['0.25'], batch_size=7)
  output = capsys.readouterr().out
  assert f'step {EPOCHS * STEPS}: 360 examples' in ' '.join(output.split())
  (row,) = [
    line for line in output.splitlines() if '0.25 ' in line and '%' in line
  ]
  for name in ('top1_error', 'top5_error'):
    assert result.scores[name] == last[name]
    assert f'{last[name]:.2f} %' in row
  with pytest.raises(ValueError, match=r'width 0.3 is not one of \(0.25,\)'):
    evaluate(workdir=finished, widths=['0.3'])
  assert _files(finished) == before

  run, model, variables, step = load_run(finished)
  assert (run.epochs, step, model.widths) == (EPOCHS, EPOCHS * STEPS, (0.25,))
  assert set(variables['norm']) == {'w025'}
  with pytest.raises(FileNotFoundError, match='holds no run'):
    load_run(tmp_path / 'nothing')
  (tmp_path / 'young').mkdir()
  shutil.copy(finished / 'config.json', tmp_path / 'young')
  with pytest.raises(FileNotFoundError, match='no whole checkpoint yet'):
    load_run(tmp_path / 'young')
