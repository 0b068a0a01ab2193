"""Losses of proposals, boxes, masks and keypoints on padded arrays.

Each is a sum and a count, so that whoever owns the batch divides: by sampled
anchors, sampled rois, cells of positives, or valid points. What is padding or
negative adds nothing to either, whatever stands there. Everything is float32 at
least.
"""

import jax
import jax.numpy as jnp

from slimjax.nn.norm import statistics_dtype

# A sum, and the number of what it is taken over.
SumCount = tuple[jax.Array, jax.Array]


def mean(loss: SumCount) -> jax.Array:
  """Returns sum / count, and 0 where nothing was counted."""
  total, count = loss
  return total / jnp.maximum(count, 1)


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
  """Returns d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere.

  Girshick, Fast R-CNN, equation 3, with the point at which it turns linear.

  Args:
    difference: d, of any shape.
    beta: point from which the loss is linear; 0 is the plain L1 loss.
  """
  size = jnp.abs(difference)
  if not beta:
    return size
  return jnp.where(size < beta, size * size / (2 * beta), size - beta / 2)


def proposal_losses(
  logits: jax.Array,
  deltas: jax.Array,
  targets: jax.Array,
  positive: jax.Array,
  valid: jax.Array,
  *,
  beta: float,
) -> tuple[SumCount, SumCount]:
  """Returns the losses of sampled anchors: objectness, and their boxes.

  Both are counted over all sampled anchors, positive and negative.

  Args:
    logits: of being an object, [..., n].
    deltas: predicted, [..., n, 4].
    targets: deltas of the ground truth, [..., n, 4]; of positives alone.
    positive: which are positive, bool [..., n].
    valid: which are sampled, bool [..., n]; the others are padding.
    beta: see `smooth_l1`.
  """
  logits = logits.astype(statistics_dtype(logits.dtype))
  # -log sigmoid(x) of positives, -log(1 - sigmoid(x)) of negatives.
  objectness = jax.nn.softplus(jnp.where(positive, -logits, logits))
  count = _count(valid)
  return (
    (_sum(objectness, valid), count),
    (_box_loss(deltas, targets, positive & valid, beta), count),
  )


def box_losses(
  logits: jax.Array,
  deltas: jax.Array,
  labels: jax.Array,
  targets: jax.Array,
  valid: jax.Array,
  *,
  beta: float,
) -> tuple[SumCount, SumCount]:
  """Returns the losses of sampled rois: their classes, and their boxes.

  Both are counted over all sampled rois, the background too.

  Args:
    logits: of the classes, [..., r, C + 1], the background first.
    deltas: predicted, one box for each class, [..., r, C + 1, 4].
    labels: classes, int [..., r], 0 is the background.
    targets: deltas of the ground truth, [..., r, 4]; of objects alone.
    valid: which are sampled, bool [..., r]; the others are padding.
    beta: see `smooth_l1`.
  """
  own = jnp.take_along_axis(deltas, labels[..., None, None], axis=-2)
  count = _count(valid)
  return (
    (_sum(_cross_entropy(logits, labels), valid), count),
    (_box_loss(own[..., 0, :], targets, (labels > 0) & valid, beta), count),
  )


def mask_loss(
  logits: jax.Array, labels: jax.Array, targets: jax.Array, positive: jax.Array
) -> SumCount:
  """Returns the binary cross entropy of the cells of the own class's mask.

  It is counted over the cells of the positives.

  Args:
    logits: one mask for each class, [..., m, h, w, C + 1].
    labels: classes, int [..., m].
    targets: 1 inside of the object, 0 outside, [..., m, h, w].
    positive: which are objects, bool [..., m]; the others are padding.
  """
  own = jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)
  own = own[..., 0].astype(statistics_dtype(logits.dtype))  # [..., m, h, w]
  losses = jax.nn.softplus(own) - own * targets
  cells = own.shape[-2] * own.shape[-1]
  return (
    _sum(jnp.sum(losses, axis=(-2, -1)), positive),
    cells * _count(positive),
  )


def keypoint_loss(
  logits: jax.Array, cells: jax.Array, valid: jax.Array
) -> SumCount:
  """Returns the cross entropy of each keypoint over the cells of its map.

  It is counted over the valid points.

  Args:
    logits: one map for each keypoint, [..., m, h, w, K].
    cells: true cell, row * w + column, int [..., m, K].
    valid: which points are labelled and lie inside, bool [..., m, K].
  """
  *lead, h, w, k = logits.shape
  flat = jnp.moveaxis(logits.reshape(*lead, h * w, k), -1, -2)
  return _sum(_cross_entropy(flat, cells), valid), _count(valid)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  logits = logits.astype(statistics_dtype(logits.dtype))
  own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - own


def _box_loss(deltas, targets, positive, beta) -> jax.Array:
  # Targets of what is no object may be anything, also infinite.
  targets = jnp.where(positive[..., None], targets, 0)
  losses = smooth_l1(
    deltas.astype(statistics_dtype(deltas.dtype)) - targets, beta
  )
  return _sum(jnp.sum(losses, axis=-1), positive)


def _sum(values: jax.Array, counted: jax.Array) -> jax.Array:
  return jnp.sum(jnp.where(counted, values, 0))


def _count(counted: jax.Array) -> jax.Array:
  return jnp.sum(counted, dtype=jnp.float32)
