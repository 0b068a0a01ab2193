"""Slimmable Mask R-CNN, ResNet-50 and FPN, on COCO (paper, table 5).

Command: python -m slimjax.train --config=mask_rcnn --config.data.data_dir=DIR
  --config.init.source=SOURCE --workdir=WORKDIR

DIR and SOURCE are as in faster_rcnn.py.

Source: Yu et al., ICLR 2019, section 4 and table 5; the numbers are those of
the published code, whose base is the 1x schedule.
Published AP at 1 / 0.75 / 0.5 / 0.25: boxes 37.4 / 36.7 / 34.7 / 30.2, masks
34.9 / 34.3 / 32.6 / 28.6 (trained one by one: 37.3 / 35.6 / 33.4 / 28.2 and
34.2 / 32.9 / 30.9 / 26.6).
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.model.update(name='mask_rcnn', mask_features=256, mask_convs=4)
  config.data.masks = True
  return config
