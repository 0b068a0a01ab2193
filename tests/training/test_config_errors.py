"""Errors in the configuration come before anything is written or changed."""

import math

import pytest
from tiny_net import get_config

from slimjax.data import digits
from slimjax.train import train_and_evaluate
from slimjax.training.session import claim


@pytest.mark.parametrize(
  'overrides, says',
  [
    ({'batchsize': 3}, 'config.batchsize is not read by anything'),
    ({'model__width': 1}, 'width'),
    ({'data__max_shear': 1}, 'config.data.max_shear is not read by anything'),
    ({'optimizer__decay': 1}, 'config.optimizer.decay is not read'),
    ({'schedule__warmup': 1}, 'config.schedule.warmup is not read'),
    ({'loss__smoothing': 1}, 'config.loss.smoothing is not read'),
    ({'schedule__factor': 0.1}, 'config.schedule: .*factor'),
    ({'schedule__name': 'step'}, "config.schedule: .*'step'"),
    ({'model__name': 'vgg'}, "config.model: .*'vgg'"),
    ({'model__widths': (0.25, 0.25)}, 'config.model: .*w025'),
    ({'model__num_classes': 1000}, 'config.model.num_classes is 1000, .* 10'),
    ({'data': {'name': 'digit'}}, "name 'digit' is not .* is it digits"),
    (
      {'data': {'name': 'coco_captions'}},
      "TFDS's own code of coco_captions needs",
    ),
    ({'epochs': 0}, 'config.epochs .* got 0'),
    ({'batch_size': 62}, 'config.batch_size 62 .* 4 devices; try 64'),
    ({'batch_size': 2000}, 'batch_size 2000 .* 1437'),
    ({'log_every_steps': 2.5}, 'config.log_every_steps .* got 2.5'),
    ({'loss': 1}, 'config.loss must be a section'),
    ({'seed': 2**64}, 'config.seed must be .* from 0 to .*, got 18446744'),
    ({'eval_batch_size': 10**10}, 'config.eval_batch_size must be .* 65,536'),
    ({'optimizer__momentum': math.nan}, 'config.optimizer.momentum .* got nan'),
    ({'optimizer__momentum': 1.0}, 'momentum must be .* 0 to below 1, got 1.0'),
    ({'optimizer__clip_norm': 0.0}, 'clip_norm must be .* above 0, got 0.0'),
    ({'schedule__peak_lr': math.inf}, 'config.schedule.peak_lr .* got inf'),
    ({'data__max_zoom': -0.1}, 'max_zoom must be .* from 0 to below 1'),
    ({'model__widths': (100.0,)}, 'width 100.0 is not from 0.001 to 16: a wid'),
    ({'model__dtype': 'float64'}, 'float64 computes in float32 unless jax is'),
    ({'model__remat': 'yes'}, "remat must be True or False, got 'yes'"),
    ({'plan': {'name': 3}}, 'config.plan.name must be a text, got 3'),
    ({'data__name': 'digitz'}, "'digitz' is none of digits.* is it digits"),
  ],
)
def test_errors_in_the_configuration_name_the_key(overrides, says, tmp_path):
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(get_config(**overrides), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'key',
  ['seed', 'model', 'model.name', 'model.widths', 'schedule.peak_lr'],
)
def test_missing_keys_are_named(key, tmp_path):
  config = get_config()
  *sections, name = key.split('.')
  section = config
  for part in sections:
    section = section[part]
  with config.unlocked():
    del section[name]
  with pytest.raises(ValueError, match=f'config.{key} is missing'):
    train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_unreadable_images_may_be_allowed_later(tmp_path):
  def config(most, **data):
    data = {'name': 'imagenet2012', 'max_corrupt': most, **data}
    return get_config(data=data)

  dataset = digits.create()
  claim(tmp_path, config(10), dataset)
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  assert claim(tmp_path, config(20), dataset) == [
    'config.data.max_corrupt: 10 before, 20 now'
  ]
  moved = config(20, data_dir='/elsewhere')
  assert claim(tmp_path, moved, dataset) == []
  with pytest.raises(ValueError, match='data.image_size: 224 before, 32 now'):
    claim(tmp_path, config(20, image_size=32), dataset)
