"""Slimmable Keypoint R-CNN, ResNet-50 and FPN, on COCO (paper, table 5).

Command: python -m slimjax.train --config=keypoint_rcnn
  --config.data.data_dir=DIR --config.init.source=SOURCE --workdir=WORKDIR

DIR holds annotations/person_keypoints_train2017.json, train2017/ and the same
of val2017; SOURCE is as in faster_rcnn.py.

Source: Yu et al., ICLR 2019, section 4 and table 5. The paper gives no numbers
of this detector, and there is no code of it: they are those of detectron2's
keypoint_rcnn_R_50_FPN_1x, whose 90,000 steps are 22 epochs of the pictures with
people, with the warm-up and the clipping of the other two detectors.
Published AP at 1 / 0.75 / 0.5 / 0.25: boxes 52.8 / 52.7 / 51.6 / 48.2,
keypoints 63.9 / 63.6 / 62.6 / 59.5 (trained one by one: 50.5 / 49.6 / 48.5 /
45.4 and 61.3 / 60.5 / 59.8 / 56.7).
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import common


def get_config() -> config_dict.ConfigDict:
  config = common.get_detection_config()
  config.epochs = 22
  config.model.update(
    name='keypoint_rcnn',
    num_classes=1,
    keypoints=17,
    keypoint_features=512,
    keypoint_convs=8,
    anchors_over_border=True,
    rpn_low_quality=0.0,
    rpn_reassign=False,
    train_proposals=1500,
    test_candidates=1000,
    test_proposals=1000,
    box_beta=0.5,
    clip_both_sides=False,
  )
  config.data.update(
    keypoints=True,
    sides=(640, 672, 704, 736, 768, 800),
    least_keypoints=1,
  )
  config.schedule.epochs = (15, 20)  # 60,000 and 80,000 steps
  return config
