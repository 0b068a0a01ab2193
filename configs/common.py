"""Defines what all configurations share: keys and published constants.

Appendix A of the paper: SGD with momentum 0.9 and Nesterov, weight decay 1e-4
on dense convolutions and the classifier. A configuration fills in the rest.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Returns a configuration to complete: model, data, schedule, epochs."""
  config = config_dict.ConfigDict()
  config.seed = 1995
  config.batch_size = 256
  config.eval_batch_size = 256
  config.epochs = 100
  config.log_every_steps = 100
  config.eval_every_epochs = 1
  config.checkpoint_every_minutes = 10
  config.compilation_cache_dir = '~/.cache/slimjax'
  config.model = {
    'name': '',
    'num_classes': 1000,
    'widths': (0.25, 0.5, 0.75, 1.0),
    'dtype': 'float32',
    'small_stem': False,
    'remat': False,
    'shared': (),
    'axis_name': config_dict.placeholder(str),  # 'data' synchronises the norms
  }
  config.data = {
    'name': 'imagenet2012',
    'augmentation': 'basic',
    'data_dir': config_dict.placeholder(str),
    'image_size': 224,
    'resize': config_dict.placeholder(int),
    'test_split': config_dict.placeholder(str),
    'test_share': 0.2,
    'held_out': 0,
    'held_out_seed': 0,
    'workers': config_dict.placeholder(int),
    'max_corrupt': 10,
  }
  config.optimizer = {
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 1e-4,
    'clip_norm': config_dict.placeholder(float),
  }
  config.schedule = {
    'name': '',
    'peak_lr': 0.1,
    'warmup_epochs': 0.0,
    'factor': config_dict.placeholder(float),
    'epochs': config_dict.placeholder(tuple),
  }
  config.task = {'name': 'classification'}
  config.loss = {'label_smoothing': 0.0, 'inplace_distillation': False}
  config.plan = {'name': 'all'}
  # What the run begins with; patterns of paths as in slimjax/training/parts.py.
  config.init = {
    'source': config_dict.placeholder(str),  # a run, a bundle or a file
    'sort': config_dict.placeholder(str),  # l1 sorts the channels of the source
    'freeze': config_dict.placeholder(object),  # 'stem,unit[1-4]'
    'rate_factors': config_dict.placeholder(object),  # 'classifier=10'
  }
  return config
