"""S-ResNet-101 on ImageNet, four switches.

Command: python -m slimjax.train --config=resnet101 --workdir=DIR
Source: the recipe of S-ResNet-50 (Yu et al., ICLR 2019, appendix A) on the
deeper network, which the authors' code defines too.
Published top-1 error: none.
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import resnet50


def get_config() -> config_dict.ConfigDict:
  config = resnet50.get_config()
  config.model.name = 'resnet101'
  return config
