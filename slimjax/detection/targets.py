"""What mask and keypoint heads should answer for a roi."""

import jax
from jax import lax
import jax.numpy as jnp


def mask_targets(
  crops: jax.Array,
  gt: jax.Array,
  rois: jax.Array,
  matched: jax.Array,
  *,
  size: int,
) -> jax.Array:
  """Returns the mask each roi should get, float32 of 0 and 1, [R, size, size].

  A cell is 1 where the mask of its ground truth, read bilinearly at the centre
  of the cell and 0 outside its box, is at least a half.

  Args:
    crops: masks within their boxes, of 0 and 1, [G, m, m].
    gt: boxes of the ground truths, [G, 4].
    rois: boxes of the rois, [R, 4].
    matched: ground truth of each roi, int [R].
    size: cells along each side of the answer; 28 in Mask R-CNN.
  """
  m = crops.shape[-1]
  own = jnp.asarray(gt, jnp.float32)[matched]
  rows = _between(rois[:, 1], rois[:, 3], own[:, 1], own[:, 3], size, m)
  columns = _between(rois[:, 0], rois[:, 2], own[:, 0], own[:, 2], size, m)
  masks = jnp.asarray(crops)[matched].astype(jnp.float32)  # [R, m, m]
  # At the default precision a TPU would round the weights to bfloat16.
  read = jnp.einsum(
    'rim,rmn,rjn->rij', rows, masks, columns, precision=lax.Precision.HIGHEST
  )
  return (read >= 0.5).astype(jnp.float32)


def keypoint_cells(
  points: jax.Array, rois: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the cell of each keypoint, int32 [R, K], and valid [R, K].

  A cell is row * size + column; a point exactly on the right or the bottom
  border of its roi is in the last one. Points outside the roi, and those that
  are not labelled, are not valid; their cell is 0.

  Args:
    points: x, y and visibility, which is 0 without a label, [R, K, 3].
    rois: boxes, [R, 4].
    size: cells along each side of a roi; 56 in Mask R-CNN.
  """
  points = jnp.asarray(points, jnp.float32)
  x1, y1, x2, y2 = (rois[:, i, None] for i in range(4))

  def along(point, start, end):
    cell = jnp.floor((point - start) * (size / _sides(start, end)))
    cell = jnp.where(point == end, size - 1, cell)
    return cell, (cell >= 0) & (cell < size)

  column, beside = along(points[..., 0], x1, x2)
  row, above = along(points[..., 1], y1, y2)
  valid = beside & above & (points[..., 2] > 0)
  cell = jnp.where(valid, row * size + column, 0)
  return cell.astype(jnp.int32), valid


def _sides(start: jax.Array, end: jax.Array) -> jax.Array:
  """Returns sides that padding does not divide by zero."""
  return jnp.maximum(end - start, 1e-3)


def _between(start, end, own_start, own_end, size, m):
  """Returns the bilinear weights of a crop's cells along an axis, [R, size, m].

  Args:
    start, end: where the rois begin and end, [R].
    own_start, own_end: where the boxes of their crops do, [R].
    size: cells of a roi.
    m: cells of a crop.
  """
  centres = (jnp.arange(size, dtype=jnp.float32) + 0.5)[None] / size  # [1, s]
  place = start[:, None] + centres * (end - start)[:, None]
  scale = m / _sides(own_start, own_end)
  place = (place - own_start[:, None]) * scale[:, None] - 0.5
  cells = jnp.arange(m, dtype=jnp.float32)[None, None]
  return jnp.maximum(1 - jnp.abs(place[..., None] - cells), 0)
