"""A small detector with all heads on a few scenes, and a run of it."""

from slimjax.configs import digits

WIDTH = 0.125


def get_config(**overrides):
  """Returns a run of four steps; the overrides are of the model."""
  config = digits.get_config()
  with config.unlocked():
    config.epochs = 1
    config.batch_size = 4
    config.eval_batch_size = 4
    config.log_every_steps = 1
    config.eval_every_epochs = 1
    config.model = {
      'name': 'mask_rcnn',
      'backbone': 'resnet14',
      'num_classes': 10,
      'widths': (WIDTH,),
      'keypoints': 4,
      'fpn_features': 16,
      'box_features': 32,
      'mask_features': 16,
      'mask_convs': 1,
      'keypoint_features': 16,
      'keypoint_convs': 1,
      'anchor_sizes': (16, 32, 64, 128, 256),
      'canonical_scale': 56,
      'train_candidates': 50,
      'train_proposals': 40,
      'test_candidates': 50,
      'test_proposals': 20,
      'roi_samples': 16,
      'detections': 10,
      'rpn_samples': 32,
      'min_score': 0.0,
      **overrides,
    }
    config.data = {
      'name': 'digit_scenes', 'train_scenes': 16, 'test_scenes': 6,
    }  # fmt: skip
    config.task = {'name': 'detection'}
    config.loss = {}
    config.init = {'freeze': 'norm,backbone/stem,backbone/stage1_*'}
    config.optimizer = {'nesterov': False, 'clip_norm': 35.0}
    config.schedule = {'name': 'cosine', 'peak_lr': 0.01}
  return config
