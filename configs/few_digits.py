"""S-MobileNet v1 on a hundred handwritten digits: a small but hard task.

Command: python -m slimjax.train --config=few_digits --workdir=DIR
Source: the recipe is our own. The digits of configs/digits.py saturate; with a
hundred to train and 1,697 to test, widths and methods differ. Small experiments
train it (experiments/channel_search, experiments/serve_http).
Expected top-1 error: 8.5 / 8.9 / 9.5 / 11.8 % at 1 / 0.75 / 0.5 / 0.25, the
mean of five seeds, with a deviation of 0.5 to 1.3 (commit a508f5b).
Expected time: about 80 s on 2 cores, most of it compilation.
"""

from ml_collections import config_dict

from slimjax.configs import digits


def get_config() -> config_dict.ConfigDict:
  config = digits.get_config()
  config.batch_size = 32
  config.eval_batch_size = 425
  config.epochs = 120
  config.log_every_steps = 30
  config.eval_every_epochs = 10
  config.schedule.peak_lr = 0.02
  config.data.update(train_images=100, split_seed=0)
  return config
