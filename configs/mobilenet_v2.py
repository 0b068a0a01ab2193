"""S-MobileNet v2 on ImageNet, four switches (paper, table 3).

Command: python -m slimjax.train --config=mobilenet_v2 --workdir=DIR
Source: Yu et al., ICLR 2019, table 3 and appendix A. The last batch norm is
private to each switch here. The published code shares it, as does
--config.model.shared="('norm/last','batch_stats/last')".
Published top-1 error: 29.5 / 31.1 / 35.6 / 40.3 % at 1 / 0.75 / 0.5 / 0.35
(trained one by one: 28.2 / 30.2 / 34.6 / 39.7 %).
Published time: none; the authors used 4 GPUs. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 160
  config.epochs = 480
  config.model.update(name='mobilenet_v2', widths=(0.35, 0.5, 0.75, 1.0))
  config.data.augmentation = 'mobile'
  config.schedule.update(name='exponential', peak_lr=0.045, factor=0.98)
  return config
