"""Numbers of a detector: which boxes are matched, sampled, proposed, kept."""

from collections.abc import Sequence
import dataclasses

from slimjax.detection.anchors import STRIDES


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Numbers that no weights depend on, but for the anchors of a cell.

  The defaults are those of the published slimmable Faster and Mask R-CNN
  (`PUBLISHED`); `TORCHVISION` and `KEYPOINT_BASELINE` are the others in use.

  Attributes:
    anchor_sizes: square root of the area of the anchors, in pixels, of P2 to
      P6.
    anchor_ratios: rows / columns of the anchors of a cell.
    anchors_over_border: whether anchors that cross the border of the image take
      part in training.
    rpn_high: least IoU of a positive anchor.
    rpn_low: IoU below which an anchor is negative.
    rpn_low_quality: least IoU of an object's best anchor, which is then
      positive; None for no such rule.
    rpn_reassign: whether such an anchor belongs to that object, rather than to
      the one it overlaps most.
    rpn_samples: anchors of an image that the loss sees.
    rpn_fraction: largest part of them that is positive.
    rpn_beta: point from which the loss of their boxes is linear.
    train_candidates, test_candidates: best anchors of a level that NMS sees.
    train_proposals, test_proposals: proposals of all levels that are kept.
    proposal_nms: IoU above which the worse of two proposals is dropped.
    canonical_scale: side in pixels of a roi that is read from P4.
    roi_iou: least IoU of a roi with an object for it to be that object.
    roi_samples: rois of an image that the loss sees.
    roi_fraction: largest part of them that are objects.
    box_beta: as `rpn_beta`, of the rois.
    box_weights: factors of dx, dy, dw, dh of the rois.
    clip_both_sides: whether a side shrinks at most as much as it grows.
    min_score: score that a detection must exceed.
    detection_nms: IoU above which the worse of two detections of a class is
      dropped.
    detections: detections of an image that are kept.
  """

  anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
  anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
  anchors_over_border: bool = False
  rpn_high: float = 0.7
  rpn_low: float = 0.3
  rpn_low_quality: float | None = 0.3
  rpn_reassign: bool = True
  rpn_samples: int = 256
  rpn_fraction: float = 0.5
  rpn_beta: float = 1 / 9
  train_candidates: int = 2000
  train_proposals: int = 2000
  test_candidates: int = 2000
  test_proposals: int = 2000
  proposal_nms: float = 0.7
  canonical_scale: float = 224
  roi_iou: float = 0.5
  roi_samples: int = 512
  roi_fraction: float = 0.25
  box_beta: float = 1.0
  box_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
  clip_both_sides: bool = True
  min_score: float = 0.05
  detection_nms: float = 0.5
  detections: int = 100

  def __post_init__(self):
    for name, count in (
      ('anchor_sizes', len(STRIDES)),
      ('anchor_ratios', None),
      ('box_weights', 4),
    ):
      value = getattr(self, name)
      if not isinstance(value, Sequence) or len(value) != (count or len(value)):
        raise ValueError(
          f'{name} must be {count or "some"} numbers, got {value!r}'
        )
      object.__setattr__(self, name, tuple(value))
    for name in ('rpn_samples', 'roi_samples', 'detections'):
      self._check(name, getattr(self, name) >= 1, 'at least 1')
    for name in ('rpn_fraction', 'roi_fraction', 'rpn_high', 'roi_iou'):
      self._check(name, 0 <= getattr(self, name) <= 1, 'in [0, 1]')
    low = f'at most rpn_high, {self.rpn_high}'
    self._check('rpn_low', self.rpn_low <= self.rpn_high, low)
    for when in ('train', 'test'):
      for what in ('candidates', 'proposals'):
        name = f'{when}_{what}'
        self._check(name, getattr(self, name) >= 1, 'at least 1')

  def _check(self, name: str, right: bool, needed: str) -> None:
    if not right:
      raise ValueError(f'{name} must be {needed}, got {getattr(self, name)}')

  @property
  def positive_rois(self) -> int:
    """Returns the slots of an image for rois that are objects."""
    return int(self.roi_samples * self.roi_fraction)


PUBLISHED = Recipe()
# torchvision's fasterrcnn_resnet50_fpn, maskrcnn_... and keypointrcnn_...
TORCHVISION = Recipe(
  anchors_over_border=True,
  rpn_low_quality=0.0,
  rpn_reassign=False,
  test_candidates=1000,
  test_proposals=1000,
  box_beta=1 / 9,
  clip_both_sides=False,
)
# detectron2's COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.
KEYPOINT_BASELINE = dataclasses.replace(
  TORCHVISION, train_proposals=1500, box_beta=0.5
)
