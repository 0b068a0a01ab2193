"""Whole detectors of tests/golden/detection (see the README there)."""

import dataclasses
import functools
import json
import re
import zlib

from flax import linen as nn
from flax import traverse_util
import goldens
import jax
import jax.numpy as jnp
import numpy as np

import slimjax
from slimjax.detection.recipe import TORCHVISION
from slimjax.models.detector import Detector
from slimjax.models.net import SlimNet
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import narrow
from slimjax.variables.torch_detectors import DETECTOR
from slimjax.variables.torch_layouts import authors_layout
from slimjax.variables.torch_layouts import resnet_units
from slimjax.variables.torch_names import from_ordinary

# Factors on the rule's deviation.
FACTORS = {
  'rpn.head.bbox_pred.weight': 0.05,
  'rpn.head.cls_logits.weight': 0.25,
  'roi_heads.box_predictor.bbox_pred.weight': 0.5,
  'roi_heads.box_predictor.cls_score.weight': 2,
  'roi_heads.keypoint_predictor.kps_score_lowres.weight': 0.1,
}
# Our names of the losses, and the goldens'.
LOSSES = {
  'objectness': 'loss_objectness',
  'proposal_box': 'loss_rpn_box_reg',
  'classifier': 'loss_classifier',
  'box': 'loss_box_reg',
  'mask': 'loss_mask',
  'keypoint': 'loss_keypoint',
}
OBJECTS = 6  # one more than there are: padding


@functools.cache
def described(case: str) -> dict:
  """Returns {'config', 'keys'} of a case such as 'tiny_mask'."""
  path = goldens.FOLDER / 'detection' / f'{case}.keys.json'
  return json.loads(path.read_text())


def weights(case: str) -> dict[str, np.ndarray]:
  """Returns the weights, the backbone's by the authors' names."""
  keys = dict(described(case)['keys'])
  arrays = {}
  for name, shape in keys.items():
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    factor = FACTORS.get(name, 1)
    if len(shape) == 4:
      fan_in = shape[1] * shape[2] * shape[3]
      array = factor * rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    elif len(shape) == 2:
      array = factor * rng.standard_normal(shape) / np.sqrt(shape[1])
    elif name.endswith('running_var'):
      last = len(described(case)['config']['widths']) - 1
      (widest,) = keys[re.sub(r'bn\.\d+\.', f'bn.{last}.', name)]
      array = rng.uniform(0.5, 1.5, shape) * shape[0] / widest
    elif name.endswith('.weight'):
      array = rng.uniform(0.3, 0.9, shape)
    else:
      array = 0.1 * rng.standard_normal(shape)
    arrays[name] = np.asarray(array, np.float32)
  return arrays


class GivenMasks(Detector):
  """A detector of one width whose targets of masks are the batch's."""

  def mask_targets(self, batch, rois):
    return batch[f'targets/{self.widths[0]}']


def detector(case: str, **numbers) -> Detector:
  """Returns the detector of a case, which samples all anchors and rois.

  Args:
    case: name of the case.
    **numbers: numbers of the recipe that are others.
  """
  config = described(case)['config']
  h, w = config['padded']
  anchors = 3 * sum(-(-h // s) * -(-w // s) for s in (4, 8, 16, 32, 64))
  backbone = slimjax.create_model(
    config['arch'], num_classes=1, widths=config['widths']
  )
  recipe = {
    'anchor_sizes': config['anchor_sizes'],
    'canonical_scale': config['canonical_scale'],
    'train_candidates': config['pre_nms'],
    'test_candidates': config['pre_nms'],
    'train_proposals': config['post_nms'],
    'test_proposals': config['post_nms'],
    'detections': config['detections'],
    'rpn_samples': 2 * anchors,
    'roi_samples': 2 * (config['post_nms'] + OBJECTS),
    'roi_fraction': 0.5,
  }
  return GivenMasks(
    num_classes=config['num_classes'],
    widths=config['widths'],
    backbone=backbone,
    recipe=dataclasses.replace(TORCHVISION, **{**recipe, **numbers}),
    masks=config['task'] == 'mask',
    keypoints=config['keypoints'] * (config['task'] == 'keypoint'),
    fpn_features=config['fpn_channels'],
    box_features=config['box_head'],
    mask_features=config['mask_channels'],
    mask_convs=config['mask_convs'],
    keypoint_features=config['keypoint_channels'],
    keypoint_convs=config['keypoint_convs'],
  )


def torchvision_names(case: str) -> dict[str, str]:
  """Returns {name in the goldens: torchvision's}, of the widest's norms."""
  model = detector(case).backbone
  last = len(model.widths) - 1
  theirs = {unit.path: unit for unit in resnet_units(model)}
  keys = dict(described(case)['keys'])
  names = {name: name for name in keys if not name.startswith('features.')}
  for unit in authors_layout(model).units(model):
    other = theirs[unit.path]
    conv = f'{unit.convs[0]}.weight'
    names[conv] = f'backbone.body.{other.convs[0]}.weight'
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      norm = f'{unit.norms[0]}.bn.{last}.{leaf}'
      names[norm] = f'backbone.body.{other.norms[0]}.{leaf}'
  return names


def torchvision_weights(case: str) -> dict[str, np.ndarray]:
  """Returns the widest network by torchvision's names."""
  arrays = weights(case)
  return {new: arrays[old] for old, new in torchvision_names(case).items()}


@functools.cache
def variables(case: str) -> dict:
  """Returns the variables, read by the names of the authors and torchvision."""
  model, arrays = detector(case), weights(case)
  body = {n: x for n, x in arrays.items() if n.startswith('features.')}
  classifier = {
    'classifier.0.weight': np.zeros((1, model.backbone.full_channels[-1])),
    'classifier.0.bias': np.zeros(1),
  }
  backbone = dict(slimjax.load_torch(model.backbone, {**body, **classifier}))
  backbone['params'].pop('classifier')
  widest = narrow(model, 1.0)
  whole = from_ordinary(widest, DETECTOR, torchvision_weights(case), case)
  found = {'params': {**whole['params'], 'backbone': backbone['params']}}
  for name in ('norm', 'batch_stats'):
    found[name] = {
      switch: {'backbone': tree} for switch, tree in backbone[name].items()
    }
  return jax.tree.map(jnp.asarray, found)


def images(case: str) -> np.ndarray:
  """Returns images [2, h, w, 3], each zero outside of its own size."""
  config = described(case)['config']
  seed = config.get('images', 'detection/images')
  rng = np.random.RandomState(zlib.crc32(seed.encode()))
  nchw = rng.standard_normal((2, 3, *config['padded'])).astype(np.float32)
  found = nchw.transpose(0, 2, 3, 1)
  for image, (h, w) in zip(found, config['sizes'], strict=True):
    image[h:] = image[:, w:] = 0
  return found


def batch(case: str) -> dict[str, np.ndarray]:
  """Returns a batch for training, padded.

  The targets of masks are torchvision's, of the rois that are objects.
  """
  described_as, golden = described(case), goldens.detection(case)
  config = described_as['config']
  padded = lambda name, count=OBJECTS: np.stack(
    [_padded(golden[name.format(i)], count) for i in (0, 1)]
  )
  found = {
    'image': images(case),
    'hw': np.asarray(config['sizes'], np.int32),
    'boxes': padded('targets/{}/boxes'),
    'labels': padded('targets/{}/labels').astype(np.int32),
  }
  if config['task'] == 'keypoint':
    found['keypoints'] = padded('targets/{}/keypoints')
  if config['task'] == 'mask':
    rois = detector(case).recipe.positive_rois
    for width in described_as['widths_run']:
      name = f'{width}/rois/{{}}/mask_targets'
      found[f'targets/{width}'] = padded(name, rois)
  return found


def gradients(case: str, tree, width: float | None = None) -> dict:
  """Returns a gradient of `params` by the goldens' names of the kernels.

  Args:
    case: name of the case.
    tree: gradient of the shared parameters, of full size or of a width's.
    width: the width; default: of full size.
  """
  model = detector(case)
  whole = variables(case)
  flat = traverse_util.flatten_dict(jax.device_get(tree))
  if width is not None:
    for path, cut in cuts(model, width).items():
      if path[0] == 'params':
        zeros = np.zeros(cut.whole_shape, np.float32)
        flat[path[1:]] = np.asarray(cut.put(zeros, flat[path[1:]]))
  widest = {
    name: {'w100': whole[name]['w100']} for name in ('norm', 'batch_stats')
  }
  widest['params'] = traverse_util.unflatten_dict(flat)
  arrays = slimjax.save_torch(narrow(model, 1.0), widest)
  return {old: arrays[new] for old, new in torchvision_names(case).items()}


def _padded(array: np.ndarray, length: int) -> np.ndarray:
  rest = [(0, 0)] * (array.ndim - 1)
  return np.pad(array, [(0, length - len(array)), *rest])


class TinyBackbone(SlimNet):
  """Four convolutions, whose maps have the strides 4, 8, 16 and 32."""

  def layer_names(self):
    return [(f'conv{i}', None) for i in range(1, 5)]

  def uniform_channels(self, width):
    return [int(8 * width)] * 4

  @nn.compact
  def __call__(self, images, *, width, train=False, features_only=False):
    x, conv, maps = images, self.conv_norm(nn.relu), {}
    layers = zip(self.full_channels, self.channels(width), strict=True)
    for i, (full, active) in enumerate(layers, 1):
      conv_i = conv(full, 3, 4 if i == 1 else 2, name=f'conv{i}')
      x = maps[f'stage{i}'] = conv_i(x, active, train=train)
    return maps if features_only else self.classify(x)


BACKBONE = 'detectors:TinyBackbone'


def tiny(widths=(0.5, 1.0), **options) -> Detector:
  """Returns a detector of all heads that compiles in a moment."""
  return slimjax.create_model(
    'mask_rcnn',
    **{
      'backbone': BACKBONE,
      'num_classes': 3,
      'widths': widths,
      'keypoints': 2,
      'fpn_features': 8,
      'box_features': 8,
      'mask_features': 4,
      'mask_convs': 1,
      'keypoint_features': 4,
      'keypoint_convs': 1,
      'anchor_sizes': (8, 16, 32, 64, 128),
      'test_candidates': 50,
      'test_proposals': 30,
      'detections': 10,
      'min_score': 0.0,
      **options,
    },
  )
