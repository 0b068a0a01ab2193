"""Runs whose checkpoints are damaged, and runs that are refused.

A run ends as it would have, with the same bits, whatever became of its last
checkpoint. What a kill does is shown in test_kills.
"""

import os
import random
import shutil
import tempfile
import time

import ends
import pytest
from tiny_net import get_config
from tiny_net import NAME
from tiny_net import STEPS

from slimjax import verify
from slimjax.analysis import compare
from slimjax.analysis.scoring import evaluate
from slimjax.train import train_and_evaluate
from slimjax.training import processes
from slimjax.training.log import METRICS
from slimjax.training.log import read_metrics
from slimjax.training.runs import load_run
from slimjax.training.verifying import verify_run

EPOCHS = 3


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
  *_, before, last = ends.saved(workdir)
  damage(workdir / 'checkpoints' / str(last))
  train_and_evaluate(_config(), workdir)
  output = capsys.readouterr().out
  assert f'the checkpoint of step {last} is damaged' in output
  assert f'it was renamed to damaged-{last}' in output
  assert f'resuming from the checkpoint of step {before}' in output
  assert (workdir / 'checkpoints' / f'damaged-{last}').is_dir()
  ends.assert_same_end(workdir, finished, last=EPOCHS * STEPS)


def test_what_is_lost_of_a_run_is_told(workdir, capsys):
  """Its configuration stands in every checkpoint, too."""
  assert {f.said for f in verify_run(workdir) if not f.whole} == set()
  run, *_ = load_run(workdir)
  for damage in (os.unlink, lambda path: os.truncate(path, 99)):
    damage(workdir / 'config.json')
    assert load_run(workdir)[0] == run
    said = capsys.readouterr().err
    assert f'{workdir}/config.json' in said
    assert f'taken from the checkpoint {EPOCHS * STEPS}' in said
    train_and_evaluate(_config(), workdir)
    assert 'taken from the checkpoint' in capsys.readouterr().out
    assert load_run(workdir)[0] == run
    assert capsys.readouterr().err == ''
  os.truncate(workdir / 'results.json', 9)
  with pytest.raises(ValueError, match=r'results.json is not .* \(.*line 3'):
    compare.read(workdir)
  os.unlink(workdir / 'config.json')
  with pytest.raises(ValueError, match='another configuration'):
    train_and_evaluate(_config(seed=5), workdir)
  with (workdir / METRICS).open('a') as file:
    file.write('\n')
  *_, last = ends.saved(workdir)
  _delete(workdir / 'checkpoints' / str(last))
  found = {f.name for f in verify_run(workdir) if not f.whole}
  parts = {'config.json', METRICS, 'results.json', f'checkpoints/{last}'}
  assert found == parts
  verify.main(['verify', str(workdir)])
  said = capsys.readouterr().out
  assert f'checkpoints/{last}: DAMAGED: state/' in said
  assert f'{len(parts)} parts are not whole' in said


def test_a_workdir_that_is_deleted_ends_the_run_with_an_error(tmp_path):
  """And no new one is made in its place, which would look like a run."""
  workdir = tmp_path / 'run'

  def delete(record):
    if record['split'] == 'validation' and workdir.exists():
      shutil.rmtree(workdir)

  with pytest.raises(OSError, match=f'{workdir}.*(deleted|unmounted)'):
    train_and_evaluate(_config(), workdir, on_metrics=delete)
  assert not (workdir / 'results.json').exists()


def test_a_deleted_checkpoint_is_not_missed_though_the_clock_jumps(
  finished, workdir, capsys, monkeypatch
):
  """The clock of the machine is set again and again, by a minute.

  By five, in the moment of a save, orbax gives up: it waits by that clock.
  """
  *_, before, last = ends.saved(workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(last))
  real, jump = time.time, random.Random(0)
  monkeypatch.setattr(time, 'time', lambda: real() + jump.choice([-60, 0, 60]))
  train_and_evaluate(_config(), workdir)
  output = capsys.readouterr().out
  assert f'resuming from the checkpoint of step {before}' in output
  ends.assert_same_end(workdir, finished, last=EPOCHS * STEPS)
  assert all(r['step_ms'] > 0 for r in read_metrics(workdir) if 'step_ms' in r)


def test_a_second_run_on_a_workdir_is_refused(workdir):
  """The first does not notice; a run that is killed leaves no lock."""
  shutil.rmtree(workdir / 'checkpoints')
  before = ends.files(workdir)
  says = f'another run is at work in {workdir}'
  with processes.exclusive(workdir), pytest.raises(ValueError, match=says):
    train_and_evaluate(_config(), workdir)
  assert ends.files(workdir) == before
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
  before = ends.files(workdir)
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
  assert ends.files(workdir) == before


def test_evaluate_scores_the_run_again(finished, tmp_path, capsys):
  before = ends.files(finished)
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
  assert ends.files(finished) == before

  run, model, variables, step = load_run(finished)
  assert (run.epochs, step, model.widths) == (EPOCHS, EPOCHS * STEPS, (0.25,))
  assert set(variables['norm']) == {'w025'}
  with pytest.raises(FileNotFoundError, match='holds no run'):
    load_run(tmp_path / 'nothing')
  (tmp_path / 'young').mkdir()
  shutil.copy(finished / 'config.json', tmp_path / 'young')
  with pytest.raises(FileNotFoundError, match='no whole checkpoint yet'):
    load_run(tmp_path / 'young')
