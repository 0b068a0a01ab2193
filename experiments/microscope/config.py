"""A thin Faster R-CNN on microscope photographs of blood, for two cores.

Command: python -m slimjax.train --config=experiments/microscope/config.py
  --config.data.data_dir=DIR --workdir=WORKDIR

DIR holds train.json and test.json, which name pictures of the folder images/.
Source: the recipe is our own. Pictures of 640 x 480 are halved; their objects
have sides of 10 to 145 pixels then. The weights are drawn; norms are trained.
Expected AP: 39.4 / 39.9 at 0.25 / 0.5 (one seed, see README.md).
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.batch_size = 4
  config.eval_batch_size = 4
  config.epochs = 14
  config.log_every_steps = 25
  config.eval_every_epochs = 7
  config.model.update(
    name='faster_rcnn',
    backbone='resnet14',
    num_classes=3,
    widths=(0.25, 0.5),
    fpn_features=32,
    box_features=128,
    anchor_sizes=(12, 24, 48, 96, 192),
    anchors_over_border=True,
    canonical_scale=112,
    train_candidates=400,
    train_proposals=200,
    test_candidates=400,
    test_proposals=200,
    roi_samples=128,
    detections=60,
  )
  config.data.update(
    train=('train.json', 'images'),
    test=('test.json', 'images'),
    canvases=((256, 320),),
    sides=(240,),
    longest=320,
    max_objects=40,
    workers=0,
  )
  config.schedule.update(
    name='cosine',
    warmup_steps=100,
    factor=config_dict.placeholder(float),
    epochs=config_dict.placeholder(tuple),
  )
  config.init.freeze = config_dict.placeholder(object)
  return config
