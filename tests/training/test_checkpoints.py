"""The files of a run: checkpoints, and the lines of its metrics."""

from collections.abc import Mapping
import json

import jax.numpy as jnp

from slimjax.training.checkpoint import Checkpoints
from slimjax.training.log import MetricsWriter
from slimjax.training.log import read_metrics


def test_metrics_of_steps_to_be_trained_again_are_dropped(tmp_path):
  record = lambda step: {
    'split': 'train',
    'step': step,
    'width': 0.25,
    'loss': 1.0,
  }
  writer = MetricsWriter(tmp_path, first_step=0)
  writer.write([record(step) for step in (1, 2, 3)])
  writer.close()
  path = tmp_path / 'metrics.jsonl'
  with path.open('a') as file:
    file.write('{"split": "train", "st')  # the machine failed here
  assert [r['step'] for r in read_metrics(tmp_path)] == [1, 2, 3]
  writer = MetricsWriter(tmp_path, first_step=2)
  writer.write([record(3)])
  writer.close()
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3]


def test_a_save_does_not_follow_what_its_caller_changes_later(tmp_path):
  sums = {'w025': {'loss': (1.0, 8.0)}}
  position: Mapping = {'window': {'sums': sums}}
  state = {'x': jnp.arange(4.0)}
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    for step in range(1, 6):
      sums['w025']['loss'] = (float(step), 8.0)
      checkpoints.save(step, state, position, 10.0 - step)
      sums['w025']['loss'] = (-1.0, -1.0)
      checkpoints.wait()
      _, saved = checkpoints.restore(step, state)
      assert saved['window']['sums']['w025']['loss'] == [step, 8.0]


def test_the_last_two_and_the_best_are_kept(tmp_path):
  state = {'x': jnp.arange(4.0)}
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    assert (checkpoints.latest, checkpoints.best) == (None, None)
    errors = {1: 5.0, 2: 3.0, 3: 4.0, 4: None, 5: 6.0}
    for step, error in errors.items():
      checkpoints.save(step, state, {'step': step}, error)
    checkpoints.wait()
    assert (checkpoints.latest, checkpoints.best) == (5, 2)
  kept = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == ['2', '4', '5']
