"""A run that was trained at two widths answers at others, too."""

import json
import shutil

import jax
import numpy as np
import programs
import pytest
import tiny_net

import slimjax
from slimjax import runtime
from slimjax.analysis import any_width
from slimjax.analysis.any_width import calibrate_missing
from slimjax.analysis.any_width import calibrate_run
from slimjax.analysis.scoring import evaluate
from slimjax.runtime.exporting import export_run
from slimjax.training.calibrated import FOLDER
from slimjax.training.calibrated import read_calibrated
from slimjax.training.calibrated import write_calibrated
from slimjax.training.loop import train_and_evaluate
from slimjax.training.runs import load_run
from slimjax.widths import label

WIDTHS = (0.2, 0.3125)
LISTED = (24, 40, 56)
WANTED = ('0.2', 0.3125, LISTED)


def config():
  return tiny_net.get_config(model__widths=(0.125, 0.5), epochs=1)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('any_width') / 'run'
  train_and_evaluate(config(), workdir)
  before = load_run(workdir)
  results = calibrate_run(workdir, WANTED, batch_size=256)
  return workdir, before, results


def test_they_are_scored_and_the_run_knows_them(run):
  workdir, (_, model, variables, _), results = run
  assert {result.width for result in results} == {*WIDTHS, LISTED}
  assert all(result.examples == 360 for result in results)
  scored = evaluate(workdir=workdir, widths=['0.2', 0.3125])
  assert [r.scores for r in scored] == [
    r.scores for r in results if r.width in WIDTHS
  ]
  _, known, found, _ = load_run(workdir)
  assert set(known.widths) == {*model.widths, *WIDTHS, LISTED}
  # The checkpoint is as it was.
  for name, tree in variables['batch_stats'].items():
    jax.tree.map(
      np.testing.assert_array_equal, tree, found['batch_stats'][name]
    )


def test_a_command_that_was_stopped_ends_with_the_same_bits(
  run, tmp_path, monkeypatch, capsys
):
  workdir, _, results = run
  again = tmp_path / 'run'
  shutil.copytree(workdir, again)
  (path,) = (again / FOLDER).glob('*.safetensors')
  step = int(path.stem)
  whole = read_calibrated(again, step)
  path.unlink()
  written = []

  def write_one(*arguments):
    if written:
      raise KeyboardInterrupt
    written.append(True)
    write_calibrated(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(any_width, '_TOGETHER', 1)
    patch.setattr(any_width, 'write_calibrated', write_one)
    with pytest.raises(KeyboardInterrupt):
      calibrate_run(again, WANTED, batch_size=256)
  assert len(load_run(again)[1].widths) == 3
  capsys.readouterr()
  assert calibrate_run(again, WANTED, batch_size=256) == results
  said = capsys.readouterr().out
  assert '1 widths are calibrated already\ncalibrating 2 widths' in said
  found = read_calibrated(again, step)
  assert found.about == whole.about
  jax.tree.map(np.testing.assert_array_equal, found.trees, whole.trees)
  # From other batches, a width is calibrated anew.
  calibrate_run(again, ['0.2'], batch_size=128)
  assert 'calibrating 1 widths' in capsys.readouterr().out
  found = read_calibrated(again, step)
  assert found.about['w020']['batch_size'] == 128


def test_programs_take_them_by_a_file_of_networks(run, tmp_path):
  workdir, _, _ = run
  nets = {'nets': [{'name': '80k', 'channels': LISTED}]}
  (tmp_path / 'nets.json').write_text(json.dumps(nets))
  widths = f'--widths=0.2,@{tmp_path / "nets.json"}:80k'
  for program, *options in (
    ('calibrate', '--batch_size=256'),
    ('evaluate',),
    ('evaluate', '--calibrate'),
  ):
    done = programs.call(
      f'slimjax.{program}', f'--workdir={workdir}', widths, *options
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert label(LISTED) in done.stdout
    assert 'calibrating' not in done.stdout


def test_they_are_exported_and_predict(run, tmp_path):
  workdir, _, results = run
  manifest = export_run(
    workdir, tmp_path / 'bundle', widths=['0.125', '0.2', LISTED]
  )
  assert [entry.width for entry in manifest.widths] == [0.125, 0.2, LISTED]
  errors = {result.width: result.scores['top1_error'] for result in results}
  assert manifest.entry(0.2).error == errors[0.2]
  image = np.zeros((1, 32, 32, 3), np.uint8)
  for source in (workdir, tmp_path / 'bundle'):
    predictor = slimjax.load(source)
    (guesses,) = predictor.predict(image, width=LISTED)
    assert len(guesses) == 5
  # A controller takes them as any width.
  table = runtime.load(tmp_path / 'bundle').benchmark(rounds=3)
  table.save(tmp_path / 'table.json')
  table = runtime.Table.load(tmp_path / 'table.json')
  assert {row.width for row in table.rows} == {0.125, 0.2, LISTED}
  assert runtime.Controller(table, budget_ms=1e6).pick() == LISTED


def test_those_that_are_missing_are_calibrated_on_the_way(run, capsys):
  workdir, _, _ = run
  calibrate_missing(workdir, [0.125, 0.2, 0.45])
  assert 'calibrating 1 widths' in capsys.readouterr().out
  assert {0.2, 0.45} < set(load_run(workdir)[1].widths)
  calibrate_missing(workdir, [0.45])
  assert not capsys.readouterr().out


@pytest.mark.parametrize(
  'widths, says',
  [
    ([], 'give some'),
    ([0.125], 'the run was trained at 0.125'),
    ([0.75], 'but the parameters have 32'),
  ],
)
def test_what_does_not_fit_is_refused(run, widths, says):
  with pytest.raises(ValueError, match=says):
    calibrate_run(run[0], widths)


def test_a_damaged_file_is_named(run):
  workdir, _, _ = run
  (path,) = (workdir / FOLDER).glob('*.safetensors')
  whole = path.read_bytes()
  for damaged in (whole[:-9], whole[:-9] + b'\0' * 9, b'', b'{}' * 20):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='is damaged; delete it'):
      load_run(workdir)
  path.write_bytes(whole)
  load_run(workdir)
