"""S-MobileNet v1 on photos of your own, in a folder for each class.

Command: python -m slimjax.train --config=photos --config.data.data_dir=DIR
  --workdir=WORKDIR

DIR holds CLASS/*.jpg, or train/CLASS/*.jpg and perhaps val/CLASS/*.jpg. The
classes are those folders; without val/ a fifth of each is set aside to test on.
Any set of tensorflow-datasets works too: --config.data.name=NAME.

It suits some hundred to some ten thousand photos: of 20,000 or more a third of
the epochs is enough (--config.epochs=30), of fewer than 500 take more.
--config.data.image_size=64 trains four times as fast as 128; details need more,
up to 224. A few hundred photos are little to learn from: weights that have seen
others are the better start, --config.init.source=RUN_OR_FILE, with a tenth of
the rate, --config.schedule.peak_lr=0.003.
Expected error: it depends on the photos. On 250 crops of two photographs (two
classes, 64 pixels, widths 0.25 and 0.5) none of 50 test images was wrong. On
288 drawn textures of three kinds (64 pixels, width 0.25, rate 0.05) 65 % were
after 15 epochs and 46 % after 30.
The whole recipe on 640 photographs of ten kinds of products (Fashion-MNIST, 64
pixels, the four widths) has 18.8 / 21.9 / 18.8 / 18.8 % of 160 wrong at 0.25 /
0.5 / 0.75 / 1.0, a third of them shirts.
Source: the recipe is our own.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_config()
  config.seed = 0
  config.batch_size = 32
  config.eval_batch_size = 64
  config.epochs = 100
  config.log_every_steps = 20
  config.eval_every_epochs = 5
  config.model.update(name='mobilenet_v1')
  # None: as many as there are folders.
  config.model.num_classes = config_dict.placeholder(int)
  config.data.update(name='image_folder', augmentation='mobile', image_size=128)
  config.schedule.update(name='cosine', peak_lr=0.03, warmup_epochs=5.0)
  return config
