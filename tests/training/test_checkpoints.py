"""The files of a run: checkpoints, and the lines of its metrics."""

from collections.abc import Mapping
import json
import re
import shutil
import struct

import jax.numpy as jnp
import pytest

from slimjax import files
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.log import MetricsWriter
from slimjax.training.log import read_metrics


def _record(step, loss=1.0):
  return {'split': 'train', 'step': step, 'width': 0.25, 'loss': loss}


def _points(workdir):
  """Returns (step, value) of the points that TensorBoard would show."""
  from tensorboardX.proto import event_pb2

  found = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[12 + length + 4 :]
      if event.HasField('session_log'):
        found = {k: v for k, v in found.items() if k < event.step}
      for value in event.summary.value:
        assert value.tag == 'train/loss/w025'
        found[event.step] = value.simple_value
  return found


def test_metrics_of_steps_to_be_trained_again_are_dropped(tmp_path):
  writer = MetricsWriter(tmp_path, first_step=0)
  writer.write([_record(step) for step in (1, 2, 3)])
  # It is killed: nothing is closed, and nothing of it is lost.
  assert _points(tmp_path) == {1: 1.0, 2: 1.0, 3: 1.0}
  path = tmp_path / 'metrics.jsonl'
  with path.open('a') as file:
    file.write('{"split": "train", "st')  # the machine failed here
  assert [r['step'] for r in read_metrics(tmp_path)] == [1, 2, 3]
  resumed = MetricsWriter(tmp_path, first_step=2)
  assert resumed.said == []
  assert _points(tmp_path) == {1: 1.0, 2: 1.0}
  resumed.write([_record(3, 2.0)])
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3]
  assert _points(tmp_path) == {1: 1.0, 2: 1.0, 3: 2.0}
  for each in (writer, resumed):
    each.close()
  # Somebody deleted the points; the lines still have them.
  shutil.rmtree(tmp_path / 'tensorboard')
  MetricsWriter(tmp_path, first_step=3).close()
  assert _points(tmp_path) == {1: 1.0, 2: 1.0, 3: 2.0}


def test_lines_that_cannot_be_read_are_told_and_kept_aside(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  note = {**_record(2), 'note': 'one\u2028two'}
  lines = [
    json.dumps(_record(1)),
    '',
    json.dumps(note, ensure_ascii=False),
    '\0' * 20,
    '[3]',
    json.dumps(_record(3)),
  ]
  content = '\n'.join(lines) + '\n'
  path.write_text(content)
  said = []
  assert read_metrics(tmp_path, said.append) == [_record(1), note, _record(3)]
  assert [re.sub(r'.*jsonl, ', '', line) for line in said] == [
    'line 2: empty, not JSON',
    rf'line 4: {chr(0) * 20!r}, not JSON',
    'line 5: not a record of metrics',
  ]
  writer = MetricsWriter(tmp_path, first_step=3)
  writer.close()
  assert writer.said == [
    *said,
    'metrics.jsonl as it was is kept in before-metrics.jsonl',
  ]
  assert (tmp_path / 'before-metrics.jsonl').read_text() == content
  assert read_metrics(tmp_path, pytest.fail) == [_record(1), note, _record(3)]
  # A run that begins at zero empties no file either.
  before = path.read_text()
  MetricsWriter(tmp_path, first_step=0).close()
  assert path.read_text() == ''
  assert (tmp_path / 'before-metrics.jsonl-2').read_text() == before


def test_a_disk_that_is_full_is_told_once(tmp_path, monkeypatch):
  with MetricsWriter(tmp_path, first_step=0) as writer:
    writer.write([_record(1)])
  writer = MetricsWriter(tmp_path, first_step=1)
  writer._file.close()
  writer._file = open('/dev/full', 'a')  # noqa: SIM115
  says = 'metrics.jsonl could not be written: No space left on device. What'
  with pytest.raises(files.WriteError, match=says) as error, writer:
    writer.write([_record(2)])
  assert 'Make room on the disk' in str(error.value)
  assert read_metrics(tmp_path) == [_record(1)]


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
