"""Proposals: the best boxes of a region proposal network, over all levels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from slimjax.detection.boxes import clip
from slimjax.detection.boxes import decode
from slimjax.detection.boxes import large_enough
from slimjax.detection.nms import nms
from slimjax.detection.ranking import best


def proposals(
  logits: Sequence[jax.Array],
  deltas: Sequence[jax.Array],
  anchors: Sequence[jax.Array],
  hw: jax.Array,
  *,
  candidates: int,
  limit: int,
  threshold: float = 0.7,
  both_sides: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns boxes [P, 4], their logits [P] and valid [P], the best first.

  The best `candidates` of each level are decoded, cut to the image, and thinned
  by suppression within the level; the best of what all levels have left are the
  proposals (Lin et al., Feature Pyramid Networks, section 4.1). They rank by
  logits, because the scores of very sure ones are equal in float32. Padding is
  zeros.

  Args:
    logits: of each level, that its anchors hold an object, [n].
    deltas: of each level, as `decode` reads them, [n, 4].
    anchors: of each level, [n, 4].
    hw: rows and columns of the image within the canvas, [2].
    candidates: anchors of a level that are looked at.
    limit: P, how many to return.
    threshold: largest IoU of two proposals of a level (default: .7).
    both_sides: whether `decode` bounds the shrinking of sides too (default:
      no).
  """
  # All levels are suppressed at once, so each is padded to the longest.
  k = min(candidates, max(len(level) for level in logits))

  def candidates_of(logits, deltas, anchors):
    index, valid = best(logits, jnp.ones(len(logits), bool), k)
    places = jnp.asarray(anchors)[index]
    boxes = clip(decode(deltas[index], places, both_sides=both_sides), hw)
    return boxes, logits[index], valid & large_enough(boxes, 1e-3)

  levels = map(candidates_of, logits, deltas, anchors)
  boxes, scores, valid = map(jnp.stack, zip(*levels, strict=True))
  keep = jax.vmap(lambda b, v: nms(b, v, threshold, limit))(boxes, valid)
  index, valid = best(scores.reshape(-1), keep.reshape(-1), limit)
  boxes = jnp.where(valid[:, None], boxes.reshape(-1, 4)[index], 0)
  return boxes, jnp.where(valid, scores.reshape(-1)[index], 0), valid
