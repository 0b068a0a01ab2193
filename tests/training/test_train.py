"""A run in this process: what it writes, what it refuses, when it stops."""

import json
import math
import os
import pathlib
import shutil
import signal
import struct
import types

from compilations import Compilations
import ends
import jax
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event
from tiny_net import get_config
from tiny_net import NAME
from tiny_net import STEPS

from slimjax import runtime
from slimjax.data import digits
from slimjax.export import export_run
from slimjax.models import create_model
from slimjax.tasks import Classification
from slimjax.train import train_and_evaluate
from slimjax.training import evaluator
from slimjax.training import steps
from slimjax.training import update
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.evaluator import Evaluator
from slimjax.training.gradient import gradient_program
from slimjax.training.log import read_metrics
from slimjax.training.log import TrainLog
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.progress import Progress
from slimjax.training.runs import load_run
from slimjax.variables.profile import profile_model
from slimjax.widths import switch_name

WIDTHS = (0.125, 0.25)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a finished run: workdir, table, and what was seen of it.

  What was seen is every state it saved, copied at the moment it was handed
  over, the records that `on_metrics` got, and the counts of compiled programs.
  """
  workdir = tmp_path_factory.mktemp('train') / 'run'
  seen = types.SimpleNamespace(states={}, records=[], counts={})
  save = Checkpoints.save

  def copying_save(self, step, state, position, error):
    seen.states[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
    save(self, step, state, position, error)

  for programs in (
    steps._prepare_program,
    gradient_program,
    update.update_program,
    evaluator.make_eval_step,
  ):
    programs.cache_clear()  # as in a process that has just begun
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Checkpoints, 'save', copying_save)
    compilations = Compilations(
      patch, step=(TrainLog, 'add'), evaluation=(Evaluator, 'totals')
    )
    table = train_and_evaluate(
      get_config(), workdir, on_metrics=seen.records.append
    )
    compilations.close()
  seen.counts = compilations.counts
  return workdir, table, seen


@pytest.fixture(scope='module')
def stopped(run, tmp_path_factory):
  """Returns the workdir of the same run, which got SIGTERM in epoch two."""
  workdir = tmp_path_factory.mktemp('stopped') / 'run'
  step = Progress.step

  def interrupted(self, number):
    step(self, number)
    if number == STEPS + 5:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Progress, 'step', interrupted)
    assert train_and_evaluate(get_config(), workdir) is None
  return workdir


def test_metrics_are_one_object_per_width(run):
  workdir, _, seen = run
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert records == read_metrics(workdir) == seen.records
  evaluated = [r for r in records if r['split'] == 'validation']
  trained = [r for r in records if r['split'] == 'train']
  assert len(evaluated) + len(trained) == len(records)

  moments = [(r['step'], r['width']) for r in evaluated]
  assert sorted(moments) == [(s, w) for s in (22, 44) for w in WIDTHS]
  moments = [(r['step'], r['width']) for r in trained]
  logged = (8, 16, 24, 32, 40, 44)
  assert sorted(moments) == [(s, w) for s in logged for w in WIDTHS]
  common = {'split', 'step', 'epoch', 'width', 'loss', 'top1_error'}
  common |= {'top5_error'}
  for record in evaluated:
    assert record.keys() == common | {'examples'}
    assert record['examples'] == 360
  for record in trained:
    assert record.keys() == common | {
      'learning_rate',
      'gradient_norm',
      'images_per_second',
      'step_ms',
      'input_wait',
    }
    assert 0 <= record['input_wait'] <= 100
    assert record['gradient_norm'] > 0
    np.testing.assert_allclose(
      record['images_per_second'] * record['step_ms'], 64_000
    )
  for record in records:
    assert record['epoch'] == record['step'] / STEPS
    assert 0 <= record['top5_error'] <= record['top1_error'] <= 100
    assert math.isfinite(record['loss'])
  # It learns: the loss of ten classes at random is log 10.
  assert trained[-1]['loss'] < math.log(10) - 0.1


def _events(data):
  """Reads records: length, a checksum of that, event, its checksum."""
  while data:
    (length,) = struct.unpack('<Q', data[:8])
    yield Event.FromString(data[12 : 12 + length])
    data = data[16 + length :]


def test_tensorboard_has_the_same_numbers(run):
  workdir, _, _ = run
  (path,) = (workdir / 'tensorboard').iterdir()
  scalars = {
    (value.tag, event.step): value.simple_value
    for event in _events(path.read_bytes())
    for value in event.summary.value
  }
  records = read_metrics(workdir)
  for record in records:
    switch = switch_name(record['width'])
    for name in record.keys() - {'split', 'step', 'width'}:
      found = scalars.pop(
        (f'{record["split"]}/{name}/{switch}', record['step'])
      )
      np.testing.assert_allclose(found, record[name], rtol=1e-6)
  assert not scalars


def test_table_plot_and_results_are_the_last_metrics(run):
  workdir, table, _ = run
  last = {
    r['width']: r
    for r in read_metrics(workdir)
    if (r['split'], r['step']) == ('validation', 2 * STEPS)
  }
  results = json.loads((workdir / 'results.json').read_text())
  assert [row.width for row in table] == [r['width'] for r in results]
  assert [row.width for row in table] == [*WIDTHS]
  model = create_model(NAME, num_classes=10, widths=WIDTHS)
  for row, result in zip(table, results, strict=True):
    profile = profile_model(model, width=row.width, image_size=32)
    assert row.profile == profile
    assert result == {
      'width': row.width,
      'top1_error': last[row.width]['top1_error'],
      'top5_error': last[row.width]['top5_error'],
      'examples': 360,
      'macs': profile.macs,
      'params': profile.params,
    }
  plot = (workdir / 'error_vs_macs.png').read_bytes()
  assert plot.startswith(b'\x89PNG')
  assert len(plot) > 5000


def test_checkpoints_hold_the_state_as_it_was_when_saved(run):
  """Though the next step donated its buffers while they were written."""
  workdir, _, seen = run
  copies = seen.states
  assert sorted(copies) == [STEPS, 2 * STEPS]
  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    errors = {
      step: np.mean(
        [
          r['top1_error']
          for r in read_metrics(workdir)
          if (r['split'], r['step']) == ('validation', step)
        ]
      )
      for step in copies
    }
    assert checkpoints.latest == 2 * STEPS
    # Two evaluations may tie.
    assert errors[checkpoints.best] == min(errors.values())
    for step in {checkpoints.latest, checkpoints.best}:
      like = replicate(copies[step], data_mesh())
      state, position = checkpoints.restore(step, like)
      for found, copied in zip(
        jax.tree.leaves(state), jax.tree.leaves(copies[step]), strict=True
      ):
        assert np.asarray(found).tobytes() == copied.tobytes()
      # What was trained since the last line of the log.
      counts = {sums['top1'][1] for sums in position['window'].values()}
      assert counts == ({64 * (STEPS % 8)} if step == STEPS else set())


def test_a_finished_run_only_reports(run):
  workdir, table, _ = run
  before = (workdir / 'metrics.jsonl').read_bytes()
  (workdir / 'results.json').unlink()
  again = train_and_evaluate(get_config(), workdir)
  assert again == table
  assert (workdir / 'results.json').exists()
  assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_a_run_begins_with_weights_and_leaves_some_as_they_are(run, tmp_path):
  _, _, before, _ = load_run(run[0])
  frozen = lambda path, _: jax.tree_util.keystr(path).startswith(
    "['params']['stem']"
  )
  train_and_evaluate(
    get_config(epochs=1),
    tmp_path / 'run',
    initial=lambda model, drawn: before,
    last=optax.masked(
      optax.set_to_zero(),
      lambda updates: jax.tree_util.tree_map_with_path(frozen, updates),
    ),
  )
  _, _, after, _ = load_run(tmp_path / 'run')
  stem = lambda v: v['params']['stem']['conv']['kernel']
  np.testing.assert_array_equal(stem(after), stem(before))
  kernels = [v['params']['classifier']['kernel'] for v in (before, after)]
  moved = np.abs(kernels[1] - kernels[0])
  # Training began there: weights drawn anew would be unlike these.
  assert 0 < moved.mean() < 0.5 * np.abs(kernels[0]).mean()


@pytest.mark.parametrize('devices', [1, 4])
def test_any_batch_size_scores_every_example_once(run, devices):
  workdir, table, _ = run
  _, model, variables, _ = load_run(workdir)
  mesh = data_mesh(jax.devices()[:devices])
  for batch_size in (7, 360, 1000):
    evaluator = Evaluator(
      model,
      Classification(),
      mesh,
      digits.create(),
      widths=WIDTHS[:1],
      batch_size=batch_size,
    )
    (result,) = evaluator(replicate(variables, mesh)).values()
    assert result['examples'] == 360
    del result['loss']  # of another sum
    assert result == {**table[0].scores, 'examples': 360}


def test_nothing_compiles_after_the_first_step_and_evaluation(
  run, tmp_path, monkeypatch
):
  """A run of another seed compiles nothing at all; and it can be traced."""
  _, _, seen = run
  of_step, of_evaluation = seen.counts['step'], seen.counts['evaluation']
  before, after, *again = of_evaluation
  assert len(of_step) == 2 * 2 * STEPS
  assert 0 < of_step[0] == before  # all of the step before the first
  assert before < after  # the evaluation, the first time
  # The first save cuts the arrays for the devices to write; that is all.
  assert len({*again, *of_step[2 * STEPS :]}) == 1

  compilations = Compilations(monkeypatch, step=(TrainLog, 'add'))
  workdir = tmp_path / 'run'
  train_and_evaluate(get_config(seed=1), workdir, profile_steps=2)
  compilations.close()
  assert set(compilations.counts['step']) == {0}
  (trace,) = (workdir / 'profile').rglob('*.xplane.pb')
  assert trace.stat().st_size > 1000
  # No step is missing from the log for it.
  moments = [(r['split'], r['step'], r['width']) for r in read_metrics(workdir)]
  assert moments == [(r['split'], r['step'], r['width']) for r in seen.records]


# A network that is loaded compiles in threads: not before they are counted.


def test_a_run_becomes_a_bundle(run, tmp_path):
  workdir, table, _ = run
  manifest = export_run(workdir, tmp_path / 'bundle', platforms=('cpu',))
  assert manifest.validation == {
    'data': 'digits',
    'split': 'test',
    'examples': 360,
    'step': 2 * STEPS,
  }
  errors = {row.width: row.scores['top1_error'] for row in table}
  assert {e.width: e.error for e in manifest.widths} == errors
  net = runtime.load(tmp_path / 'bundle')
  test = digits.load('test')
  for width, error in errors.items():
    wrong = np.argmax(net(test['image'], width=width), axis=-1) != test['label']
    # A tie between two classes may fall either way.
    assert abs(100 * wrong.mean() - error) <= 100 * 1 / 360 + 1e-9


# Resuming.


def test_a_stopped_run_resumes_to_the_same_bits(
  run, stopped, tmp_path, monkeypatch, capsys
):
  reference, table, seen = run
  shutil.copytree(stopped, tmp_path / 'runs' / 'a')
  monkeypatch.chdir(tmp_path)
  workdir = pathlib.Path('runs/a')  # as in README's commands
  # Where and how it works is free to change.
  again = train_and_evaluate(get_config(eval_batch_size=100), workdir)
  said = capsys.readouterr().out
  assert f'resuming from the checkpoint of step {STEPS + 5}' in said
  assert 'changed' not in said
  assert [row.scores for row in again] == [row.scores for row in table]
  assert ends.saved(workdir)[-1] == 2 * STEPS
  variables = ends.variables(workdir, 2 * STEPS)
  expected = seen.states[2 * STEPS].variables
  assert jax.tree.structure(variables) == jax.tree.structure(expected)
  for found, array in zip(
    jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True
  ):
    assert np.asarray(found).tobytes() == array.tobytes()
  for one, other in zip(
    ends.lines(workdir), ends.lines(reference), strict=True
  ):
    if one['split'] == 'validation':  # in other batches
      assert one.pop('loss') == pytest.approx(other.pop('loss'), rel=1e-6)
    assert one == other


def test_some_values_may_change_when_a_run_resumes(
  run, stopped, tmp_path, capsys
):
  """A bound of the gradient too, which today's optimiser has no state for."""
  _, _, seen = run
  workdir = tmp_path / 'run'
  shutil.copytree(stopped, workdir)
  config = get_config(
    log_every_steps=5, eval_every_epochs=2, optimizer__clip_norm=1e-6
  )
  before = ends.lines(workdir)
  train_and_evaluate(config, workdir)
  said = [
    line
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('changed from here on: ')
  ]
  assert said == [
    'changed from here on: config.eval_every_epochs: 1 before, 2 now',
    'changed from here on: config.log_every_steps: 8 before, 5 now',
    'changed from here on: config.optimizer.clip_norm: None before, 1e-06 now',
  ]
  assert json.loads((workdir / 'config.json').read_text()) == json.loads(
    config.to_json()
  )
  lines = ends.lines(workdir)
  assert lines[: len(before)] == before
  assert {r['step'] for r in lines[len(before) :]} == {30, 35, 40, 44}
  # It is bounded from there on: only momentum and decay are left.
  pointwise = [
    ends.variables(workdir, step)['params']['unit2']['pointwise']
    for step in (STEPS + 5, 2 * STEPS)
  ]
  free = seen.states[2 * STEPS].variables['params']['unit2']['pointwise']
  stop, bounded, free = (x['conv']['kernel'] for x in (*pointwise, free))
  assert 0 < np.linalg.norm(bounded - stop) < np.linalg.norm(free - stop) / 2

  # And back: the same command as at first.
  train_and_evaluate(get_config(), workdir)
  said = capsys.readouterr().out
  assert 'config.optimizer.clip_norm: 1e-06 before, None now' in said
