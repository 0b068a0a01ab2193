"""Detections: what is left of classified and moved proposals."""

import jax
import jax.numpy as jnp

from slimjax.detection.boxes import large_enough
from slimjax.detection.nms import nms
from slimjax.detection.ranking import best


def detections(
  boxes: jax.Array,
  scores: jax.Array,
  valid: jax.Array,
  *,
  min_score: float = 0.05,
  threshold: float = 0.5,
  limit: int = 100,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns boxes [D, 4], scores, labels int32 and valid [D], the best first.

  Every proposal is a box of each class. Those whose score exceeds `min_score`
  are thinned by suppression within their class, and the best `limit` remain
  (Girshick, Fast R-CNN, section 3.1). Labels start at 1; padding is zeros.

  Args:
    boxes: of each proposal and class but the background, in the image, [P, C,
      4].
    scores: probabilities of the classes, whose sum over C is at most 1, [P, C].
    valid: which proposals are not padding, bool [P].
    min_score: score to exceed (default: .05).
    threshold: largest IoU of two detections of a class (default: .5).
    limit: D, how many to return (default: 100).
  """
  classes = scores.shape[1]
  boxes, scores = boxes.reshape(-1, 4), scores.reshape(-1)
  usable = jnp.repeat(valid, classes) & (scores > min_score)
  # Probabilities above min_score are fewer than 1 / min_score a proposal.
  most = min(classes, int(1 / max(min_score, 1e-9)))
  index, valid = best(
    scores, usable & large_enough(boxes, 1e-2), most * len(valid)
  )
  boxes, scores, labels = boxes[index], scores[index], index % classes + 1
  keep = nms(boxes, valid, threshold, limit, groups=labels)
  index, valid = best(scores, keep, limit)
  boxes = jnp.where(valid[:, None], boxes[index], 0)
  scores = jnp.where(valid, scores[index], 0)
  return boxes, scores, jnp.where(valid, labels[index], 0), valid
