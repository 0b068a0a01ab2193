"""Slimmable Faster R-CNN, ResNet-50 and FPN, on COCO (paper, table 5).

Command: python -m slimjax.train --config=faster_rcnn --config.data.data_dir=DIR
  --config.init.source=SOURCE --workdir=WORKDIR

DIR holds annotations/instances_train2017.json, train2017/ and the same of
val2017; with --config.data.name=coco/2017, what TFDS prepares. SOURCE is the
run, the bundle or the checkpoint of an S-ResNet-50: a detector begins with its
weights, and with the norms of each width.

Source: Yu et al., ICLR 2019, section 4 and table 5; the numbers are those of
the published code, whose base is the 1x schedule.
Published box AP: 36.8 / 36.1 / 34.0 / 29.6 at 1 / 0.75 / 0.5 / 0.25 (trained
one by one: 36.4 / 34.7 / 32.7 / 27.5).
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.model.name = 'faster_rcnn'
  return config
