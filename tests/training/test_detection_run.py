"""A detector with all heads trains, resumes and is scored like a classifier."""

import json

import jax
import numpy as np
import pytest

import slimjax
from slimjax.configs import digits
from slimjax.data.record import read_record
from slimjax.runtime.exporting import export_run
from slimjax.training import processes
from slimjax.training.log import read_metrics
from slimjax.training.loop import train_and_evaluate
from slimjax.training.runs import load_run

WIDTH = 0.125


def config(**overrides):
  config = digits.get_config()
  with config.unlocked():
    config.epochs = 1
    config.batch_size = 4
    config.eval_batch_size = 4
    config.log_every_steps = 1
    config.eval_every_epochs = 1
    config.model = {
      'name': 'mask_rcnn',
      'backbone': 'resnet14',
      'num_classes': 10,
      'widths': (WIDTH,),
      'keypoints': 4,
      'fpn_features': 16,
      'box_features': 32,
      'mask_features': 16,
      'mask_convs': 1,
      'keypoint_features': 16,
      'keypoint_convs': 1,
      'anchor_sizes': (16, 32, 64, 128, 256),
      'canonical_scale': 56,
      'train_candidates': 50,
      'train_proposals': 40,
      'test_candidates': 50,
      'test_proposals': 20,
      'roi_samples': 16,
      'detections': 10,
      'rpn_samples': 32,
      'min_score': 0.0,
      **overrides,
    }
    config.data = {
      'name': 'digit_scenes', 'train_scenes': 16, 'test_scenes': 6,
    }  # fmt: skip
    config.task = {'name': 'detection'}
    config.loss = {}
    config.init = {'freeze': 'norm,backbone/stem,backbone/stage1_*'}
    config.optimizer = {'nesterov': False, 'clip_norm': 35.0}
    config.schedule = {'name': 'cosine', 'peak_lr': 0.01}
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns the folder of a run that was stopped and one that was not."""
  folder = tmp_path_factory.mktemp('detection')
  whole = train_and_evaluate(config(), folder / 'whole')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processes.Stop, 'after', lambda self, step: step == 2)
    assert train_and_evaluate(config(), folder / 'stopped') is None
  return folder, whole, train_and_evaluate(config(), folder / 'stopped')


def test_it_resumes_bit_for_bit_and_every_scene_is_scored(run):
  folder, whole, resumed = run
  assert resumed == whole
  (result,) = whole
  assert result.examples == 6
  assert list(result.scores) == [
    'box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'keypoint_ap',
  ]  # fmt: skip
  states = [load_run(folder / name)[2] for name in ('whole', 'stopped')]
  jax.tree.map(np.testing.assert_array_equal, *states)
  (row,) = json.loads((folder / 'whole' / 'results.json').read_text())
  assert row['box_ap'] == result.scores['box_ap']


def test_every_loss_is_logged_and_what_is_frozen_stays(run):
  folder, _, _ = run
  lines = [r for r in read_metrics(folder / 'whole') if r['split'] == 'train']
  assert len(lines) == 4
  for name in (
    'loss', 'objectness', 'proposal_box', 'classifier', 'box', 'mask',
    'keypoint',
  ):  # fmt: skip
    assert all(np.isfinite(line[name]) for line in lines if name in line)
    assert any(name in line for line in lines), name
  _, model, variables, _ = load_run(folder / 'whole')
  norm = variables['norm'][model.switch(WIDTH)]['backbone']
  for layer in jax.tree.leaves(norm['stem']):
    assert len(np.unique(layer)) == 1  # as drawn: ones or zeros


def test_a_bundle_answers_as_the_run_does(run, tmp_path):
  folder, _, _ = run
  manifest = export_run(
    folder / 'whole', tmp_path / 'bundle', platforms=['cpu']
  )
  assert manifest.batch_size == 1
  assert manifest.score(manifest.widths[0]) >= 0  # box AP, not its negative
  images = read_record(folder / 'whole').samples[:2]
  outputs = slimjax.load(tmp_path / 'bundle').predict(images)
  assert outputs['masks'].shape == (2, 10, 28, 28)
  _, model, variables, _ = load_run(folder / 'whole')
  preprocess = read_record(folder / 'whole').preprocess
  for i, image in enumerate(images):
    expected = slimjax.apply(
      model, variables, preprocess(image[None]), width=WIDTH
    )
    for name, array in expected.items():
      np.testing.assert_allclose(
        outputs[name][i], array[0], rtol=1e-4, atol=1e-4, err_msg=name
      )


@pytest.mark.parametrize(
  'change, says',
  [
    ({'num_classes': 9}, 'digit_scenes has 10 classes'),
    ({'keypoints': 5}, 'read with 4 keypoints'),
  ],
)
def test_networks_that_do_not_fit_the_data_are_refused(tmp_path, change, says):
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(config(**change), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
