"""S-MobileNet v1 on ImageNet, eight switches (paper, table 4).

Command: python -m slimjax.train --config=mobilenet_v1_8switches --workdir=DIR
Source: Yu et al., ICLR 2019, table 4 and appendix A.
Published top-1 error: 47.6 / 41.1 / 36.6 / 33.8 / 31.4 / 30.2 / 29.2 / 28.4 %
at 0.25 / 0.35 / 0.45 / 0.55 / 0.65 / 0.75 / 0.85 / 1.
Published time: none; the authors used 4 GPUs. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import mobilenet_v1


def get_config() -> config_dict.ConfigDict:
  config = mobilenet_v1.get_config()
  config.model.widths = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
  return config
