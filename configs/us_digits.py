"""US-MobileNet v1 on handwritten digits: any width from 0.25 to 1, in minutes.

Command: python -m slimjax.train --config=us_digits --workdir=DIR
  then   python -m slimjax.calibrate --workdir=DIR --widths=0.3,0.5,0.7
Source: the recipe is that of configs/digits.py, with the sandwich rule and
in-place distillation of US-Nets (Yu and Huang, ICCV 2019).
Expected top-1 error: not measured on all digits; on a hundred of them see
experiments/any_width.
Expected time: not measured; each step runs four widths, as that of
configs/digits.py, and six programs are compiled instead of four.
"""

from ml_collections import config_dict

from slimjax.configs import digits


def get_config() -> config_dict.ConfigDict:
  config = digits.get_config()
  config.model.widths = (0.25, 1.0)
  config.model.shared = ('norm',)
  config.plan = {'name': 'sandwich', 'random': 2, 'bounds': 4}
  config.loss.inplace_distillation = True
  return config
