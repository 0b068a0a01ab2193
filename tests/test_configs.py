"""Every configuration builds, and says what the paper says."""

import importlib

from places import ROOT
import pytest

import slimjax
from slimjax import configuration
from slimjax.analysis import published
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task

CONFIGS = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)

# Appendix A of the paper: widths, epochs, batch, learning rates at the start of
# given epochs.
PUBLISHED = {
  'mobilenet_v1': (
    (0.25, 0.5, 0.75, 1.0), 480, 160,
    {0: 0.045, 1: 0.045 * 0.98, 479: 0.045 * 0.98**479},
  ),
  'mobilenet_v1_8switches': (
    (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0), 480, 160,
    {0: 0.045, 100: 0.045 * 0.98**100},
  ),
  'mobilenet_v2': (
    (0.35, 0.5, 0.75, 1.0), 480, 160, {0: 0.045, 10: 0.045 * 0.98**10},
  ),
  'shufflenet': (
    (0.5, 1.0, 2.0), 250, 512, {0: 0.25, 125: 0.125, 250: 0.0},
  ),
  'resnet50': (
    (0.25, 0.5, 0.75, 1.0), 100, 256,
    {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001, 99: 0.0001},
  ),
  'us_mobilenet_v1': ((0.25, 1.0), 250, 1024, {0: 0.5, 125: 0.25, 250: 0.0}),
  'us_mobilenet_v2': ((0.35, 1.0), 250, 1024, {0: 0.5, 125: 0.25, 250: 0.0}),
  **{
    f'autoslim_{name}': (
      tuple(published.autoslim(name)), 300, 2048, {0: 0.5, 150: 0.25},
    )
    for name in ('mobilenet_v1', 'mobilenet_v2')
  },
  **{
    f'autoslim_{name}_supernet': (
      (0.15, 1.5), 50, 1024, {0: 0.5, 25: 0.25},
    )
    for name in ('mobilenet_v1', 'mobilenet_v2')
  },
  'resnet101': (
    (0.25, 0.5, 0.75, 1.0), 100, 256, {0: 0.1, 30: 0.01, 90: 0.0001},
  ),
}  # fmt: skip


# They are looked at in test_detection_configs.py.
DETECTORS = (
  'faster_rcnn', 'mask_rcnn', 'keypoint_rcnn', 'digit_scenes',
  'detection_folder',
)  # fmt: skip


def get(name: str):
  return importlib.import_module(f'slimjax.configs.{name}').get_config()


def test_every_published_row_has_a_configuration():
  assert set(CONFIGS) == {
    *PUBLISHED,
    *DETECTORS,
    'digits',
    'us_digits',
    'fashion',
    'few_digits',
    'few_fashion',
    'photos',
  }


@pytest.mark.parametrize('name', sorted({*CONFIGS} - {*DETECTORS}))
def test_a_configuration_builds(name):
  config = get(name)
  assert (config.model.num_classes is None) == (name == 'photos')
  config.model.num_classes = config.model.num_classes or 3
  run = configuration.parse(config)
  model = configuration.call(slimjax.create_model, 'config.model', run.model)
  schedule = configuration.call(
    create_schedule,
    'config.schedule',
    run.schedule,
    total_epochs=run.epochs,
    steps_per_epoch=1000,
  )
  configuration.call(sgd, 'config.optimizer', run.optimizer, schedule=schedule)
  assert build_task(run).metrics[0].name == 'top1_error'
  assert build_plan(run, model).widths == model.ordered_widths[::-1]
  if name not in PUBLISHED:
    return
  widths, epochs, batch, rates = PUBLISHED[name]
  assert model.widths == widths
  assert (run.epochs, run.batch_size) == (epochs, batch)
  assert run.optimizer == {
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 1e-4,
    'clip_norm': None,
  }
  for epoch, rate in rates.items():
    assert float(schedule(1000 * epoch)) == pytest.approx(rate, rel=1e-4)


def test_a_key_that_nothing_reads_is_an_error():
  config = get('digits')
  config.unlock()
  config.epoch = 5
  message = 'config.epoch is not read by anything; is it epochs.*; there are'
  with pytest.raises(ValueError, match=message):
    configuration.parse(config)
  config = get('digits')
  del config.epochs
  with pytest.raises(ValueError, match='config.epochs is missing'):
    configuration.parse(config)


@pytest.mark.parametrize('value', [True, False, 0, -1, 2.0, '5', None])
def test_numbers_are_whole_and_above_zero(value):
  config = {**configuration.as_plain(get('digits')), 'epochs': value}
  message = f'config.epochs must be .* from 1 to 1,000,000, got {value!r}$'
  with pytest.raises(ValueError, match=message):
    configuration.parse(config)


def test_a_configuration_of_old_has_the_task_of_old():
  config = configuration.as_plain(get('digits'))
  run = configuration.parse(
    {k: v for k, v in config.items() if k not in ('task', 'plan')}
  )
  assert (run.task, run.plan) == ({'name': 'classification'}, {'name': 'all'})
