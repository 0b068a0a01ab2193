"""The two stages of a detector, but for its weights.

The first proposes boxes, the second classifies and moves them. What the heads
return goes in; all arrays have an axis of images first. `batch` and `keys` are
those of `slimjax.detection.sampling`.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.detection import losses
from slimjax.detection.boxes import clip
from slimjax.detection.boxes import decode
from slimjax.detection.detecting import detections
from slimjax.detection.losses import SumCount
from slimjax.detection.proposals import proposals
from slimjax.detection.recipe import Recipe
from slimjax.detection.sampling import Batch
from slimjax.detection.sampling import Rois
from slimjax.detection.sampling import sample_anchors

Losses = dict[str, SumCount]
Levels = tuple[jax.Array, ...]


def blanked(images: jax.Array, hw: jax.Array) -> jax.Array:
  """Returns images [b, h, w, c] that are zero outside of `hw` [b, 2]."""
  rows, columns = (
    jnp.arange(side)[None] < hw[:, axis, None]
    for axis, side in enumerate(images.shape[1:3])
  )
  return jnp.where(
    rows[:, :, None, None] & columns[:, None, :, None], images, 0
  )


def propose(
  predicted: tuple[Levels, Levels],
  anchors: Levels,
  hw: jax.Array,
  recipe: Recipe,
  *,
  train: bool,
) -> tuple[jax.Array, jax.Array]:
  """Returns proposals [b, P, 4], the best first, and which are some, [b, P].

  No gradient passes them.

  Args:
    predicted: logits of being an object, [b, n] of each level's anchors, and
      deltas, how they should move, [b, n, 4].
    anchors: of each level, [n, 4].
    hw: rows and columns of each canvas that are image, [b, 2].
    recipe: the numbers.
    train: whether the numbers of training count, or those of the test.
  """
  when = 'train' if train else 'test'
  one = functools.partial(
    proposals,
    candidates=getattr(recipe, f'{when}_candidates'),
    limit=getattr(recipe, f'{when}_proposals'),
    threshold=recipe.proposal_nms,
    both_sides=recipe.clip_both_sides,
  )
  logits, deltas = lax.stop_gradient(predicted)
  boxes, _, valid = jax.vmap(one, (0, 0, None, 0))(logits, deltas, anchors, hw)
  return boxes, valid


def detect(
  predicted: tuple[jax.Array, jax.Array],
  proposed: tuple[jax.Array, jax.Array],
  hw: jax.Array,
  recipe: Recipe,
) -> dict[str, jax.Array]:
  """Returns 'boxes' [b, d, 4], 'scores', 'labels' and 'valid' [b, d].

  Args:
    predicted: logits of the classes, [b, P, C + 1], the background first, and
      deltas, how each proposal should move, [b, P, C + 1, 4].
    proposed: boxes and which are some, as `propose` returns them.
    hw: rows and columns of each canvas that are image, [b, 2].
    recipe: the numbers.
  """

  def one(logits, deltas, boxes, valid, hw):
    moved = decode(
      deltas[:, 1:],
      boxes[:, None],
      recipe.box_weights,
      both_sides=recipe.clip_both_sides,
    )
    return detections(
      clip(moved, hw),
      jax.nn.softmax(logits)[:, 1:],
      valid,
      min_score=recipe.min_score,
      threshold=recipe.detection_nms,
      limit=recipe.detections,
    )

  boxes, scores, labels, valid = jax.vmap(one)(*predicted, *proposed, hw)
  return {'boxes': boxes, 'scores': scores, 'labels': labels, 'valid': valid}


def own_masks(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the probabilities [b, d, h, w] of the masks of classes [b, d].

  Args:
    logits: of the masks of all classes, [b, d, h, w, C + 1].
    labels: class of each box, 0 for padding.
  """
  own = jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)
  return jax.nn.sigmoid(own[..., 0])


def first_losses(
  predicted: tuple[Levels, Levels],
  anchors: jax.Array,
  batch: Batch,
  keys: jax.Array | None,
  recipe: Recipe,
) -> Losses:
  """Returns the losses 'objectness' and 'proposal_box' of sampled anchors.

  Args:
    predicted: see `propose`.
    anchors: of all levels, [N, 4].
    batch, keys: see the module.
    recipe: the numbers.
  """
  sampled = sample_anchors(anchors, batch, keys, recipe)
  rows = jax.vmap(lambda array, index: array[index])
  logits, deltas = (
    rows(jnp.concatenate(levels, axis=1), sampled.index) for levels in predicted
  )
  objectness, box = losses.proposal_losses(
    logits,
    deltas,
    sampled.targets,
    sampled.positive,
    sampled.valid,
    beta=recipe.rpn_beta,
  )
  return {'objectness': objectness, 'proposal_box': box}


def second_losses(
  predicted: tuple[jax.Array, jax.Array], rois: Rois, recipe: Recipe
) -> tuple[Losses, SumCount]:
  """Returns the losses 'classifier' and 'box' of rois, and their accuracy.

  Args:
    predicted: see `detect`; of the rois.
    rois: the rois.
    recipe: the numbers.
  """
  logits, deltas = predicted
  classifier, box = losses.box_losses(
    logits, deltas, rois.labels, rois.targets, rois.valid, beta=recipe.box_beta
  )
  right = jnp.argmax(logits, axis=-1) == rois.labels
  return {'classifier': classifier, 'box': box}, counted(right, rois.valid)


def counted(right: jax.Array, among: jax.Array) -> SumCount:
  """Returns how many of those `among` are right, and how many they are."""
  return (
    jnp.sum(right & among, dtype=jnp.float32),
    jnp.sum(among, dtype=jnp.float32),
  )
