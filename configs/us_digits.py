"""US-MobileNet v1 on handwritten digits: any width from 0.25 to 1, in minutes.

Command: python -m slimjax.train --config=us_digits --workdir=DIR
  then   python -m slimjax.calibrate --workdir=DIR --widths=0.3,0.5,0.7
Source: the recipe is that of configs/digits.py, with the sandwich rule and
in-place distillation of US-Nets (Yu and Huang, ICCV 2019).
Expected top-1 error: 0.6 / 2.2 % at 1 / 0.25, and calibrated 1.1 / 1.4 / 2.8 %
at 0.7 / 0.5 / 0.3; one seed, of 360 test images. See experiments/any_width.
Expected time: 300 s of processor time on one core of an Intel Xeon, compilation
included; calibration and its scores take 19 s.
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
