"""Features of a pyramid inside boxes, bilinearly sampled."""

from collections.abc import Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from slimjax.detection.boxes import level_of
from slimjax.detection.varying import varying_as

# The level of the first map: its cells are 4 x 4 pixels.
_FIRST = 2


def roi_align(
  maps: Sequence[jax.Array],
  rois: jax.Array,
  size: int,
  *,
  sampling: int = 2,
  canonical_scale: float = 224,
) -> jax.Array:
  """Returns the mean of samples in each bin of each roi, [B, R, s, s, C].

  A roi is read from the map `level_of` says, divided into size x size bins, and
  sampled bilinearly at sampling x sampling points of each bin. As in Mask R-CNN
  (He et al., section 3) nothing is rounded; as in torchvision's detectors, map
  cells are not shifted by half a pixel, a roi is at least one cell wide and
  high, a point more than one cell outside is 0, and one nearer is read from the
  border. Weights and sums are float32; the result has the dtype of the maps.
  No gradient reaches the rois.

  Args:
    maps: features of level 2 (stride 4), 3, ..., each [B, rows, columns, C].
    rois: boxes in pixels of the canvas, [B, R, 4].
    size: bins along each side.
    sampling: points along each side of a bin (default: 2).
    canonical_scale: side in pixels of a roi read from level 4 (default: 224).
  """
  shapes = tuple(m.shape[1:3] for m in maps)
  flat = [m.reshape(m.shape[0], -1, m.shape[-1]) for m in maps]
  cells = jnp.concatenate(flat, axis=1)  # [B, cells of all levels, C]
  rois = lax.stop_gradient(jnp.asarray(rois, jnp.float32))
  return _sampled(shapes, size, sampling, canonical_scale, cells, rois)


# A sample is the sum of four cells, a bin the mean of sampling * sampling
# samples: with two, 16 taps. The result is their sum, each a gather times a
# weight, which XLA fuses; an array of all the cells read would be 16 times the
# result. The gradient adds one tap at a time into one buffer.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sampled(shapes, size, sampling, canonical_scale, cells, rois):
  """Returns what `roi_align` does, of all levels' cells, [B, cells, C]."""
  rows, columns = _axes(shapes, size, sampling, canonical_scale, rois)
  flat = cells.reshape(-1, cells.shape[-1])
  total = jnp.float32(0)
  for i in range(2 * sampling):
    for j in range(2 * sampling):
      index, weight = _tap(rows, columns, i, j)
      read = flat.at[index].get(mode='promise_in_bounds')
      total += read.astype(jnp.float32) * weight[..., None]
  return total.astype(cells.dtype)


def _forward(shapes, size, sampling, canonical_scale, cells, rois):
  result = _sampled(shapes, size, sampling, canonical_scale, cells, rois)
  # An empty array remembers the shape and the dtype of the cells.
  return result, (rois, cells[..., :0], cells.shape[-1])


def _backward(shapes, size, sampling, canonical_scale, residuals, cotangent):
  rois, cells, channels = residuals
  rows, columns = _axes(shapes, size, sampling, canonical_scale, rois)
  cotangent = cotangent.astype(jnp.float32)

  def add(number, flat):
    index, weight = _tap(rows, columns, *divmod(number, 2 * sampling))
    return flat.at[index].add(
      weight[..., None] * cotangent, mode='promise_in_bounds'
    )

  flat = jnp.zeros((cells.shape[0] * cells.shape[1], channels), jnp.float32)
  flat = varying_as(flat, rois, cotangent)
  flat = lax.fori_loop(0, (2 * sampling) ** 2, add, flat)
  gradient = flat.reshape(*cells.shape[:2], channels).astype(cells.dtype)
  return gradient, jnp.zeros_like(rois)


_sampled.defvjp(_forward, _backward)


def _tap(rows, columns, i, j):
  """Returns the flat index and the weight of one tap of all bins.

  Args:
    rows: offsets and weights of `_axes` along the rows; i: which of them.
    columns: the same along the columns; j: which of them.

  Returns:
    int32 and float32, [B, R, size, size].
  """
  index = rows[0][i][..., :, None] + columns[0][j][..., None, :]
  return index, rows[1][i][..., :, None] * columns[1][j][..., None, :]


def _axes(shapes, size, sampling, canonical_scale, rois):
  """Returns offsets and weights of the cells that bins read, by axis.

  Each is [2 * sampling, B, R, size]: of every point along a side of a bin, the
  cell before it and the cell after it. The flat index of a cell of any image
  and level is the sum of its row's and its column's offset.
  """
  last = _FIRST + len(shapes) - 1
  level = level_of(rois, canonical_scale, (_FIRST, last)) - _FIRST  # [B, R]
  heights, widths = np.array(shapes, np.int32).T
  ends = np.cumsum(heights * widths, dtype=np.int32)
  image = np.arange(len(rois), dtype=np.int32)[:, None] * ends[-1]
  start = jnp.asarray(ends - heights * widths)[level] + image
  height, width = jnp.asarray(heights)[level], jnp.asarray(widths)[level]
  strides = 2.0 ** np.arange(_FIRST, last + 1, dtype=np.float32)
  scaled = rois / jnp.asarray(strides)[level][..., None]
  x1, y1, x2, y2 = (scaled[..., i] for i in range(4))
  row, row_weight = _axis(y1, y2, height, size, sampling)
  column, column_weight = _axis(x1, x2, width, size, sampling)
  row = start[None, ..., None] + row * width[None, ..., None]
  return (row, row_weight), (column, column_weight)


def _axis(first, last, cells, size, sampling):
  """Returns cells and weights along one axis, see `_axes`.

  Args:
    first: where the rois begin, in cells, [B, R].
    last: where they end, [B, R].
    cells: how many cells the map of each has, [B, R].
    size: bins of a roi.
    sampling: points of a bin.
  """
  bin_side = jnp.maximum(last - first, 1) / size
  # In units of a bin, [sampling, 1, 1, size].
  places = (np.arange(sampling) + 0.5)[:, None] / sampling + np.arange(size)
  places = places[:, None, None].astype(np.float32)
  point = first[None, ..., None] + places * bin_side[None, ..., None]
  cells = cells[None, ..., None]
  read = (point >= -1) & (point <= cells)
  point = jnp.clip(point, 0, cells - 1)
  before = jnp.floor(point)
  part = point - before
  before = before.astype(jnp.int32)
  after = jnp.minimum(before + 1, cells - 1)
  share = jnp.where(read, 1 / sampling, 0)
  weights = jnp.stack(((1 - part) * share, part * share))
  shape = (2 * sampling, *weights.shape[2:])
  return jnp.stack((before, after)).reshape(shape), weights.reshape(shape)
