"""The configurations of detectors build, and hold the published numbers."""

import importlib
import inspect

import pytest

import slimjax
from slimjax import configuration
from slimjax.data import find_factory
from slimjax.detection.recipe import KEYPOINT_BASELINE
from slimjax.detection.recipe import PUBLISHED
from slimjax.training.initial import create_init
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.parts import find_parts
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task

# Epochs, steps an epoch of batches of 16, learning rates at the start of steps.
RATES = {0: 0.02 / 3, 250: 0.02 * 2 / 3, 500: 0.02}
COCO = {
  'faster_rcnn': (12, 7329, {**RATES, 8 * 7329: 0.002, 11 * 7329: 0.0002}),
  'mask_rcnn': (12, 7329, {**RATES, 8 * 7329: 0.002, 11 * 7329: 0.0002}),
  # 64,115 pictures have people.
  'keypoint_rcnn': (22, 4007, {**RATES, 60_200: 0.002, 80_200: 0.0002}),
}
RECIPES = {
  'faster_rcnn': PUBLISHED,
  'mask_rcnn': PUBLISHED,
  'keypoint_rcnn': KEYPOINT_BASELINE,
}


def parsed(name):
  config = importlib.import_module(f'slimjax.configs.{name}').get_config()
  config.model.num_classes = config.model.num_classes or 3
  run = configuration.parse(config)
  model = configuration.call(slimjax.create_model, 'config.model', run.model)
  return run, model


@pytest.mark.parametrize('name', [*COCO, 'digit_scenes', 'detection_folder'])
def test_a_detector_builds(name):
  run, model = parsed(name)
  schedule = configuration.call(
    create_schedule,
    'config.schedule',
    run.schedule,
    total_epochs=run.epochs,
    steps_per_epoch=100,
  )
  configuration.call(sgd, 'config.optimizer', run.optimizer, schedule=schedule)
  assert build_task(run).metrics[0].name == 'box_ap'
  assert build_plan(run, model).widths == model.ordered_widths[::-1]
  configuration.call(create_init, 'config.init', run.init)
  # Everything that the data set is told, it takes.
  factory = find_factory(run.data['name'])
  assert {*run.data} - {'name'} <= {*inspect.signature(factory).parameters}


def test_norms_and_the_first_layers_are_frozen():
  run, model = parsed('faster_rcnn')
  parts = find_parts(model, run.init['freeze'])
  norms = {path for path in parts.frozen if path[0] == 'norm'}
  assert {path[1] for path in norms} == {'w025', 'w050', 'w075', 'w100'}
  assert {path[1:3] for path in parts.frozen - norms} == {
    ('backbone', 'stem'),
    *(('backbone', f'stage1_block{i}') for i in (1, 2, 3)),
  }
  for name in ('mask_rcnn', 'keypoint_rcnn', 'detection_folder'):
    assert parsed(name)[0].init == run.init


@pytest.mark.parametrize('name', COCO)
def test_detectors_of_coco_are_as_published(name):
  run, model = parsed(name)
  epochs, steps, rates = COCO[name]
  assert model.recipe == RECIPES[name]
  assert model.widths == (0.25, 0.5, 0.75, 1.0)
  assert (model.num_classes, model.keypoints) == (
    (1, 17) if name == 'keypoint_rcnn' else (80, 0)
  )
  assert model.masks == run.data['masks'] == (name == 'mask_rcnn')
  assert bool(model.keypoints) == run.data['keypoints']
  assert (run.epochs, run.batch_size) == (epochs, 16)
  assert run.optimizer == {
    'momentum': 0.9,
    'nesterov': False,
    'weight_decay': 1e-4,
    'decay_all': True,
    'clip_norm': 35.0,
  }
  schedule = create_schedule(
    **{key: _tuple(value) for key, value in run.schedule.items()},
    total_epochs=run.epochs,
    steps_per_epoch=steps,
  )
  for step, rate in rates.items():
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5), step
  assert run.data['canvases'] == [[800, 1344], [1344, 800]]
  sides = [640, 672, 704, 736, 768, 800] if model.keypoints else [800]
  assert (run.data['sides'], run.data['longest']) == (sides, 1333)
  assert run.data['flip'] == 0.5
  assert run.data['least_keypoints'] == (1 if model.keypoints else 0)


def _tuple(value):
  return tuple(value) if isinstance(value, list) else value
