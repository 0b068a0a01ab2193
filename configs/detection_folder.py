"""Faster R-CNN on pictures of your own, annotated in COCO's format.

Command: python -m slimjax.train --config=detection_folder
  --config.data.data_dir=DIR --config.init.source=SOURCE --workdir=WORKDIR

DIR holds annotations/train.json with the folder train/, or train.json, or
train/_annotations.coco.json, and perhaps the same of val, valid or test;
without them a fifth of the pictures is set aside to test on. Any other place is
named: --config.data.train="('boxes.json', 'pictures')". The classes are those
of the file. --config.data.masks=True --config.model.masks=True train masks too.

SOURCE is a detector or a classifier that has seen other pictures; from drawn
weights the norms must be trained, --config.init.freeze=, and far longer.
Pictures are resized to fit 512 x 512; small objects need more
(--config.data.canvases, multiples of 32), and anchors of their size.
Expected AP: it depends on the pictures.
Source: the recipe is that of faster_rcnn.py for few pictures.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.batch_size = 4
  config.eval_batch_size = 4
  config.epochs = 24
  config.log_every_steps = 20
  config.eval_every_epochs = 4
  config.model.update(name='faster_rcnn', masks=False)
  # None: as many as the file has.
  config.model.num_classes = config_dict.placeholder(int)
  config.data.update(
    canvases=((512, 512),), sides=(512,), longest=config_dict.placeholder(int)
  )
  config.schedule.update(peak_lr=0.005, epochs=(16, 22))
  return config
