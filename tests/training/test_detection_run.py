"""A detector with all heads trains, resumes and is scored like a classifier."""

import dataclasses
import json
import re
import types
from unittest import mock

import jax
import numpy as np
from PIL import Image
import programs
import pytest
from small_scenes import get_config as config
from small_scenes import WIDTH

import slimjax
from slimjax import plots
from slimjax import runtime
from slimjax.analysis.scoring import evaluate
from slimjax.data.coco import scenes
from slimjax.data.record import read_record
from slimjax.detection import drawing
from slimjax.detection import rle
from slimjax.runtime import answers
from slimjax.runtime.exporting import export_run
from slimjax.runtime.predictor import Predictor
from slimjax.training import processes
from slimjax.training.log import read_metrics
from slimjax.training.loop import train_and_evaluate
from slimjax.training.runs import load_run


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


@pytest.fixture(scope='module')
def bundle(run):
  folder, _, _ = run
  export_run(folder / 'whole', folder / 'bundle', platforms=['cpu'])
  return slimjax.load(folder / 'bundle')


@pytest.fixture(scope='module')
def pictures(run):
  """Returns the files of the scenes that the run was scored on, as PNG."""
  folder, _, _ = run
  _, images = scenes.make_scenes('test', 6)
  paths = [folder / f'{i}.png' for i in range(6)]
  for path, image in zip(paths, images, strict=True):
    plots.save_picture(image, path)
  assert len({image.shape for image in images}) > 1
  return paths


def test_a_bundle_gives_the_outputs_of_the_network(run, bundle):
  folder, _, _ = run
  manifest = bundle.network.manifest
  assert (manifest.batch_size, manifest.outputs) == (1, 'detections')
  assert manifest.score(manifest.widths[0]) >= 0  # box AP, not its negative
  images, hw = read_record(folder / 'whole').samples[:2], [[128, 96], [90, 128]]
  outputs = bundle.network(images, hw=hw)
  _, model, variables, _ = load_run(folder / 'whole')
  preprocess = read_record(folder / 'whole').preprocess
  for i, image in enumerate(images):
    expected = slimjax.apply(
      model, variables, preprocess(image[None]), np.array(hw[i:][:1]),
      width=WIDTH,
    )  # fmt: skip
    for name, array in expected.items():
      np.testing.assert_allclose(
        outputs[name][i], array[0], rtol=1e-4, atol=1e-4, err_msg=name
      )
  with pytest.raises(ValueError, match='hw must be whole numbers .2, 2., from'):
    bundle.network(images, hw=[[128, 96], [0, 128]])


def test_pictures_are_answered_as_the_run_is_scored(run, bundle, pictures):
  """By a bundle and by a run, of files; the canvas is larger than most."""
  folder, _, _ = run
  evaluate(workdir=folder / 'whole', save_detections=folder / 'saved')
  (path,) = (folder / 'saved').iterdir()
  assert path.name == 'w0125.json'
  saved = json.loads(path.read_text())
  for predictor in (bundle, slimjax.load(folder / 'whole')):
    found = predictor.predict(pictures)
    assert [one.picture for one in found] == [*range(6)]
    assert sum(map(len, found)) == len(saved) > 6
    expected = iter(saved)
    for picture, one in enumerate(found):
      for i in range(len(one)):
        wanted = next(expected)
        assert wanted['image_id'] == picture + 1
        assert wanted['category_id'] == one.labels[i]
        assert one.names[i] == str(one.labels[i] - 1)  # a digit
        x, y, width, height = wanted['bbox']
        np.testing.assert_allclose(
          one.boxes[i], [x, y, x + width, y + height], atol=1e-2
        )
        assert one.scores[i] == pytest.approx(wanted['score'], abs=1e-4)
        mask = rle.decode(wanted['segmentation'])
        assert (mask != rle.decode(one.masks[i])).mean() < 1e-3
        assert one.keypoints.shape[1:] == (4, 3)


def test_what_is_asked_of_a_detector(run, bundle, pictures):
  sure = bundle.predict(pictures[0])[0].scores[2]
  (one,) = bundle.predict(pictures[0], min_score=float(sure))
  assert len(one) == 3
  assert (one.scores >= sure).all()
  with pytest.raises(ValueError, match='detects objects: give min_score'):
    bundle.predict(pictures[0], top=3)
  with pytest.raises(ValueError, match='min_score must be from 0 to 1'):
    bundle.predict(pictures[0], min_score=50)
  with pytest.raises(ValueError, match='a cascade needs logits of classes'):
    runtime.Cascade(bundle.network, thresholds=runtime.Thresholds((WIDTH,), ()))
  folder, _, _ = run
  with pytest.raises(ValueError, match='a detector is not written as ONNX'):
    export_run(folder / 'whole', folder / 'onnx', formats=['jax', 'onnx'])


def test_a_controller_picks_widths_of_a_detector(bundle):
  table = bundle.network.benchmark(rounds=3)
  assert table.headline.title == 'box AP'
  controller = runtime.Controller(table, budget_ms=1e6)
  assert controller.pick() == WIDTH


def test_the_program_draws_and_tells_objects(run, pictures):
  folder, _, _ = run
  drawn = folder / 'drawn'
  done = programs.call(
    'slimjax.predict', folder / 'bundle', *pictures[:2], folder / 'none.png',
    '--json', '--min_score=0', f'--draw={drawn}',
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (1, '')
  *lines, last = map(json.loads, done.stdout.splitlines())
  assert list(last) == ['picture', 'error']
  for path, line in zip(pictures, lines, strict=False):
    assert line['picture'] == str(path)
    image = np.asarray(Image.open(path))
    shown = np.asarray(Image.open(drawn / path.name))
    assert min(shown.shape[:2]) == 480
    first = line['detections'][0]
    assert set(first) == {
      'label', 'name', 'score', 'box', 'mask', 'keypoints',
    }  # fmt: skip
    assert rle.decode(first['mask']).shape == image.shape[:2]
  assert len(list(drawn.iterdir())) == 2
  done = programs.call(
    'slimjax.predict', folder / 'bundle', pictures[0], '--min_score=0',
    '--all_widths', COLUMNS='200',
  )  # fmt: skip
  _, heads, *rows = done.stdout.splitlines()
  assert heads.split() == ['picture', 'at', '0.125']
  assert all(re.search(r'\d: \d+ % *$', row) for row in rows)


def test_widths_stand_side_by_side_with_what_is_known_of_them(
  bundle, pictures, tmp_path
):
  (entry,) = bundle.network.manifest.widths
  wider = dataclasses.replace(entry, width=0.5, error=-31.2, latency_ms=8.04)
  manifest = dataclasses.replace(bundle.network.manifest, widths=(entry, wider))
  predictor = Predictor(types.SimpleNamespace(manifest=manifest), 'both')
  (found,) = bundle.predict(pictures[0])
  titles = []
  with mock.patch.object(
    drawing, 'beside', lambda all, said: titles.extend(said) or all[1]
  ):
    answer = answers.Answer(str(pictures[0]), {WIDTH: found, 0.5: found})
    drawn = answers.draw_answers([answer, answer], predictor, tmp_path)
    assert list(drawn) == [answer] * 2
  score = manifest.headline.text(entry.error)
  assert titles[:2] == [f'0.125x: {score}', '0.5x: box AP 31.20 %, 8.0 ms']
  assert {path.name for path in tmp_path.iterdir()} == {'0.png', '0_2.png'}


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
