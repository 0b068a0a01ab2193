"""Defines what all configurations share: keys and published constants.

Appendix A of the paper: SGD with momentum 0.9 and Nesterov, weight decay 1e-4
on dense convolutions and the classifier. A configuration fills in the rest.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
  """Returns a configuration to complete: model, data, schedule, epochs."""
  config = config_dict.ConfigDict()
  config.seed = 1995
  config.batch_size = 256
  config.eval_batch_size = 256
  config.epochs = 100
  config.log_every_steps = 100
  config.eval_every_epochs = 1
  config.checkpoint_every_minutes = 10
  config.compilation_cache_dir = '~/.cache/slimjax'
  config.model = {
    'name': '',
    'num_classes': 1000,
    'widths': (0.25, 0.5, 0.75, 1.0),
    'dtype': 'float32',
    'small_stem': False,
    'remat': False,
    'shared': (),
    'axis_name': config_dict.placeholder(str),  # 'data' synchronises the norms
  }
  config.data = {
    'name': 'imagenet2012',
    'augmentation': 'basic',
    'data_dir': config_dict.placeholder(str),
    'image_size': 224,
    'resize': config_dict.placeholder(int),
    'test_split': config_dict.placeholder(str),
    'test_share': 0.2,
    'held_out': 0,
    'held_out_seed': 0,
    'workers': config_dict.placeholder(int),
    'max_corrupt': 10,
  }
  config.optimizer = {
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 1e-4,
    'clip_norm': config_dict.placeholder(float),
  }
  config.schedule = {
    'name': '',
    'peak_lr': 0.1,
    'warmup_epochs': 0.0,
    'factor': config_dict.placeholder(float),
    'epochs': config_dict.placeholder(tuple),
  }
  config.task = {'name': 'classification'}
  config.loss = {'label_smoothing': 0.0, 'inplace_distillation': False}
  config.plan = {'name': 'all'}
  # What the run begins with; patterns of paths as in slimjax/training/parts.py.
  config.init = {
    'source': config_dict.placeholder(str),  # a run, a bundle or a file
    'epsilon': config_dict.placeholder(float),  # of its norms; None: 1e-5
    'sort': config_dict.placeholder(str),  # l1 sorts the channels of the source
    'freeze': config_dict.placeholder(object),  # 'stem,unit[1-4]'
    'rate_factors': config_dict.placeholder(object),  # 'classifier=10'
  }
  return config


def get_detection_config() -> config_dict.ConfigDict:
  """Returns a configuration of a detector to complete: model, data, start.

  The numbers are those of the paper's Faster and Mask R-CNN (the published
  code's R-50-FPN, 1x); see `slimjax.detection.recipe` for their meaning.
  """
  config = get_config()
  config.seed = 0
  config.batch_size = 16
  config.eval_batch_size = 16
  config.epochs = 12
  config.log_every_steps = 50
  config.checkpoint_every_minutes = 20
  config.model = {
    'name': '',
    'backbone': 'resnet50',
    'num_classes': 80,
    'widths': (0.25, 0.5, 0.75, 1.0),
    'dtype': 'float32',
    'remat': False,
    # The pyramid and the heads, which have this size at every width.
    'fpn_features': 256,
    'box_features': 1024,
    # Anchors, and which of them are objects.
    'anchor_sizes': (32, 64, 128, 256, 512),
    'anchor_ratios': (0.5, 1.0, 2.0),
    'anchors_over_border': False,
    'rpn_high': 0.7,
    'rpn_low': 0.3,
    'rpn_low_quality': 0.3,
    'rpn_reassign': True,
    'rpn_samples': 256,
    'rpn_fraction': 0.5,
    'rpn_beta': 1 / 9,
    # Proposals.
    'train_candidates': 2000,
    'train_proposals': 2000,
    'test_candidates': 2000,
    'test_proposals': 2000,
    'proposal_nms': 0.7,
    # Regions of interest.
    'canonical_scale': 224,
    'roi_iou': 0.5,
    'roi_samples': 512,
    'roi_fraction': 0.25,
    'box_beta': 1.0,
    'box_weights': (10.0, 10.0, 5.0, 5.0),
    'clip_both_sides': True,
    # Detections.
    'min_score': 0.05,
    'detection_nms': 0.5,
    'detections': 100,
  }
  config.data = {
    'name': 'coco',
    'data_dir': config_dict.placeholder(str),
    'train': (),  # paths of annotations and pictures; () finds them
    'test': (),
    'masks': False,
    'keypoints': False,
    'canvases': ((800, 1344), (1344, 800)),  # height, width
    'sides': (800,),
    'longest': 1333,
    'flip': 0.5,
    'train_pictures': 'with_objects',
    'least_keypoints': 0,
    'max_objects': 100,
    'crop': 112,
    'test_share': 0.2,
    'split_seed': 0,
    'workers': config_dict.placeholder(int),
    'max_corrupt': 10,
  }
  config.optimizer = {
    'momentum': 0.9,
    'nesterov': False,
    'weight_decay': 1e-4,
    'decay_all': True,
    'clip_norm': 35.0,
  }
  config.schedule = {
    'name': 'multi_step',
    'peak_lr': 0.02,
    'warmup_steps': 500,
    'warmup_start': 1 / 3,
    'factor': 0.1,
    'epochs': (8, 11),
  }
  config.task = {'name': 'detection'}
  config.loss = {'deviations': ()}
  # All norms, of all widths, the stem and the first stage.
  config.init.freeze = ('norm', 'backbone/stem', 'backbone/stage1_*')
  return config
