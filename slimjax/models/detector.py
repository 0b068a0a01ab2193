"""Faster, Mask and Keypoint R-CNN with a slimmable backbone.

Yu et al., Slimmable Neural Networks, section 4: of a detector only the backbone
is slimmable. The pyramid and the heads have their full size at every width and
are shared by all widths; a thinner width reads the leading rows of the lateral
convolutions. The norms, which only the backbone has, normalise by their running
statistics in training too.

Nothing here reduces over the examples of other devices: a width's forward pass
runs under `jax.shard_map`.
"""

import functools
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp

from slimjax.detection import anchors as placing
from slimjax.detection import losses
from slimjax.detection import stages
from slimjax.detection.heads import BoxHead
from slimjax.detection.heads import FPN
from slimjax.detection.heads import KeypointHead
from slimjax.detection.heads import MaskHead
from slimjax.detection.heads import RPNHead
from slimjax.detection.losses import SumCount
from slimjax.detection.recipe import PUBLISHED
from slimjax.detection.recipe import Recipe
from slimjax.detection.roi_align import roi_align
from slimjax.detection.sampling import Batch
from slimjax.detection.sampling import image_keys
from slimjax.detection.sampling import match_anchors
from slimjax.detection.sampling import Rois
from slimjax.detection.sampling import sample_rois
from slimjax.detection.targets import keypoint_cells
from slimjax.detection.targets import mask_targets
from slimjax.models.net import LayerName
from slimjax.models.net import SlimNet
from slimjax.models.resnet import ResNet
from slimjax.widths import canonical
from slimjax.widths import check_widths
from slimjax.widths import switch_name
from slimjax.widths import Width

# Cells along the sides of an aligned roi.
BOX_CELLS = 7
MASK_CELLS = 14
LEVELS = len(placing.STRIDES) - 1  # P6 is for the anchors alone


class Detector(SlimNet):
  """A region-based detector, as the module says; else as in `SlimNet`.

  Attributes:
    backbone: network whose last four stage maps have strides 4, 8, 16 and 32;
      its widths, dtype, remat and folded become those of the detector. Default:
      ResNet-50.
    recipe: numbers of matching, sampling, proposing and keeping boxes; default:
      the published ones.
    masks: whether there is a mask head; default: no.
    keypoints: number of keypoints of an object; default: 0, no head of them.
    fpn_features: channels of the pyramid and of the RPN; default: 256.
    box_features: hidden channels of the box head; default: 1024.
    mask_features, mask_convs: channels and 3x3 convolutions of the mask head;
      default: 256 and 4.
    keypoint_features, keypoint_convs: likewise; default: 512 and 8.
  """

  backbone: SlimNet = ResNet()
  recipe: Recipe = PUBLISHED
  masks: bool = False
  keypoints: int = 0
  fpn_features: int = 256
  box_features: int = 1024
  mask_features: int = 256
  mask_convs: int = 4
  keypoint_features: int = 512
  keypoint_convs: int = 8

  def __post_init__(self):
    if self.small_stem or self.backbone.small_stem:
      raise ValueError(
        'small_stem changes the strides of the backbone, which are those of'
        ' the anchors: 4, 8, 16, 32; detectors have the published stem. For'
        ' small images give smaller anchor_sizes and canonical_scale'
      )
    options = {
      'widths': check_widths(self.widths),
      'dtype': jnp.dtype(self.dtype),
      'remat': self.remat,
      'folded': self.folded,
    }
    # An equal one stays the same object: Flax tells modules by identity.
    if any(getattr(self.backbone, n) != v for n, v in options.items()):
      backbone = self.backbone.clone(parent=None, **options)
      object.__setattr__(self, 'backbone', backbone)
    super().__post_init__()

  @nn.nowrap
  def layer_names(self) -> list[LayerName]:
    return [
      (f'backbone/{name}', tie and f'backbone/{tie}')
      for name, tie in self.backbone.layer_names()
    ]

  @nn.nowrap
  def uniform_channels(self, width: float) -> list[int]:
    return self.backbone.uniform_channels(width)

  @nn.nowrap
  def check_channels(self, channels: tuple[int, ...]) -> None:
    self.backbone.check_channels(channels)

  @nn.nowrap
  def optional_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    return (jax.ShapeDtypeStruct((1, 2), jnp.int32),)

  def setup(self):
    classes, dtype = self.num_classes, self.dtype
    self.fpn = FPN(self.fpn_features, dtype)
    cell = len(self.recipe.anchor_ratios)
    self.rpn = RPNHead(self.fpn_features, cell, dtype)
    self.box_head = BoxHead(classes, self.box_features, dtype)
    if self.masks:
      self.mask_head = MaskHead(
        classes, self.mask_features, self.mask_convs, dtype
      )
    if self.keypoints:
      self.keypoint_head = KeypointHead(
        self.keypoints, self.keypoint_features, self.keypoint_convs, dtype
      )

  def __call__(
    self,
    images: jax.Array,
    hw: jax.Array | None = None,
    *,
    width: Width,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    """Returns what is seen in `images` [b, h, w, 3] at `width`.

    Args:
      images: preprocessed images, their sides multiples of 32; what lies
        outside `hw` may be anything.
      hw: rows and columns of each canvas that are image, int [b, 2]; default:
        all.
      width: one of the model's widths, or the channels of the backbone.
      train: unused, as nothing here behaves otherwise in training.

    Returns:
      Padded arrays of d detections of each image, the best first: 'boxes' [b,
      d, 4] in pixels of the canvas, 'scores' [b, d], 'labels' int32 [b, d] from
      1, and 'valid' bool [b, d]; with a mask head 'masks' [b, d, 28, 28], the
      probabilities of the detected class within its box; with a keypoint head
      'keypoints' [b, d, 56, 56, K], logits within the box.
    """
    del train
    if hw is None:
      hw = jnp.tile(jnp.asarray([images.shape[1:3]]), (len(images), 1))
    levels = self.pyramid(images, hw, width=width)
    anchors = self.anchors(images)
    proposed = stages.propose(
      self.rpn(levels), anchors, hw, self.recipe, train=False
    )
    rois = self._aligned(levels, proposed[0], BOX_CELLS)
    outputs = stages.detect(self.box_head(rois), proposed, hw, self.recipe)
    if self.masks or self.keypoints:
      rois = self._aligned(levels, outputs['boxes'], MASK_CELLS)
    if self.masks:
      masks = self.mask_head(rois)
      outputs['masks'] = stages.own_masks(masks, outputs['labels'])
    if self.keypoints:
      outputs['keypoints'] = self.keypoint_head(rois)
    return outputs

  # Training.

  @nn.nowrap
  def anchors(self, images: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the anchors of each level, [n, 4], of images [b, h, w, 3]."""
    _, h, w, _ = images.shape
    sizes, ratios = self.recipe.anchor_sizes, self.recipe.anchor_ratios
    return tuple(map(jnp.asarray, placing.anchors((h, w), sizes, ratios)))

  @nn.nowrap
  def match_anchors(self, batch: Batch) -> dict[str, jax.Array]:
    """Returns 'anchor_label' int8 [b, n] and 'anchor_match' int16 [b, n].

    They depend on no weights and no width: they are worked out once a step.

    Args:
      batch: 'image' [b, h, w, 3], of which the shape counts, 'hw', 'boxes' and
        'labels'; see `losses`.
    """
    anchors = jnp.concatenate(self.anchors(batch['image']))
    label, matched = match_anchors(anchors, batch, self.recipe)
    return {'anchor_label': label, 'anchor_match': matched}

  def losses(
    self,
    batch: Batch,
    key: jax.Array | None = None,
    *,
    width: Width,
    train: bool = False,
  ) -> tuple[dict[str, SumCount], dict[str, SumCount]]:
    """Returns losses and metrics of a batch at `width`, each (sum, count).

    The network's loss is the sum of sum / max(count, 1) over the losses.

    Args:
      batch: 'image' [b, h, w, 3], preprocessed; 'hw' int [b, 2], what of it is
        image; 'boxes' [b, G, 4]; 'labels' int [b, G], 0 for padding, from 1;
        with a mask head 'crops' [b, G, m, m], the object's mask in its box;
        with a keypoint head 'keypoints' [b, G, K, 3], x, y and visibility;
        'anchor_label' and 'anchor_match' as `match_anchors` returns them
        (worked out here where they are missing); 'bits' uint32 [b, 2], the
        image's random bits (default: drawn by `key`).
      key: random key. None samples those of least index.
      width: see `__call__`.
      train: unused, as in `__call__`.

    Returns:
      'objectness', 'proposal_box', 'classifier', 'box', and with their heads
      'mask' and 'keypoint'; and the metrics 'accuracy' of the sampled rois'
      classes, and 'recall', the objects that a proposal overlaps enough.
    """
    del train
    recipe, hw = self.recipe, batch['hw']
    anchors = self.anchors(batch['image'])
    if 'anchor_label' not in batch:
      batch = {**batch, **self.match_anchors(batch)}
    place = zlib.crc32(switch_name(canonical(width)).encode())
    first, second = image_keys(batch, key, place)
    levels = self.pyramid(batch['image'], hw, width=width)
    predicted = self.rpn(levels)
    found = stages.first_losses(
      predicted, jnp.concatenate(anchors), batch, first, recipe
    )
    proposed = stages.propose(predicted, anchors, hw, recipe, train=True)
    rois, seen = sample_rois(*proposed, batch, second, recipe)
    predicted = self.box_head(self._aligned(levels, rois.boxes, BOX_CELLS))
    of_boxes, accuracy = stages.second_losses(predicted, rois, recipe)
    recall = stages.counted(seen, batch['labels'] > 0)
    found |= of_boxes
    rois = rois.first(recipe.positive_rois)
    if self.masks or self.keypoints:
      aligned = self._aligned(levels, rois.boxes, MASK_CELLS)
    if self.masks:
      found['mask'] = losses.mask_loss(
        self.mask_head(aligned),
        rois.labels,
        self.mask_targets(batch, rois),
        rois.positive,
      )
    if self.keypoints:
      found['keypoint'] = losses.keypoint_loss(
        self.keypoint_head(aligned), *self.keypoint_targets(batch, rois)
      )
    return found, {'accuracy': accuracy, 'recall': recall}

  # Pieces of a forward pass.

  def features(
    self, images: jax.Array, *, width: Width, train: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the stage maps of the backbone; see `SlimNet.features`."""
    return self.backbone.features(images, width=width, train=train)

  def pyramid(
    self, images: jax.Array, hw: jax.Array, *, width: Width
  ) -> tuple[jax.Array, ...]:
    """Returns P2 to P6 [b, h, w, c]; see `__call__` for the arguments.

    Raises:
      ValueError: the sides of the images are not multiples of 32, or the
        backbone's maps have other strides.
    """
    canvas = images.shape[1:3]
    if any(side % 32 for side in canvas):
      raise ValueError(
        'a detector takes images whose sides are multiples of 32, got'
        f' {canvas[0]}x{canvas[1]}; pad them at the bottom and the right, and'
        ' say by hw what is image'
      )
    # Padding is zero behind the mean, whatever stood there.
    images = stages.blanked(images, hw)
    maps = list(self.features(images, width=width).values())[-LEVELS:]
    strides = [canvas[0] // x.shape[1] for x in maps]
    if strides != [*placing.STRIDES[:LEVELS]]:
      raise ValueError(
        f'{type(self.backbone).__name__} gives maps of the strides {strides},'
        f' but a detector needs {list(placing.STRIDES[:LEVELS])}'
      )
    return self.fpn(maps)

  def mask_targets(self, batch: Batch, rois: Rois) -> jax.Array:
    """Returns the masks [b, m, 28, 28] that the first m rois should get."""
    targets = functools.partial(mask_targets, size=2 * MASK_CELLS)
    return jax.vmap(targets)(
      batch['crops'], batch['boxes'], rois.boxes, rois.matched
    )

  def keypoint_targets(
    self, batch: Batch, rois: Rois
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the cells [b, m, K] of keypoints, and which are valid."""

    def one(points, boxes, matched):
      return keypoint_cells(points[matched], boxes, size=4 * MASK_CELLS)

    cells, valid = jax.vmap(one)(batch['keypoints'], rois.boxes, rois.matched)
    return cells, valid & rois.positive[..., None]

  @nn.nowrap
  def _aligned(self, levels, boxes, cells: int) -> jax.Array:
    """Returns the features [b, n, cells, cells, c] of boxes [b, n, 4]."""
    return roi_align(
      levels[:LEVELS], boxes, cells, canonical_scale=self.recipe.canonical_scale
    )
