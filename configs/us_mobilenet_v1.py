"""US-MobileNet v1 on ImageNet: any width from 0.25 to 1.

Command: python -m slimjax.train --config=us_mobilenet_v1 --workdir=DIR
  then   python -m slimjax.calibrate --workdir=DIR --widths=0.3,0.5,0.7
Source: Yu and Huang, ICCV 2019 (arXiv 1903.05134), section 4.
Published top-1 error: 28.2 / 30.5 / 35.8 / 44.3 % at 1 / 0.75 / 0.5 / 0.25
(four fixed switches: 28.5 / 30.5 / 35.2 / 46.9 %), and 27 widths between them
in slimjax/analysis/published.json.
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 1024
  config.epochs = 250
  config.model.update(name='mobilenet_v1', widths=(0.25, 1.0))
  config.model.shared = ('norm',)
  config.plan = {'name': 'sandwich', 'random': 2, 'bounds': 4}
  config.loss.inplace_distillation = True
  config.data.augmentation = 'mobile'
  config.schedule.update(name='linear', peak_lr=0.5)
  return config
