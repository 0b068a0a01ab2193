"""Which ground truth a box belongs to, and which boxes a loss sees."""

import jax
import jax.numpy as jnp

from slimjax.detection.boxes import iou
from slimjax.detection.ranking import best
from slimjax.detection.varying import varying_as


def match(
  boxes: jax.Array,
  gt: jax.Array,
  gt_valid: jax.Array,
  *,
  high: float,
  low: float,
  low_quality: float | None = None,
  reassign: bool = False,
  usable: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the ground truth of each box, int32 [N], and its label, int8 [N].

  A box belongs to the ground truth it overlaps most (the first of equals). Its
  label is 1 where that IoU is at least `high`, 0 where it is below `low`, and
  -1, to be ignored, between the two. Without a ground truth all labels are 0.

  The low-quality rule gives every ground truth a box: the boxes that overlap it
  most, all that tie, are positive whatever their IoU (Ren et al., Faster
  R-CNN, section 3.1.2).

  Memory does not grow with N * G, because ground truths pass one at a time;
  time grows with the place of the last valid one, not with the padding.

  Args:
    boxes: anchors or proposals, [N, 4].
    gt: ground truths, [G, 4].
    gt_valid: which of them are not padding, bool [G].
    high: least IoU of a positive.
    low: IoU below which a box is negative; at most `high`.
    low_quality: the low-quality rule for ground truths whose best IoU is at
      least this and above 0 (default: no such rule).
    reassign: whether a low-quality match goes to the ground truth that made it
      positive, the last of several, and not to the one it overlaps most
      (default: no, as in torchvision).
    usable: which boxes take part, bool [N]; the others are ignored and are
      nobody's best (default: all).
  """
  n = len(boxes)
  gt, gt_valid = jnp.asarray(gt, jnp.float32), jnp.asarray(gt_valid)
  none = jnp.full(n, -1.0)
  unmatched = jnp.zeros(n, jnp.int32)

  def pass_one(g, carry):
    highest, matched, forced, owner = carry
    # One set of values serves the maximum and the comparison with it: computed
    # twice, they could round differently and lose a tie.
    overlap = jax.lax.optimization_barrier(iou(boxes, gt[g][None])[:, 0])
    overlap = jnp.where(gt_valid[g], overlap, -1)
    if usable is not None:
      overlap = jnp.where(usable, overlap, -1)
    better = overlap > highest
    highest = jnp.where(better, overlap, highest)
    matched = jnp.where(better, g, matched)
    if low_quality is not None:
      most = overlap.max()
      ties = (overlap == most) & (most > 0) & (most >= low_quality)
      forced |= ties
      owner = jnp.where(ties, g, owner)
    return highest, matched, forced, owner

  ends = jnp.arange(1, len(gt) + 1, dtype=jnp.int32)
  count = jnp.max(jnp.where(gt_valid, ends, 0), initial=0)
  start = varying_as(
    (none, unmatched, jnp.zeros(n, bool), unmatched), boxes, gt, gt_valid
  )
  highest, matched, forced, owner = jax.lax.fori_loop(
    jnp.int32(0), count, pass_one, start
  )
  positive = (highest >= high) | forced
  label = jnp.where(positive, 1, jnp.where(highest < low, 0, -1))
  if usable is not None:
    label = jnp.where(usable, label, -1)
  if reassign:
    matched = jnp.where(forced, owner, matched)
  return matched, label.astype(jnp.int8)


def sample(
  priority: jax.Array, label: jax.Array, n: int, fraction: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns boxes for a loss: index int32 [n], positive [n], valid [n].

  At most n * fraction are positives, the rest negatives, of highest priority
  each. Positives come first, then negatives, then padding of index 0, which
  is there when there are fewer than n boxes to take.

  Args:
    priority: finite numbers, [N]; uniform random ones sample at random.
    label: 1 positive, 0 negative, -1 never taken, [N], as `match` gives them.
    n: how many to take; it may exceed N.
    fraction: largest part of `n` that is positive.
  """
  places = int(n * fraction)
  positives, some = best(priority, label == 1, places)
  negatives, available = best(priority, label == 0, n)
  taken = jnp.sum(some, dtype=jnp.int32)
  slot = jnp.arange(n, dtype=jnp.int32)
  positive = slot < taken
  # Negatives follow the positives taken, not the places for positives.
  place = jnp.where(positive, slot, places + slot - taken)
  index = jnp.concatenate((positives, negatives))[place]
  return index, positive, jnp.concatenate((some, available))[place]
