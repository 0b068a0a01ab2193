"""The experiments on the paper's claims, for a moment each."""

import importlib
import importlib.util
import json
import statistics
import sys
import zlib

from idx_sets import write_set
import jax
import numpy as np
from places import ROOT
import pytest
from scipy import stats
from tiny_net import NAME

from slimjax import configuration
from slimjax import files
from slimjax.evaluate import load_run
from slimjax.training import setup
from slimjax.training.mesh import data_mesh

FOLDER = ROOT / 'experiments'
# These train; the others only differ in what their configurations say.
TRAINED = ('incremental_training', 'shared_affine')
IMAGINED = (
  'slimmable_vs_individual',
  'eight_widths',
  'naive_training',
  'private_tail',
  'inplace_distillation',
)
WIDTHS = ('0.03125', '0.0625')


def load(name, path):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


sys.path.insert(0, str(FOLDER))
evidence = importlib.import_module('evidence')
runs = importlib.import_module('evidence.experiment')


def run(name, workdir):
  script = load(f'evidence_{name}', FOLDER / name / 'measure.py')
  data = f'--data_dir={photographs(workdir)}'
  script.main(['--quick', f'--workdir={workdir}', data])
  return json.loads((workdir / name / 'result.json').read_text())


def photographs(workdir):
  """Returns a folder with a small set of IDX files."""
  folder = workdir / 'idx'
  return folder if folder.exists() else write_set(folder, copies=5)


def imagine(config, workdir, **hooks):
  """Builds all that a run needs, and writes what it would have written."""
  run = configuration.parse(config)
  model = setup.set_up(run, hooks.get('last')).model
  random = np.random.default_rng(zlib.crc32(workdir.name.encode()))
  results, records = [], []
  for width in model.ordered_widths:
    error = random.uniform(5, 50)
    results.append({'width': width, 'top1_error': error})
    records += [
      {
        'width': width,
        'step': 1,
        'epoch': 1.0,
        'top1_error': error,
        'split': split,
      }
      for split in ('train', 'validation')
    ]
  configuration.write(config, workdir / 'config.json')
  files.write_json(workdir / 'results.json', results)
  lines = [json.dumps(record) + '\n' for record in records]
  (workdir / 'metrics.jsonl').write_text(''.join(lines))
  (workdir / 'checkpoints').mkdir()
  return results


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Returns the folder of the scripts that train, which share runs."""
  return tmp_path_factory.mktemp('evidence')


@pytest.fixture(scope='module')
def imagined(tmp_path_factory):
  """Returns the folder of the other scripts."""
  return tmp_path_factory.mktemp('imagined')


@pytest.fixture(autouse=True)
def quick_to_compile(monkeypatch):
  """Trains a tiny network on one of the test suite's four devices."""
  mesh = data_mesh(jax.devices()[:1])
  monkeypatch.setattr(setup, 'data_mesh', lambda: mesh)
  monkeypatch.setattr(runs, 'QUICK_MODEL', NAME)


def assert_result(result, name, workdir, said):
  errors = result['errors']
  if name == 'slimmable_vs_individual':
    errors = errors[NAME]
  assert len(errors) >= 2
  # A seed's error in each; a width that is grown is not thin.
  for variant, by_width in errors.items():
    if variant not in ('incremental', 'before it was widened'):
      assert set(by_width) >= set(WIDTHS)
    for values in by_width.values():
      assert len(values) == 2
      assert all(0 < value < 100 for value in values)
  assert list((workdir / name).glob('*.png'))
  assert '| width |' in said


@pytest.mark.parametrize('name', TRAINED)
def test_a_script_makes_its_result(name, workdir, capsys):
  result = run(name, workdir)
  assert_result(result, name, workdir, capsys.readouterr().out)
  if name != 'shared_affine':  # one will do
    return

  def written():
    return {p: p.stat().st_mtime_ns for p in workdir.glob('*_seed*/*')}

  before = written()
  assert run(name, workdir)['errors'] == result['errors']
  assert written() == before  # nothing is trained twice


@pytest.mark.parametrize('name', IMAGINED)
def test_a_script_tells_what_its_runs_gave(name, imagined, capsys, monkeypatch):
  """Without training: that its configurations can be built is seen."""
  monkeypatch.setattr(runs, 'train_and_evaluate', imagine)
  result = run(name, imagined)
  assert_result(result, name, imagined, capsys.readouterr().out)


def test_rates_are_compared_on_held_out_images(tmp_path, capsys, monkeypatch):
  tested = []

  def imagine_held_out(config, workdir, **hooks):
    tested.append(config.data.test_split)
    return imagine(config, workdir, **hooks)

  monkeypatch.setattr(runs, 'train_and_evaluate', imagine_held_out)
  script = load('evidence_rates', FOLDER / 'learning_rate' / 'measure.py')
  folder = photographs(tmp_path)
  # The test images are not read.
  (folder / 't10k-images-idx3-ubyte.gz').unlink()
  script.main(
    ['--quick', '--seeds=1', f'--workdir={tmp_path}', f'--data_dir={folder}']
  )
  assert set(tested) == {'held_out'}
  result = json.loads((tmp_path / 'learning_rate' / 'result.json').read_text())
  assert {(r['widths'], r['rate']) for r in result['held_out']} == {
    (count, rate) for count in (1, 2) for rate in (0.05, 0.1)
  }
  said = capsys.readouterr().out
  assert '| network | widths | 0.05 | 0.1 |' in said
  assert f'| {NAME} | 1 | ' in said


def test_of_one_seed_no_spread_is_said():
  before, after = {'0.25': [10.0], '1.0': [5.0]}, {'0.25': [9.0], '1.0': [5.5]}
  compared = evidence.compare(before, after)
  expected = {'difference': -1.0, 'standard_error': None, 'p': None}
  assert compared['0.25'] == expected
  said = evidence.table('a', before, 'b', after)
  assert '| 0.25 | 10.00 | 9.00 | -1.00 | one seed |' in said


def test_widening_leaves_the_thin_network_as_it_was(workdir):
  run('incremental_training', workdir)
  thin, wide = WIDTHS
  _, _, base, _ = load_run(workdir / f'{NAME}_alone_{thin}_seed0')
  _, model, grown, _ = load_run(workdir / f'{NAME}_grown_{thin}_{wide}_seed0')
  small = base['params']['unit2']['pointwise']['conv']['kernel']
  large = grown['params']['unit2']['pointwise']['conv']['kernel']
  assert large.shape > small.shape
  block = tuple(slice(0, n) for n in small.shape)
  np.testing.assert_array_equal(large[block], small)
  rest = np.ones(large.shape, bool)
  rest[block] = False
  fresh = load_run(workdir / f'{NAME}_alone_{wide}_seed0')[2]
  fresh = fresh['params']['unit2']['pointwise']['conv']['kernel']
  # Drawn alike, and trained apart.
  assert np.corrcoef(large[rest], fresh[rest])[0, 1] > 0.5
  assert not np.array_equal(large[rest], fresh[rest])
  assert model.widths == (float(wide),)


def test_differences_are_paired_by_seed():
  before = {'0.25': [10.0, 12.0, 14.0], '1.0': [5.0, 5.0, 5.0]}
  after = {'0.25': [9.0, 11.5, 12.0], '1.0': [5.0, 5.0, 5.0]}
  compared = evidence.compare(before, after)
  expected = stats.ttest_rel(after['0.25'], before['0.25'])
  row = compared['0.25']
  assert row['difference'] == pytest.approx(-3.5 / 3)
  assert row['p'] == pytest.approx(expected.pvalue)
  deviation = statistics.stdev([-1.0, -0.5, -2.0])
  assert row['standard_error'] == pytest.approx(deviation / 3**0.5)
  assert compared['1.0'] == {'difference': 0, 'standard_error': 0, 'p': 1}
  # The means of each seed over both widths are -0.5, -0.25, -1.
  assert compared['mean']['difference'] == pytest.approx(-1.75 / 3)
  expected = stats.ttest_1samp([-0.5, -0.25, -1.0], 0.0)
  assert compared['mean']['p'] == pytest.approx(expected.pvalue)
  assert '-1.17 ± 0.44' in evidence.table('a', before, 'b', after)


def test_a_run_of_another_configuration_is_refused(workdir):
  experiment = evidence.Experiment.parse(
    str(FOLDER / 'shared_affine' / 'measure.py'),
    ['--quick', f'--workdir={workdir}', f'--data_dir={photographs(workdir)}'],
  )
  run('shared_affine', workdir)
  config = experiment.get(0)
  config.batch_size = 16
  with pytest.raises(ValueError, match='config.batch_size: 32 before, 16 now'):
    experiment.train(f'{NAME}_slimmable', config)


def test_quick_results_do_not_replace_those_of_the_folder():
  script = str(FOLDER / 'shared_affine' / 'measure.py')
  parse = evidence.Experiment.parse
  assert parse(script, []).out == FOLDER / 'shared_affine'
  assert parse(script, ['--quick']).out != FOLDER / 'shared_affine'
  published = parse(script, ['--config=configs/mobilenet_v1.py'])
  assert published.out != FOLDER / 'shared_affine'
  assert published.get(3).seed == 3
  assert parse(script, []).get(3).data.split_seed == 3
