"""S-MobileNet v1 on ImageNet, four switches (paper, table 3).

Command: python -m slimjax.train --config=mobilenet_v1 --workdir=DIR
Source: Yu et al., ICLR 2019, table 3 and appendix A.
Published top-1 error: 28.5 / 30.5 / 35.2 / 46.9 % at 1 / 0.75 / 0.5 / 0.25
(trained one by one: 29.1 / 31.6 / 36.7 / 50.2 %).
Published time: none; the authors used 4 GPUs. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 160
  config.epochs = 480
  config.model.update(name='mobilenet_v1', widths=(0.25, 0.5, 0.75, 1.0))
  config.data.augmentation = 'mobile'
  config.schedule.update(name='exponential', peak_lr=0.045, factor=0.98)
  return config
