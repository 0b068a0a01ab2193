"""Greedy non-maximum suppression, in tiles."""

import jax
from jax import lax
import jax.numpy as jnp

from slimjax.detection.boxes import iou
from slimjax.detection.varying import varying_as


def nms(
  boxes: jax.Array,
  valid: jax.Array,
  threshold: float,
  limit: int,
  *,
  groups: jax.Array | None = None,
  tile: int = 256,
) -> jax.Array:
  """Returns which boxes greedy suppression keeps, bool [N].

  A box is kept unless a kept one before it overlaps it by more than
  `threshold`; an IoU of exactly that stays. Nothing after a box matters to it,
  so of a list that was cut at some score the result is the exact beginning.

  The boxes pass in tiles. Kept boxes of earlier tiles suppress those of a tile
  one pair of tiles at a time; inside the tile, suppression is repeated until
  nothing changes. That takes as many rounds as the longest chain of boxes that
  overlap in turn, at most `tile`, so the worst case is bounded, and memory is
  that of one pair. Tiles past the `limit` or the last valid box cost nothing.

  Args:
    boxes: by falling score, [N, 4].
    valid: which of them are not padding, bool [N]; the others are not kept and
      suppress nothing.
    threshold: largest IoU of two boxes that both stay.
    limit: how many to keep; all after are dropped.
    groups: classes or levels, int [N]; only boxes of the same one suppress each
      other (default: all are of one).
    tile: boxes of a tile (default: 256).
  """
  n = len(boxes)
  tile = min(tile, max(n, 1))
  tiles = -(-n // tile)
  rows = lambda array: jnp.pad(
    array, ((0, tiles * tile - n),) + ((0, 0),) * (array.ndim - 1)
  ).reshape(tiles, tile, *array.shape[1:])
  boxes, valid = rows(jnp.asarray(boxes, jnp.float32)), rows(valid)
  groups = None if groups is None else rows(groups)

  def overlaps(i, j, among):
    """Returns the IoU of tile i with what tile j has `among` it, [t, t]."""
    # A box of zeros overlaps nothing.
    found = iou(boxes[i], jnp.where(among[:, None], boxes[j], 0))
    if groups is None:
      return found
    return jnp.where(groups[i][:, None] == groups[j][None], found, 0)

  def one_tile(state):
    i, count, keep = state

    # The largest of a row is compared, and not each: XLA vectorises that.
    def left_by(j, left):
      return left & ~(overlaps(i, j, keep[j]).max(axis=1) > threshold)

    candidates = lax.fori_loop(0, i, left_by, valid[i])
    earlier = jnp.tri(tile, k=-1, dtype=bool)
    inside = (overlaps(i, i, candidates) > threshold) & earlier
    inside = inside.T  # Columns of bools are reduced faster than rows.

    def left_inside(kept):
      return candidates & ~jnp.any(inside & kept[:, None], axis=0)

    # After round k the first k boxes are right: those before them were.
    kept, _ = lax.while_loop(
      lambda pair: jnp.any(pair[0] != pair[1]),
      lambda pair: (left_inside(pair[0]), pair[0]),
      (left_inside(candidates), candidates),
    )
    kept &= count + jnp.cumsum(kept, dtype=jnp.int32) <= limit
    count += jnp.sum(kept, dtype=jnp.int32)
    return i + 1, count, keep.at[i].set(kept)

  used = jnp.any(valid, axis=1)
  last = jnp.max(
    jnp.where(used, jnp.arange(1, tiles + 1, dtype=jnp.int32), 0), initial=0
  )
  _, _, keep = lax.while_loop(
    lambda state: (state[0] < last) & (state[1] < limit),
    one_tile,
    (jnp.int32(0), *varying_as((jnp.int32(0), jnp.zeros_like(valid)), valid)),
  )
  return keep.reshape(-1)[:n]
