"""What the losses see of a batch: matched and sampled anchors and rois.

None of it depends on weights, but for the proposals. All arrays have an axis of
images first; `batch` holds 'boxes' [b, G, 4], the objects, and 'labels' int [b,
G], their classes, 0 for padding. `keys` are random keys of the images, [b], or
None, which takes the anchors or rois of least index.
"""

from collections.abc import Mapping

from flax import struct
import jax
import jax.numpy as jnp

from slimjax.detection.anchors import inside
from slimjax.detection.boxes import encode
from slimjax.detection.matching import match
from slimjax.detection.matching import sample
from slimjax.detection.recipe import Recipe

Batch = Mapping[str, jax.Array]


@struct.dataclass
class Anchors:
  """Sampled anchors.

  Attributes:
    index: numbers of the anchors, [b, n].
    positive: which are objects, [b, n].
    valid: which are sampled, [b, n]; the others are padding.
    targets: deltas of their objects, [b, n, 4]; zero of all others.
  """

  index: jax.Array
  positive: jax.Array
  valid: jax.Array
  targets: jax.Array


@struct.dataclass
class Rois:
  """Sampled rois, those that are objects first.

  Attributes:
    boxes: the rois, [b, r, 4].
    labels: their classes, [b, r], 0 for the background.
    positive: which are objects, [b, r].
    valid: which are sampled, [b, r]; the others are padding.
    matched: numbers of their objects, [b, r].
    targets: deltas of their objects, [b, r, 4]; zero of all others.
  """

  boxes: jax.Array
  labels: jax.Array
  positive: jax.Array
  valid: jax.Array
  matched: jax.Array
  targets: jax.Array

  def first(self, n: int) -> 'Rois':
    """Returns the first n of every image."""
    return jax.tree.map(lambda array: array[:, :n], self)


def match_anchors(
  anchors: jax.Array, batch: Batch, recipe: Recipe
) -> tuple[jax.Array, jax.Array]:
  """Returns label int8 [b, N] and object int16 [b, N] of the anchors.

  Args:
    anchors: of all levels, [N, 4].
    batch: see the module; and 'hw' [b, 2], what of the canvas is image.
    recipe: the numbers.
  """

  def one(gt, labels, hw):
    return match(
      anchors,
      gt,
      labels > 0,
      high=recipe.rpn_high,
      low=recipe.rpn_low,
      low_quality=recipe.rpn_low_quality,
      reassign=recipe.rpn_reassign,
      usable=None if recipe.anchors_over_border else inside(anchors, hw),
    )

  matched, label = jax.vmap(one)(batch['boxes'], batch['labels'], batch['hw'])
  return label, matched.astype(jnp.int16)


def sample_anchors(
  anchors: jax.Array, batch: Batch, keys: jax.Array | None, recipe: Recipe
) -> Anchors:
  """Returns the anchors that the loss of the proposals sees.

  Args:
    anchors: of all levels, [N, 4].
    batch: see the module; and 'anchor_label' and 'anchor_match' [b, N], as
      `match_anchors` returns them.
    keys: see the module.
    recipe: the numbers.
  """

  def one(label, matched, gt, key):
    index, positive, valid = sample(
      _priority(key, len(label)),
      label,
      recipe.rpn_samples,
      recipe.rpn_fraction,
    )
    targets = encode(gt[matched[index]], anchors[index])
    targets = jnp.where(positive[:, None], targets, 0)
    return Anchors(index, positive, valid, targets)

  arrays = batch['anchor_label'], batch['anchor_match'], batch['boxes']
  return jax.vmap(one)(*arrays, keys)


def sample_rois(
  proposed: jax.Array,
  valid: jax.Array,
  batch: Batch,
  keys: jax.Array | None,
  recipe: Recipe,
) -> tuple[Rois, jax.Array]:
  """Returns the rois that the heads learn from, and the objects found.

  The objects themselves are among those that may be drawn.

  Args:
    proposed: proposals, [b, P, 4].
    valid: which of them are not padding, bool [b, P].
    batch, keys: see the module.
    recipe: the numbers.

  Returns:
    The rois, and which objects some proposal overlaps enough, bool [b, G].
  """

  def one(proposed, valid, gt, labels, key):
    rois = jnp.concatenate([proposed, gt])
    matched, label = match(
      rois,
      gt,
      labels > 0,
      high=recipe.roi_iou,
      low=recipe.roi_iou,
      usable=jnp.concatenate([valid, labels > 0]),
    )
    hits = slice(0, len(proposed))
    found = jnp.zeros(len(gt), bool).at[matched[hits]].max(label[hits] == 1)
    index, positive, taken = sample(
      _priority(key, len(rois)), label, recipe.roi_samples, recipe.roi_fraction
    )
    rois, matched = rois[index], matched[index]
    targets = encode(gt[matched], rois, recipe.box_weights)
    sampled = Rois(
      boxes=rois,
      labels=jnp.where(positive, labels[matched], 0),
      positive=positive,
      valid=taken,
      matched=matched,
      targets=jnp.where(positive[:, None], targets, 0),
    )
    return sampled, found

  return jax.vmap(one)(proposed, valid, batch['boxes'], batch['labels'], keys)


def image_keys(
  batch: Batch, key: jax.Array | None, place: int
) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns keys [b] for the anchors and for the rois of a batch.

  Args:
    batch: 'image' [b, ...], and random bits of each image, 'bits' uint32 [b,
      2]: with them nothing depends on the device that an image is on.
    key: random key, from which the images' are split where there are no bits;
      None, which samples without it, gives None.
    place: number of the width, folded in.
  """
  if key is None:
    return None, None
  if 'bits' in batch:
    keys = jax.random.wrap_key_data(batch['bits'])
  else:
    keys = jax.random.split(key, len(batch['image']))
  fold = jax.vmap(jax.random.fold_in, (0, None))
  keys = fold(keys, place)
  return fold(keys, 0), fold(keys, 1)


def _priority(key: jax.Array | None, n: int) -> jax.Array:
  if key is None:
    return -jnp.arange(n, dtype=jnp.float32)
  return jax.random.uniform(key, (n,))
