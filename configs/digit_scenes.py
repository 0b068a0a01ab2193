"""A detector of digits in scenes: boxes, masks and keypoints in minutes.

Command: python -m slimjax.train --config=digit_scenes --workdir=DIR
Source: the recipe is our own; digits and photos come with scikit-learn.
Expected AP of boxes: 31.2 / 32.6 / 33.8 / 33.4 at 0.25 / 0.5 / 0.75 / 1.0
(AP50 51.4 / 52.6 / 53.8 / 52.5), of masks 23.8 to 25.5, of keypoints 14.8 to
17.7; one seed, 100 test scenes. AP50 is past 46 at every width after 600 of the
800 steps.
Expected time: 1.4 s a step on two idle cores of an Intel Xeon, so 19
minutes, and some minutes to compile.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.batch_size = 8
  config.eval_batch_size = 20
  config.epochs = 8
  config.log_every_steps = 25
  config.eval_every_epochs = 2
  config.model.update(
    name='mask_rcnn',
    backbone='resnet14',
    num_classes=10,
    widths=(0.25, 0.5, 0.75, 1.0),
    keypoints=4,
    fpn_features=32,
    box_features=128,
    mask_features=32,
    mask_convs=2,
    keypoint_features=32,
    keypoint_convs=2,
    anchor_sizes=(12, 24, 48, 96, 192),
    anchors_over_border=True,
    canonical_scale=56,
    train_candidates=200,
    train_proposals=100,
    test_candidates=200,
    test_proposals=100,
    roi_samples=64,
    detections=20,
  )
  config.data = {
    'name': 'digit_scenes',
    'train_scenes': 800,
    'test_scenes': 100,
    'seed': 0,
    'masks': True,
    'keypoints': True,
    'max_objects': 4,
    'crop': 56,
    'workers': 0,
  }
  config.schedule.update(
    name='cosine',
    warmup_steps=100,
    factor=config_dict.placeholder(float),
    epochs=config_dict.placeholder(tuple),
  )
  config.init.freeze = config_dict.placeholder(object)
  return config
