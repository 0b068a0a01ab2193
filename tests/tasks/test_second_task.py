"""Another task than classification, through the same loop and programs."""

import json

import ends
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import strokes

import slimjax
from slimjax import runtime
from slimjax.analysis import compare
from slimjax.analysis.figures import visualize_run
from slimjax.analysis.scoring import evaluate
from slimjax.configs import digits as digits_config
from slimjax.runtime import answers
from slimjax.runtime.exporting import export_run
from slimjax.training import processes
from slimjax.training import setup
from slimjax.training.log import read_metrics
from slimjax.training.loop import train_and_evaluate
from slimjax.training.mesh import data_mesh
from slimjax.training.runs import load_run

WIDTHS = (0.5, 1.0)
STEPS = 10  # an epoch of 32 digits


def config():
  config = digits_config.get_config()
  with config.unlocked():
    config.epochs = 2
    config.batch_size = 32
    config.eval_every_epochs = 1
    config.log_every_steps = 4
    config.model = {
      'name': 'strokes:InkNet',
      'num_classes': 1,
      'widths': WIDTHS,
    }
    config.data = {'name': 'strokes:create', 'noise': 40.0}
    config.task = {'name': 'strokes:Strokes'}
    config.loss = {'ink_weight': 1.5}
    config.schedule.peak_lr = 0.3
    config.optimizer.clip_norm = 5.0
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns a run stopped in its second epoch and resumed, and one not."""
  folder = tmp_path_factory.mktemp('strokes')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setup, 'data_mesh', lambda: data_mesh(jax.devices()[:2]))
    whole = train_and_evaluate(config(), folder / 'whole')
    with patch.context() as stopping:
      after = lambda self, step: step == STEPS + 3
      stopping.setattr(processes.Stop, 'after', after)
      assert train_and_evaluate(config(), folder / 'stopped') is None
    return folder, whole, train_and_evaluate(config(), folder / 'stopped')


def test_it_learns_and_resumes_bit_for_bit(run):
  folder, whole, resumed = run
  assert [result.width for result in whole] == [*WIDTHS]
  for result in whole:
    assert result.examples == 180
    assert result.scores['iou'] > 60  # all ink would be 25
  assert resumed == whole
  logged = [ends.lines(folder / name) for name in ('whole', 'stopped')]
  assert logged[0] == logged[1]
  states = [load_run(folder / name)[2] for name in ('whole', 'stopped')]
  jax.tree.map(np.testing.assert_array_equal, *states)
  results = json.loads((folder / 'whole' / 'results.json').read_text())
  assert list(results[0]) == [
    'width', 'iou', 'wrong_pixels', 'examples', 'macs', 'params',
  ]  # fmt: skip


def test_the_best_checkpoint_has_the_largest_headline(run):
  folder, _, _ = run
  records = read_metrics(folder / 'whole')
  means = {}
  for record in records:
    if record['split'] == 'validation':
      means.setdefault(record['step'], []).append(record['iou'])
  _, _, _, step = load_run(folder / 'whole', best=True)
  assert np.mean(means[step]) == max(map(np.mean, means.values()))


def test_evaluate_report_and_visualize_understand_it(run, capsys):
  folder, whole, _ = run
  (again,) = evaluate(workdir=str(folder / 'whole'), widths=['w050'])
  assert again == whole[0]
  assert 'IoU' in capsys.readouterr().out
  entry = compare.read(folder / 'whole')
  assert (entry.headline, entry.unit) == ('iou', '%')
  assert compare.compare(entry).reasons == [
    'no table has this network with these widths'
  ]
  paths = visualize_run(folder / 'whole', images=2)
  assert all(path.exists() for path in paths)


def test_it_becomes_a_bundle(run, tmp_path):
  folder, whole, _ = run
  manifest = export_run(
    folder / 'whole', tmp_path / 'bundle', platforms=('cpu',)
  )
  assert manifest.headline.title == 'IoU'
  errors = [entry.error for entry in manifest.widths]
  assert errors == [-result.scores['iou'] for result in whole]
  net = runtime.load(tmp_path / 'bundle')
  test = strokes.create().splits['test'].arrays
  for result in whole:
    said = net(test['image'], width=result.width)
    assert said['share'].shape == (180,)
    ink = np.asarray(said['ink']) > 0.5
    both, either = (ink & test['ink']).sum(), (ink | test['ink']).sum()
    assert 100 * both / either == pytest.approx(result.scores['iou'], abs=0.01)
  # It has no classes: what is predicted are the arrays, in JSON too.
  predictor = slimjax.load(tmp_path / 'bundle')
  said = predictor.predict(test['image'][:2], width=0.5)
  assert {name: array.shape for name, array in said.items()} == {
    'ink': (2, 32, 32),
    'share': (2,),
  }
  none = jax.tree.map(jnp.shape, predictor(test['image'][:0]))
  assert none == {'ink': (0, 32, 32), 'share': (0,)}
  one = jax.tree.map(lambda array: array[0], said)
  answer = answers.Answer('x.png', {0.5: one})
  (line,) = answers.json_lines(answer, predictor.kind())
  assert json.loads(line)['outputs']['share'] == pytest.approx(said['share'][0])
  with pytest.raises(ValueError, match='single output here, but .* ink, share'):
    export_run(folder / 'whole', tmp_path / 'onnx', formats=('onnx',))
  with pytest.raises(ValueError, match='has no detections to save'):
    evaluate(workdir=folder / 'whole', save_detections=tmp_path / 'saved')


def test_its_network_is_a_correct_slimmable_one():
  model = strokes.InkNet(num_classes=1, widths=WIDTHS, dtype=jnp.float32)
  # The norms fold; the transposed convolution has a bias of its own.
  assert slimjax.check_model(model, image_size=32) == []
