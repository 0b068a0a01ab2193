"""The feature pyramid and the heads of region-based detectors.

Lin et al., Feature Pyramid Networks, CVPR 2017; Ren et al., Faster R-CNN, NIPS
2015; He et al., Mask R-CNN, ICCV 2017. They have no norms. Only the channels
that come in from the backbone depend on the width: a lateral convolution reads
its leading rows.

What decides (logits, deltas) is computed in float32 at least: in bfloat16
scores would tie.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from slimjax.nn.conv import SlimConv
from slimjax.nn.conv import SlimConvTranspose
from slimjax.nn.dense import SlimDense
from slimjax.nn.norm import statistics_dtype

# Initial weights of the published detectors.
_xavier = nn.initializers.glorot_uniform()
_small = nn.initializers.normal(0.01)
_smaller = nn.initializers.normal(0.001)


class FPN(nn.Module):
  """Joins maps of falling resolution to a pyramid of equal channels.

  Attributes:
    features: channels of every level; default: 256.
    dtype: dtype of the computation; the parameters are float32, the default.
  """

  features: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns P2 to P6 [b, h, w, features] of C2 to C5, any number of maps.

    Each map has half the rows and columns of the one before. The last level is
    every second pixel of the one before, for the anchors alone.
    """
    conv = functools.partial(
      SlimConv,
      self.features,
      use_bias=True,
      dtype=self.dtype,
      kernel_init=_xavier,
    )
    inner = [
      conv(1, name=f'lateral{level}')(c) for level, c in enumerate(maps, 2)
    ]
    for i in reversed(range(len(inner) - 1)):
      inner[i] += upsampled(inner[i + 1])
    levels = [
      conv(3, name=f'output{level}')(x) for level, x in enumerate(inner, 2)
    ]
    return (*levels, levels[-1][:, ::2, ::2])


class RPNHead(nn.Module):
  """Says of every anchor whether it is an object, and how it should move.

  Attributes:
    features: channels of the 3x3 convolution; default: 256.
    anchors: number of anchors of a cell; default: 3.
    dtype: dtype of the convolution; logits and deltas are float32.
  """

  features: int = 256
  anchors: int = 3
  dtype: Any = jnp.float32

  def setup(self):
    conv = functools.partial(SlimConv, use_bias=True, kernel_init=_small)
    self.conv = conv(self.features, 3, dtype=self.dtype)
    dtype = statistics_dtype(self.dtype)
    self.logits = conv(self.anchors, 1, dtype=dtype)
    self.deltas = conv(4 * self.anchors, 1, dtype=dtype)

  def __call__(
    self, levels: Sequence[jax.Array]
  ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Returns logits [b, n] and deltas [b, n, 4] of each level's anchors.

    Args:
      levels: maps [b, h, w, c], all of them through the same weights; the
        anchors' order is rows, columns, anchors of a cell.
    """
    hidden = [nn.relu(self.conv(x)) for x in levels]
    batch = levels[0].shape[0]
    return (
      tuple(self.logits(x).reshape(batch, -1) for x in hidden),
      tuple(self.deltas(x).reshape(batch, -1, 4) for x in hidden),
    )


class BoxHead(nn.Module):
  """Classifies rois, and says for each class how the box should move.

  Attributes:
    num_classes: classes without the background.
    features: outputs of each of the two hidden layers; default: 1024.
    dtype: dtype of the hidden layers; logits and deltas are float32.
  """

  num_classes: int
  features: int = 1024
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, rois: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns logits [..., C + 1] and deltas [..., C + 1, 4] of rois.

    The background is class 0, whose deltas mean nothing.

    Args:
      rois: aligned features, [..., h, w, c].
    """
    hidden = functools.partial(
      SlimDense, self.features, dtype=self.dtype, kernel_init=_xavier
    )
    x = rois.reshape(*rois.shape[:-3], -1)
    x = nn.relu(hidden(name='fc6')(x))
    x = nn.relu(hidden(name='fc7')(x))
    outputs = functools.partial(SlimDense, dtype=statistics_dtype(self.dtype))
    rows = self.num_classes + 1
    logits = outputs(rows, kernel_init=_small, name='logits')(x)
    deltas = outputs(4 * rows, kernel_init=_smaller, name='deltas')(x)
    return logits, deltas.reshape(*deltas.shape[:-1], rows, 4)


class MaskHead(nn.Module):
  """Draws a mask of each class in each roi, twice as fine as the roi.

  Attributes:
    num_classes: classes without the background.
    features: channels; default: 256.
    convs: number of 3x3 convolutions; default: 4.
    dtype: dtype of the computation; the logits are float32.
  """

  num_classes: int
  features: int = 256
  convs: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, rois: jax.Array) -> jax.Array:
    """Returns logits [..., 2h, 2w, C + 1] of rois [..., h, w, c].

    The mask of class 0, the background, means nothing.
    """
    x = _hidden(rois, self.features, self.convs, self.dtype)
    up = SlimConvTranspose(self.features, 2, 2, dtype=self.dtype, name='up')
    x = nn.relu(up(x))
    x = SlimConv(
      self.num_classes + 1,
      1,
      use_bias=True,
      dtype=statistics_dtype(self.dtype),
      name='logits',
    )(x)
    return x.reshape(*rois.shape[:-3], *x.shape[1:])


class KeypointHead(nn.Module):
  """Draws a heat map of each keypoint in each roi, four times as fine.

  Attributes:
    keypoints: number of keypoints.
    features: channels; default: 512.
    convs: number of 3x3 convolutions; default: 8.
    dtype: dtype of the convolutions; the logits are float32.
  """

  keypoints: int
  features: int = 512
  convs: int = 8
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, rois: jax.Array) -> jax.Array:
    """Returns logits [..., 4h, 4w, keypoints] of rois [..., h, w, c]."""
    x = _hidden(rois, self.features, self.convs, self.dtype)
    coarse = SlimConvTranspose(
      self.keypoints,
      4,
      2,
      padding=1,
      dtype=statistics_dtype(self.dtype),
      name='up',
    )(x)
    x = doubled(doubled(coarse, 1), 2)
    return x.reshape(*rois.shape[:-3], *x.shape[1:])


def _hidden(x: jax.Array, features: int, convs: int, dtype: Any) -> jax.Array:
  """Maps rois [..., h, w, c] to [n, h, w, features] by convolutions 3x3."""
  x = x.reshape(-1, *x.shape[-3:])
  for i in range(1, convs + 1):
    conv = SlimConv(features, 3, use_bias=True, dtype=dtype, name=f'conv{i}')
    x = nn.relu(conv(x))
  return x


def upsampled(maps: jax.Array) -> jax.Array:
  """Returns maps of twice the rows and columns, each pixel four times."""
  b, h, w, c = maps.shape
  pixels = jnp.broadcast_to(maps[:, :, None, :, None], (b, h, 2, w, 2, c))
  return pixels.reshape(b, 2 * h, 2 * w, c)


def doubled(maps: jax.Array, axis: int) -> jax.Array:
  """Returns maps of twice the size along an axis, interpolated linearly.

  Pixel centres are at half pixels, and the edge goes on outside (PyTorch's
  `align_corners=False`): new pixels are 3/4 of the nearest and 1/4 of the next.
  """
  n = maps.shape[axis]
  edge = lambda start: lax.slice_in_dim(maps, start, start + 1, axis=axis)
  inner = lambda start: lax.slice_in_dim(maps, start, start + n - 1, axis=axis)
  before = jnp.concatenate([edge(0), inner(0)], axis)
  after = jnp.concatenate([inner(1), edge(n - 1)], axis)
  pairs = jnp.stack([3 * maps + before, 3 * maps + after], axis + 1) / 4
  return lax.collapse(pairs, axis, axis + 2)
