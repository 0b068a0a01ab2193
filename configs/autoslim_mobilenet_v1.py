"""AutoSlim-MobileNet v1 on ImageNet: channels that a search found, retrained.

Command: python -m slimjax.train --config=autoslim_mobilenet_v1 --workdir=DIR
 one of them alone, or those of a search of your own:
  --config.model.widths=@nets.json:150M
Source: Yu and Huang, AutoSlim (arXiv 1903.11728), and the authors' README.
Published top-1 error: 32.1 / 28.5 / 27.0 % at 150 / 325 / 572 M MACs.
Published time: none. Not run here yet; others who retrained such networks
report 1.6 to 1.9 points more than is published.
"""

from ml_collections import config_dict

from slimjax.analysis import published
from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.batch_size = 2048
  config.epochs = 300
  config.model.name = 'mobilenet_v1'
  config.model.widths = tuple(published.autoslim('mobilenet_v1'))
  config.data.augmentation = 'mobile'
  config.schedule.update(name='linear', peak_lr=0.5)
  config.loss.label_smoothing = 0.1
  return config
