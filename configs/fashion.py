"""S-MobileNet v1 on Fashion-MNIST: 70,000 photographs of products, 28 pixels.

Command: python -m slimjax.train --config=fashion --workdir=DIR
The data (Xiao et al., arXiv 1708.07747, MIT licence) are those of Debian's and
Ubuntu's package dataset-fashion-mnist; elsewhere --config.data.data_dir=DIR
names a folder with the four IDX files.
Source: the recipe is our own; the learning rate is chosen on training images
that are held out (experiments/learning_rate). 5,000 are held out here, too, by
which a cascade's thresholds are chosen (experiments/cascade). Thin widths and
few epochs, so that CPUs train it; on an accelerator take 30 epochs and
--config.model.widths="(0.25,0.5,0.75,1.0)".
Expected top-1 error: 10.4 / 9.1 / 8.6 % at 0.125 / 0.25 / 0.5 (one seed,
experiments/fashion).
Expected time: 0.8 s a step on one core of an AMD EPYC, so about 35 minutes.
"""

from ml_collections import config_dict

from slimjax.configs import common

CLASSES = (
  't-shirt',
  'trousers',
  'pullover',
  'dress',
  'coat',
  'sandal',
  'shirt',
  'sneaker',
  'bag',
  'ankle boot',
)


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.seed = 0
  config.batch_size = 128
  config.eval_batch_size = 500
  config.epochs = 6
  config.log_every_steps = 100
  config.eval_every_epochs = 2
  config.model.update(
    name='mobilenet_v1',
    num_classes=10,
    widths=(0.125, 0.25, 0.5),
    small_stem=True,
  )
  config.data = {
    'name': 'idx',
    'data_dir': config_dict.placeholder(str),
    'package': 'fashion-mnist',
    'class_names': CLASSES,
    # The images stay as they are: 32 pixels would only cost a third more.
    'image_size': config_dict.placeholder(int),
    'fit': 'pad',
    'max_shift': 2.0,
    'max_degrees': 0.0,
    'max_zoom': 0.0,
    'flip': True,
    'train_images': config_dict.placeholder(int),
    'held_out': 5000,
    'split_seed': 0,
    'test_split': 'test',
  }
  config.schedule.update(name='cosine', peak_lr=0.1, warmup_epochs=1.0)
  return config
