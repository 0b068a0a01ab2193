"""Signals, and checkpoints by the clock: of a clock that tests can set."""

import functools
import itertools
import os
import signal

import ends
import jax
import numpy as np
from photos import write_folder
import pytest
from tiny_net import get_config

from slimjax.train import train_and_evaluate
from slimjax.training import processes
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.progress import Progress
from slimjax.training.runs import load_run

STEPS = 3  # an epoch


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  folder = write_folder(
    tmp_path_factory.mktemp('photos'),
    train={'ant': 8, 'bee': 5},
    val={'ant': 2, 'bee': 1},
  )
  data = {
    'name': 'image_folder',
    'data_dir': str(folder),
    'image_size': 16,
    'workers': 0,
  }
  return get_config(
    data=data,
    model__widths=(0.125,),
    model__num_classes=2,
    batch_size=4,
    log_every_steps=2,
  )


@pytest.fixture(scope='module')
def undisturbed(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  train_and_evaluate(config, workdir)
  return workdir


def _assert_same_end(workdir, other):
  states = [load_run(folder)[2] for folder in (workdir, other)]
  jax.tree.map(np.testing.assert_array_equal, *states)
  assert ends.lines(workdir) == ends.lines(other)


@pytest.fixture
def saved(monkeypatch):
  """Returns the steps that are saved, in order."""
  steps, save = [], Checkpoints.save

  def spy(self, step, *rest):
    steps.append(step)
    save(self, step, *rest)

  monkeypatch.setattr(Checkpoints, 'save', spy)
  return steps


def test_a_long_epoch_is_saved_by_the_clock(
  config, undisturbed, saved, monkeypatch, tmp_path
):
  """And ends the same: when it is saved changes nothing."""
  ticks = itertools.count()  # a minute at each look
  timer = functools.partial(processes.Timer, clock=lambda: 60.0 * next(ticks))
  monkeypatch.setattr(processes, 'Timer', timer)
  for minutes, steps in ((1, [1, 2, 3, 4, 5, 6]), (2, [2, 3, 5, 6])):
    saved.clear()
    workdir = tmp_path / f'{minutes}'
    with config.unlocked():
      config.checkpoint_every_minutes = minutes
    train_and_evaluate(config, workdir)
    assert saved == steps
    _assert_same_end(workdir, undisturbed)
  # Another number of minutes is no other run.
  assert train_and_evaluate(config, tmp_path / '1')


def test_the_clock_of_process_0_decides_for_all(monkeypatch):
  """They ask each other at the same steps, whatever their own clocks say."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  asked = []

  def run(index, now, first):
    def gather(own):
      asked.append((index, own.tolist()))
      return np.stack([np.array([first], np.int32), own])

    monkeypatch.setattr(processes, 'gather', gather)
    timer = processes.Timer(1, every_steps=5, clock=lambda: now[0])
    now[0] += 61.0 * (index == 1)
    return [timer.due(step) for step in range(1, 11)]

  late = run(1, [0.0], first=0)
  assert late == [False] * 10
  assert asked == [(1, [1]), (1, [1])]
  early = run(0, [0.0], first=1)
  assert early == [False, False, False, False, True] * 2
  off = processes.Timer(0, every_steps=1)
  assert not any(off.due(step) for step in range(5))


def test_ctrl_c_saves_and_the_same_command_resumes(
  config, undisturbed, saved, monkeypatch, tmp_path, capfd
):
  was = Progress.step

  def interrupt(self, step):
    was(self, step)
    if step == STEPS + 1:
      os.kill(os.getpid(), signal.SIGINT)

  handler = signal.getsignal(signal.SIGINT)
  with monkeypatch.context() as patch:
    patch.setattr(Progress, 'step', interrupt)
    assert train_and_evaluate(config, tmp_path / 'run') is None
  assert saved == [STEPS, STEPS + 1]
  assert signal.getsignal(signal.SIGINT) is handler
  said = capfd.readouterr()
  assert f'Ctrl-C: saved step {STEPS + 1}; the same command' in said.out
  assert 'saving after this step; Ctrl-C again ends at once' in said.err
  train_and_evaluate(config, tmp_path / 'run')
  _assert_same_end(tmp_path / 'run', undisturbed)


def test_a_second_ctrl_c_kills(monkeypatch):
  with processes.Stop() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.after(1)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
  assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
  # In the background it is ignored, as the shell wants it.
  old = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with processes.Stop() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert not stop.after(1)
  finally:
    signal.signal(signal.SIGINT, old)
  # Among several processes it becomes the signal that all of them hear.
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  heard = []
  old = signal.signal(signal.SIGTERM, lambda *_: heard.append('SIGTERM'))
  try:
    with processes.Stop() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.reason == 'Ctrl-C'
  finally:
    signal.signal(signal.SIGTERM, old)
  assert heard == ['SIGTERM']
