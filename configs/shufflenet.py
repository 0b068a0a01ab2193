"""S-ShuffleNet on ImageNet, three switches (paper, table 3).

Command: python -m slimjax.train --config=shufflenet --workdir=DIR
Source: Yu et al., ICLR 2019, table 3 and appendix A. Batch size and rate are
the paper's; the authors' own configuration doubles both (1024 and 0.5).
Published top-1 error: 28.7 / 34.5 / 42.7 % at 2 / 1 / 0.5
(trained one by one: 26.3 / 32.6 / 43.2 %).
Published time: none; the authors used 4 GPUs. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 512
  config.epochs = 250
  config.model.update(name='shufflenet', widths=(0.5, 1.0, 2.0))
  config.data.augmentation = 'mobile'
  config.schedule.update(name='linear', peak_lr=0.25)
  return config
