"""Runs that are killed, stopped, or out of disk, in processes of their own.

Whatever happens to a run, the same command takes it to the end it would have
had: the same bits in the parameters, the same lines in metrics.jsonl.
"""

import os
import signal
import subprocess
import sys
import time

import ends
from held import held
from held import held_in_step
from held import is_held
from places import ROOT
from tiny_net import NAME
from tiny_net import RUN_MODULE
from tiny_net import STEPS

from slimjax.training.log import METRICS

EPOCHS = 3
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


def _environment():
  return {
    **os.environ,
    # One device. What is compiled is better than in the rest of the suite: the
    # others read what the first has compiled, and all of them train.
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


def test_a_run_killed_stopped_and_out_of_disk_ends_the_same(tmp_path):
  workdir = tmp_path / 'run'
  drafts = lambda: [*(workdir / 'checkpoints').glob('*orbax-checkpoint-tmp*')]

  # Killed while the first checkpoint is written: the next steps do not wait.
  process, output = _start(workdir, python=held_in_step(STEPS + 2))
  _when(lambda: drafts() or ends.saved(workdir), process, output)
  process.kill()
  assert process.wait() == -signal.SIGKILL
  left = ends.saved(workdir)
  assert left == [] or not drafts()

  # SIGTERM in the second epoch.
  process, output = _start(workdir, python=held_in_step(2 * STEPS - 4))
  _when(lambda: is_held(output), process, output)
  process.terminate()
  workdir.with_name('run.go').touch()
  assert process.wait(timeout=300) == 0, output.read_text()
  assert ('resuming' in output.read_text()) == bool(left)
  stopped = ends.saved(workdir)[-1]
  assert STEPS < stopped < 2 * STEPS
  assert (
    f'SIGTERM: saved step {stopped}; the same command resumes'
    in output.read_text()
  )
  workdir.with_name('run.go').unlink()

  # Checkpoints do not fit any more, the small files do.
  before = ends.files(workdir / 'checkpoints')
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
  after = ends.files(workdir / 'checkpoints')
  assert {name: after.get(name) for name in before} == before

  # Killed in the last evaluation, when the last line of the training is
  # written: what was logged since the checkpoint is trained again.
  python = held('evaluator.Evaluator.totals', 'n == 2')
  process, output = _start(workdir, python=python)
  _when(lambda: is_held(output), process, output)
  _when(lambda: 2 * STEPS in ends.saved(workdir), process, output)
  process.kill()
  process.wait()
  assert f'resuming from the checkpoint of step {stopped}' in output.read_text()
  last = ends.lines(workdir)[-1]
  assert (last['split'], last['step']) == ('train', EPOCHS * STEPS)
  assert ends.saved(workdir)[-1] == 2 * STEPS
  # And the machine failed too, in the middle of a line.
  with (workdir / METRICS).open('a') as file:
    file.write('{"split": "tra')

  status, output = _run(workdir)
  assert status == 0, output
  assert f'resuming from the checkpoint of step {2 * STEPS}' in output
  assert not drafts()

  # A run to which nothing happened.
  reference = tmp_path / 'reference'
  status, output = _run(reference)
  assert status == 0, output
  assert len(ends.lines(reference)) == EPOCHS * STEPS // 8 + 1 + EPOCHS
  ends.assert_same_end(workdir, reference, last=EPOCHS * STEPS)
