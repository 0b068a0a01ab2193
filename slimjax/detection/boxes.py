"""Area, overlap, coding and pyramid level of boxes x1 y1 x2 y2."""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp

# A side grows by this factor at most; Faster R-CNN codes (torchvision,
# Detectron) use the ratio of the canvas to the smallest stride.
_LARGEST = math.log(1000 / 16)


def area(boxes: jax.Array) -> jax.Array:
  """Returns the areas of boxes, [..., 4] -> [...]."""
  x1, y1, x2, y2 = _columns(boxes)
  return (x2 - x1) * (y2 - y1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns intersection over union of every pair, float32 [..., N, M].

  The boxes are [..., N, 4] and [..., M, 4]; without area, two have an IoU of 0.
  """
  ax1, ay1, ax2, ay2 = (side[..., :, None] for side in _columns(a))
  bx1, by1, bx2, by2 = (side[..., None, :] for side in _columns(b))
  width = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1)
  height = jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
  intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
  union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
  return intersection / jnp.maximum(union, jnp.finfo(jnp.float32).tiny)


def encode(
  boxes: jax.Array, references: jax.Array, weights: Sequence[float] = (1,) * 4
) -> jax.Array:
  """Returns the deltas that turn `references` into `boxes`, [..., 4].

  dx and dy shift the centre by parts of the reference's sides, dw and dh are
  the logarithms of the sides' growth (Girshick et al., R-CNN, appendix C).

  Args:
    boxes: boxes to reach, [..., 4]; their sides are positive.
    references: anchors or proposals, [..., 4]; their sides are positive.
    weights: factors of dx, dy, dw, dh; 10 10 5 5 in box heads (default: ones).
  """
  x, y, w, h = _centres(boxes)
  rx, ry, rw, rh = _centres(references)
  deltas = ((x - rx) / rw, (y - ry) / rh, jnp.log(w / rw), jnp.log(h / rh))
  weighted = [delta * k for delta, k in zip(deltas, weights, strict=True)]
  return jnp.stack(weighted, axis=-1)


def decode(
  deltas: jax.Array,
  references: jax.Array,
  weights: Sequence[float] = (1,) * 4,
  *,
  both_sides: bool = False,
) -> jax.Array:
  """Returns the boxes that `deltas` make of `references`, [..., 4].

  Args:
    deltas: dx, dy, dw, dh times `weights`, [..., 4].
    references: anchors or proposals, [..., 4], broadcast against `deltas`.
    weights: those of `encode` (default: ones).
    both_sides: whether a side shrinks at most 62.5 times as well, and not only
      grows at most so (default: no, as in torchvision).
  """
  dx, dy, dw, dh = (
    delta / k for delta, k in zip(_columns(deltas), weights, strict=True)
  )
  smallest = -_LARGEST if both_sides else -math.inf
  rx, ry, rw, rh = _centres(references)
  x, y = dx * rw + rx, dy * rh + ry
  w = jnp.exp(jnp.clip(dw, smallest, _LARGEST)) * rw / 2
  h = jnp.exp(jnp.clip(dh, smallest, _LARGEST)) * rh / 2
  return jnp.stack((x - w, y - h, x + w, y + h), axis=-1)


def clip(boxes: jax.Array, hw: jax.Array) -> jax.Array:
  """Returns boxes cut to an image of `hw` rows and columns, [..., 4]."""
  h, w = hw[0], hw[1]
  cut = (
    jnp.clip(side, 0, most)
    for side, most in zip(_columns(boxes), (w, h, w, h), strict=True)
  )
  return jnp.stack(tuple(cut), axis=-1)


def large_enough(boxes: jax.Array, side: float) -> jax.Array:
  """Returns which boxes have sides of at least `side`, [..., 4] -> [...]."""
  x1, y1, x2, y2 = _columns(boxes)
  return (x2 - x1 >= side) & (y2 - y1 >= side)


def level_of(
  boxes: jax.Array, canonical_scale: float = 224, levels: Sequence[int] = (2, 5)
) -> jax.Array:
  """Returns the pyramid level each box is read from, [..., 4] -> int32 [...].

  It is floor(4 + log2(sqrt(area) / canonical_scale)) within the levels there
  are (Lin et al., Feature Pyramid Networks, equation 1).

  Args:
    boxes: boxes, [..., 4].
    canonical_scale: the side in pixels that belongs to level 4 (default: 224).
    levels: the first and the last level there is (default: 2, 5).
  """
  first, last = levels
  # Areas are compared because logarithms round differently on each backend.
  # The 1e-6 lets a box just below a boundary pass, as torchvision does.
  areas = area(boxes)
  level = jnp.full(areas.shape, first, jnp.int32)
  for k in range(first + 1, last + 1):
    level += areas >= (canonical_scale * 2 ** (k - 4 - 1e-6)) ** 2
  return level


def _columns(array: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the four columns of boxes or deltas, float32 [...]."""
  array = jnp.asarray(array, jnp.float32)
  return tuple(array[..., i] for i in range(4))


def _centres(boxes: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the centres and the sides of boxes: x, y, w, h, each [...]."""
  x1, y1, x2, y2 = _columns(boxes)
  return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
