"""Several processes that train as one, on this machine (gloo)."""

import json
import signal
import time

import ends
from held import is_held
import pytest
from several import started
from tiny_net import get_config
from tiny_net import NAME
from tiny_net import STEPS

from slimjax.train import train_and_evaluate
from slimjax.training.log import read_metrics
from slimjax.training.processes import initialize

EPOCHS = 3
# What `_config` has. Training at this rate is no chaos: one process and several
# can be compared.
ARGUMENTS = (
  '--config=digits',
  f'--config.model.name={NAME}',
  '--config.model.widths=(0.25,)',
  f'--config.epochs={EPOCHS}',
  '--config.schedule.warmup_epochs=0.5',
  '--config.schedule.peak_lr=0.0003',
  '--config.log_every_steps=1',
  '--config.eval_every_epochs=1',
)


def _config():
  return get_config(
    model__widths=(0.25,),
    epochs=EPOCHS,
    schedule__peak_lr=0.0003,
    log_every_steps=1,
  )


def _when(condition, processes, outputs):
  deadline = time.monotonic() + 240
  while not condition():
    texts = [output.read_text() for output in outputs]
    assert all(process.poll() is None for process in processes), texts
    assert time.monotonic() < deadline, texts
    time.sleep(0.01)


def _assert_same_run(workdir, reference):
  found, expected = read_metrics(workdir), read_metrics(reference)
  assert len(found) == len(expected) == EPOCHS * (STEPS + 1)
  for one, other in zip(found, expected, strict=True):
    assert (one['step'], one['split']) == (other['step'], other['split'])
    # Differences of rounding grow from step to step.
    rel = 1e-4 if one['step'] <= STEPS else 1e-3
    assert one['loss'] == pytest.approx(other['loss'], rel=rel)
    if one['split'] == 'validation':
      assert one['examples'] == other['examples'] == 360
  (one,) = json.loads((workdir / 'results.json').read_text())
  (other,) = json.loads((reference / 'results.json').read_text())
  assert one['examples'] == other['examples'] == 360


def test_processes_train_as_one_and_then_one_process_does(tmp_path, capsys):
  """A lost process stops the other; SIGTERM to one of them saves on all.

  Of four devices, then of two, then of four.
  """
  workdir = tmp_path / 'run'
  second, third = STEPS + 2, 2 * STEPS + 2  # steps in these epochs
  with started(workdir, 2, ARGUMENTS, devices=2, hold_last=second) as (
    processes,
    outputs,
  ):
    _when(lambda: is_held(outputs[1]), processes, outputs)
    _when(lambda: ends.saved(workdir), processes, outputs)
    processes[1].kill()
    states = [process.wait(timeout=240) for process in processes]
  assert states[1] == -signal.SIGKILL
  assert states[0] not in (0, -signal.SIGKILL)
  assert ends.saved(workdir) == [STEPS]

  with started(workdir, 2, ARGUMENTS, hold_last=third) as (processes, outputs):
    _when(lambda: is_held(outputs[1]), processes, outputs)
    processes[1].send_signal(signal.SIGTERM)
    workdir.with_name('run.go').touch()
    states = [process.wait(timeout=240) for process in processes]
    texts = [output.read_text() for output in outputs]
  assert states == [0, 0], texts
  assert f'resuming from the checkpoint of step {STEPS}' in texts[0]
  stopped = ends.saved(workdir)[-1]
  assert 2 * STEPS < stopped < EPOCHS * STEPS, texts
  assert f'SIGTERM: saved step {stopped}' in texts[0]
  # Process 0 speaks for all.
  assert f'validation step {2 * STEPS}' in texts[0]
  assert not any('validation' in text for text in texts[1:])

  # This process has four devices.
  train_and_evaluate(_config(), workdir)
  said = capsys.readouterr().out
  assert f'resuming from the checkpoint of step {stopped}' in said
  reference = tmp_path / 'reference'
  train_and_evaluate(_config(), reference)
  _assert_same_run(workdir, reference)


def test_what_is_wrong_on_one_host_stops_all(tmp_path):
  """The second sees another folder."""
  folders = [tmp_path / 'of_host_0', tmp_path / 'of_host_1']
  with started(folders, 2, ARGUMENTS) as (processes, outputs):
    states = [process.wait(timeout=240) for process in processes]
    texts = [output.read_text() for output in outputs]
  assert all(state != 0 for state in states), texts
  assert 'must be on storage that all hosts share' in texts[1]
  assert 'process 1 failed: ValueError' in texts[0]


@pytest.mark.parametrize(
  'given, says',
  [
    (('localhost:1', None, None), 'must be given together'),
    (('localhost', 2, 0), 'must be HOST:PORT'),
    (('host:1', 2, 2), 'below --process_count, got host:1, 2 of 2'),
  ],
)
def test_wrong_flags_are_refused(given, says):
  """Before jax is asked for anything."""
  with pytest.raises(ValueError, match=says):
    initialize(*given)
