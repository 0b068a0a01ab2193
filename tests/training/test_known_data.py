"""A run knows its data, refuses others, and is served without them."""

import json
import shutil

import numpy as np
from photos import write_folder
import pytest
from tiny_net import get_config

import slimjax
from slimjax.analysis.figures import visualize_run
from slimjax.analysis.scoring import evaluate
from slimjax.data.record import read_record
from slimjax.data.record import RECORD
from slimjax.runtime.exporting import export_run
from slimjax.train import train_and_evaluate
from slimjax.training import processes
from slimjax.training.runs import load_published

SIZE, EXAMPLES, TEST = 16, 16, 7
STEPS = 2  # an epoch


def _config(folder, **overrides):
  data = {
    'name': 'image_folder',
    'data_dir': str(folder),
    'image_size': SIZE,
    'workers': 0,
  }
  small = {'model__widths': (0.125,), 'model__num_classes': 2, 'batch_size': 8}
  return get_config(data=data, **{**small, **overrides})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns a run on a folder, stopped in its second epoch; and the folder."""
  place = tmp_path_factory.mktemp('known')
  folder = write_folder(
    place / 'photos', train={'ant': 9, 'bee': 7}, val={'ant': 4, 'bee': 3}
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processes.Stop, 'after', lambda self, step: step == STEPS + 1)
    assert train_and_evaluate(_config(folder), place / 'run') is None
  return place / 'run', folder


@pytest.fixture
def run(trained, tmp_path):
  """Copies of both, that know each other."""
  workdir = shutil.copytree(trained[0], tmp_path / 'run')
  folder = shutil.copytree(trained[1], tmp_path / 'photos')
  _point(workdir, folder)
  return workdir, folder


def _point(workdir, folder):
  """Changes where a run's configuration says that its data lie."""
  config = json.loads((workdir / 'config.json').read_text())
  config['data']['data_dir'] = str(folder)
  (workdir / 'config.json').write_text(json.dumps(config))


def _files(folder):
  return {
    path: path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


def test_a_run_resumes_where_its_data_moved_to(run, tmp_path):
  workdir, folder = run
  record = json.loads((workdir / RECORD).read_text())
  assert record['class_names'] == ['ant', 'bee']
  assert record['examples'] == {'train': EXAMPLES, 'test': TEST}
  moved = shutil.move(folder, tmp_path / 'moved')
  (result,) = train_and_evaluate(_config(moved), workdir)
  assert result.examples == TEST
  assert json.loads((workdir / RECORD).read_text()) == record
  # The finished run reports again.
  assert train_and_evaluate(_config(moved), workdir) == [result]
  # And is scored, and shown, where its data are.
  (moved / 'val' / 'bee' / '000.jpg').unlink()
  for call in (
    lambda: train_and_evaluate(_config(moved), workdir),
    lambda: visualize_run(workdir, images=1),
  ):
    with pytest.raises(ValueError, match='examples of test: 7 before, 6 now'):
      call()


def test_other_data_are_refused_and_nothing_is_written(run):
  """A class that came is named, though the network says how many it has."""
  workdir, folder = run
  (folder / 'train' / 'ant' / '003.jpg').unlink()
  before = _files(workdir)
  with pytest.raises(ValueError, match='not those that the run in') as error:
    train_and_evaluate(_config(folder), workdir)
  assert str(error.value).splitlines()[1:-1] == [
    '  examples of train: 16 before, 15 now'
  ]
  for split in ('train', 'val'):
    (folder / split / 'bee').rename(folder / split / 'cow')
  with pytest.raises(ValueError, match=r'classes missing: bee \(2 classes'):
    train_and_evaluate(_config(folder), workdir)
  assert _files(workdir) == before


def test_the_classes_are_counted_if_nobody_says_how_many(run):
  """What was found is kept as if it had been said; so a new one is refused."""
  workdir, folder = run
  config = _config(folder, model__num_classes=None)
  assert (
    json.loads((workdir / 'config.json').read_text())['model']['num_classes']
    == 2
  )
  assert train_and_evaluate(config, workdir)
  write_folder(folder / 'more', train={'cow': 2}, val={'cow': 1})
  for split in ('train', 'val'):
    shutil.move(folder / 'more' / split / 'cow', folder / split / 'cow')
  shutil.rmtree(folder / 'more')
  with pytest.raises(ValueError, match='another configuration') as error:
    train_and_evaluate(config, workdir)
  lines = [line.strip() for line in str(error.value).splitlines()]
  assert lines[1:3] == [
    'config.model.num_classes: 2 before, 3 now',
    'classes added: cow (2 classes before, 3 now)',
  ]
  says = 'num_classes is 2, but image_folder has 3 classes: ant, bee, cow'
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(_config(folder), workdir)
  with pytest.raises(ValueError, match='num_classes is None: training finds'):
    load_published(config, 'file.npz')


def test_a_run_is_scored_where_its_data_are(run, capsys):
  workdir, folder = run
  _point(workdir, '/gone')
  with pytest.raises(ValueError, match='/gone is not a folder'):
    evaluate(workdir=workdir)
  (result,) = evaluate(workdir=workdir, data_dir=folder)
  assert result.examples == TEST
  assert 'other data' not in capsys.readouterr().out
  # There may be other examples: that is said. Other classes may not.
  (folder / 'val' / 'ant' / '000.jpg').unlink()
  (result,) = evaluate(workdir=workdir, data_dir=folder)
  assert result.examples == TEST - 1
  said = capsys.readouterr().out
  assert 'other data than the run: examples of test: 7 before, 6 now' in said
  for split in ('train', 'val'):
    (folder / split / 'bee').rename(folder / split / 'cow')
  with pytest.raises(ValueError, match='classes added: cow'):
    evaluate(workdir=workdir, data_dir=folder)


def test_a_run_is_exported_without_its_data(run, tmp_path):
  workdir, folder = run
  shutil.rmtree(folder)
  out = tmp_path / 'bundle'
  manifest = export_run(workdir, out, batch_size=11, platforms=('cpu',))
  assert manifest.class_names == ('ant', 'bee')
  assert manifest.validation['examples'] == TEST
  # Older code left no record; then the data are needed.
  (workdir / RECORD).unlink()
  with pytest.raises(ValueError, match='is not a folder'):
    export_run(workdir, tmp_path / 'other', platforms=('cpu',))


def test_a_run_of_older_code_gets_a_record_when_it_resumes(run):
  workdir, folder = run
  known = read_record(workdir)
  (workdir / RECORD).unlink()
  train_and_evaluate(_config(folder), workdir)
  assert (read_record(workdir).samples == known.samples).all()
  assert np.ptp(known.samples) > 50


def test_home_is_home_everywhere(run, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  _point(run[0], '~/photos')
  (result,) = train_and_evaluate(_config('~/photos'), '~/run')
  assert evaluate(workdir='~/run', data_dir='~/photos') == [result]
  export_run('~/run', '~/bundle', platforms=('cpu',))
  assert slimjax.load('~/bundle').class_names == ('ant', 'bee')
  assert slimjax.load('~/run').class_names == ('ant', 'bee')
  assert not (tmp_path / '~').exists()
  for call in (
    lambda: train_and_evaluate(_config('~/photos'), ''),
    lambda: evaluate(workdir=''),
    lambda: export_run('~/run', ''),
  ):
    with pytest.raises(ValueError, match='is empty; name a folder or a file'):
      call()
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    *('bundle', 'photos', 'run')
  ]
