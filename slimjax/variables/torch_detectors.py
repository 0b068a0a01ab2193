"""Names of torchvision's detectors with a ResNet and a feature pyramid.

They are fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn,
keypointrcnn_resnet50_fpn, and what resnet_fpn_backbone makes of other depths.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import re

import numpy as np

from slimjax.models.detector import Detector
from slimjax.models.detector import LEVELS
from slimjax.models.net import SlimNet
from slimjax.models.resnet import ResNet
from slimjax.variables.torch_layouts import Layer
from slimjax.variables.torch_layouts import Layout
from slimjax.variables.torch_layouts import resnet_units
from slimjax.variables.torch_layouts import Unit

Arrays = Mapping[str, np.ndarray]
# Names before torchvision 0.14, which its published files still have, and now.
_RENAMED = (
  (r'(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(\w+)', r'\1.0.\2'),
  (r'(rpn\.head\.conv)\.(\w+)', r'\1.0.0.\2'),
  (
    r'roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)',
    lambda m: f'roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}',
  ),
)
_PREDICTOR = 'roi_heads.box_predictor'
_MASK_HEAD = 'roi_heads.mask_head.'
_KEYPOINTS = 'roi_heads.keypoint_predictor.kps_score_lowres'
# COCO's ids go to 90, but 10 of them name nothing.
_COCO_IDS = 90
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def renamed(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns the arrays by the names of torchvision since 0.14."""
  return {_renamed(name): array for name, array in arrays.items()}


def _renamed(name: str) -> str:
  for pattern, new in _RENAMED:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, new, name)
  return name


def without_gaps(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns a detector of COCO's 90 ids as one of its 80 categories.

  Ours are numbered in the order of the ids, which the annotations' file has.
  """
  kept = [i for i in range(_COCO_IDS + 1) if i not in _COCO_GAPS]
  result = dict(arrays)
  for module, columns in (
    (f'{_PREDICTOR}.cls_score', 1),
    (f'{_PREDICTOR}.bbox_pred', 4),
    ('roi_heads.mask_predictor.mask_fcn_logits', 1),
  ):
    for leaf in ('weight', 'bias'):
      name = f'{module}.{leaf}'
      if name in result:
        array = result[name]
        rows = array.reshape(_COCO_IDS + 1, columns, *array.shape[1:])[kept]
        result[name] = rows.reshape(-1, *array.shape[1:])
  return result


def has_gaps(arrays: Arrays, num_classes: int) -> bool:
  """Returns whether `without_gaps` makes a detector of `num_classes` of it."""
  rows = arrays.get(f'{_PREDICTOR}.cls_score.bias', np.zeros(0))
  full = _COCO_IDS + 1
  return len(rows) == full and num_classes == full - 1 - len(_COCO_GAPS)


def with_heads_of(model: SlimNet, arrays: Arrays) -> SlimNet:
  """Returns a detector with the heads that arrays hold, ours or torchvision's.

  Any other network is returned as it is.

  Args:
    model: the network that is to begin with them.
    arrays: arrays by names of torchvision, or by paths of ours.
  """
  if not isinstance(model, Detector):
    return model
  masks = any(
    name.startswith((_MASK_HEAD, 'params/mask_head/')) for name in arrays
  )
  points = (f'{_KEYPOINTS}.bias', 'params/keypoint_head/up/bias')
  keypoints = sum(len(arrays[name]) for name in points if name in arrays)
  return model.clone(masks=masks, keypoints=keypoints)


def _units(model: SlimNet) -> list[Unit]:
  assert isinstance(model, Detector)
  if not isinstance(model.backbone, ResNet):
    raise ValueError(
      f"torchvision's detectors have a ResNet, this one has a"
      f' {type(model.backbone).__name__}'
    )
  return [
    dataclasses.replace(
      unit,
      path=('backbone', *unit.path),
      convs=tuple(f'backbone.body.{name}' for name in unit.convs),
      norms=tuple(f'backbone.body.{name}' for name in unit.norms),
    )
    for unit in resnet_units(model.backbone)
  ]


def _layers(model: SlimNet) -> list[Layer]:
  assert isinstance(model, Detector)
  return [
    Layer(tuple(path.split('/')), module, kind)
    for path, module, kind in _heads(model)
  ]


def _heads(model: Detector) -> Iterator[tuple[str, str, str]]:
  for ours, theirs in (('lateral', 'inner'), ('output', 'layer')):
    for i in range(LEVELS):
      name = f'backbone.fpn.{theirs}_blocks.{i}.0'
      yield f'fpn/{ours}{i + 2}', name, 'conv'
  yield 'rpn/conv', 'rpn.head.conv.0.0', 'conv'
  yield 'rpn/logits', 'rpn.head.cls_logits', 'conv'
  yield 'rpn/deltas', 'rpn.head.bbox_pred', 'conv'
  yield 'box_head/fc6', 'roi_heads.box_head.fc6', 'flattened'
  yield 'box_head/fc7', 'roi_heads.box_head.fc7', 'dense'
  yield 'box_head/logits', f'{_PREDICTOR}.cls_score', 'dense'
  yield 'box_head/deltas', f'{_PREDICTOR}.bbox_pred', 'dense'
  if model.masks:
    for i in range(model.mask_convs):
      yield f'mask_head/conv{i + 1}', f'{_MASK_HEAD}{i}.0', 'conv'
    predictor = 'roi_heads.mask_predictor'
    yield 'mask_head/up', f'{predictor}.conv5_mask', 'transposed'
    yield 'mask_head/logits', f'{predictor}.mask_fcn_logits', 'conv'
  if model.keypoints:
    for i in range(model.keypoint_convs):
      name = f'roi_heads.keypoint_head.{2 * i}'  # a ReLU stands between
      yield f'keypoint_head/conv{i + 1}', name, 'conv'
    yield 'keypoint_head/up', _KEYPOINTS, 'transposed'


DETECTOR = Layout(
  Detector, _units, f'{_PREDICTOR}.cls_score', _layers, background=1
)
