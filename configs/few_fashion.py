"""S-MobileNet v1 on a sixth of Fashion-MNIST: a task for experiments on CPUs.

Command: python -m slimjax.train --config=few_fashion --workdir=DIR
Source: the recipe is our own. 10,000 images to train and 10,000 others held
out, both drawn by the seed, and all of the 10,000 test images: half a percent
between two widths is seen. The published stride of the stem and thin widths
keep a step cheap. Expected top-1 error: 19.4 / 17.9 / 16.7 % at 0.125 / 0.25 /
0.5, mean of five seeds. The experiments compare widths and methods here
(experiments/slimmable_vs_individual and others).
"""

from ml_collections import config_dict

from slimjax.configs import fashion


def get_config() -> config_dict.ConfigDict:
  config = fashion.get_config()
  config.log_every_steps = 39
  config.eval_every_epochs = 6
  config.model.update(small_stem=False)
  config.data.update(max_shift=1.0, train_images=10000, held_out=10000)
  return config
