"""S-ResNet-50 on ImageNet, four switches (paper, table 3).

Command: python -m slimjax.train --config=resnet50 --workdir=DIR
Source: Yu et al., ICLR 2019, table 3 and appendix A.
Published top-1 error: 24.0 / 25.1 / 27.9 / 35.0 % at 1 / 0.75 / 0.5 / 0.25
(trained one by one: 23.9 / 25.3 / 28.0 / 36.2 %).
Published time: none; the authors used 4 GPUs. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 256
  config.epochs = 100
  config.model.update(name='resnet50', widths=(0.25, 0.5, 0.75, 1.0))
  config.data.augmentation = 'basic'
  config.schedule.update(
    name='multi_step', peak_lr=0.1, factor=0.1, epochs=(30, 60, 90)
  )
  return config
