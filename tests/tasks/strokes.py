"""A task, a network and data of a user's own: which pixels are ink.

The second task of the suite, outside the package: it is named in configurations
as 'strokes:Strokes', 'strokes:InkNet' and 'strokes:create'.
"""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import slimjax
from slimjax.data import digits
from slimjax.data.batches import ArraySplit
from slimjax.data.dataset import Dataset
from slimjax.data.preprocess import Normalise
from slimjax.layers import SlimConv
from slimjax.layers import SlimConvTranspose
from slimjax.tasks.base import add_sums
from slimjax.tasks.base import means
from slimjax.tasks.base import Metric

INK = 100  # of 255, from which a pixel is ink
NORMALISE = Normalise(mean=0.31, std=0.33)


class InkNet(slimjax.SlimNet):
  """Down by two, up by two, a logit per pixel; with dropout between."""

  dropout: float = 0.1

  @nn.nowrap
  def layer_names(self):
    return [('down', None), ('inner', None), ('up', None)]

  @nn.nowrap
  def uniform_channels(self, width):
    return [int(c * width) for c in (16, 32, 16)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    full, active = self.full_channels, self.channels(width)
    conv = self.conv_norm(nn.relu)
    fine = conv(full[0], 3, name='fine')(images, active[0], train=train)
    x = conv(full[0], 3, 2, name='down')(fine, active[0], train=train)
    x = conv(full[1], 3, name='inner')(x, active[1], train=train)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = SlimConvTranspose(full[2], dtype=self.dtype, name='up')(x, active[2])
    # The two maps, each beside the kernel rows that are its own.
    head = SlimConv(
      1, 1, in_features=(full[0], full[2]), use_bias=True, name='head'
    )
    return head([fine.astype(jnp.float32), x.astype(jnp.float32)])[..., 0]


@dataclasses.dataclass(frozen=True)
class Strokes:
  """Per-pixel classification; the headline is the overlap of the ink."""

  metrics: ClassVar[tuple[Metric, ...]] = (
    Metric('iou', 'IoU', '%', 'max'),
    Metric('wrong_pixels', 'wrong pixels', '%'),
  )
  ink_weight: float = 1.0

  def check(self, model, dataset):
    del model, dataset

  def example(self, dataset):
    shape = (1, dataset.image_size, dataset.image_size, 3)
    return {'image': jax.ShapeDtypeStruct(shape, jnp.float32)}

  def loss(self, forward, batch, key, teacher):
    del key, teacher
    logits, ink = forward(batch['image']), batch['ink']
    signs = jnp.where(ink, 1.0, -1.0)
    weights = jnp.where(ink, self.ink_weight, 1.0)
    losses = jnp.mean(weights * jax.nn.softplus(-signs * logits), axis=(1, 2))
    count = jnp.float32(len(losses))
    right = jnp.mean((logits > 0) == ink, axis=(1, 2), dtype=jnp.float32)
    metrics = {
      'loss': (jnp.sum(losses), count),
      'wrong_pixels': (100 * jnp.sum(1 - right), count),
    }
    return losses, None, metrics

  def summarise(self, metrics: Mapping):
    return means(metrics)

  def predict(self, forward, batch):
    logits = forward(batch['image'])
    return {
      'ink': jax.nn.sigmoid(logits),
      'share': jnp.mean(logits > 0, (1, 2)),
    }

  def measure(self, forward, batch):
    said, ink = forward(batch['image']) > 0, batch['ink']
    seen = batch['mask'][:, None, None]
    total = lambda x: jnp.sum(x & seen, dtype=jnp.float32)
    return {
      'both': total(said & ink),
      'either': total(said | ink),
      'wrong': total(said != ink),
      'examples': jnp.sum(batch['mask'], dtype=jnp.float32),
      'pixels': jnp.sum(seen & jnp.ones_like(ink), dtype=jnp.float32),
    }

  def accumulate(self, total, measured):
    return add_sums(total, measured)

  def score(self, total, split):
    del split
    return {
      'iou': float(100 * total['both'] / total['either']),
      'wrong_pixels': float(100 * total['wrong'] / total['pixels']),
      'examples': int(total['examples']),
    }


@dataclasses.dataclass(frozen=True)
class Flip:
  """Mirrors half of the images, each together with its ink."""

  def __call__(self, key, batch):
    turned = jax.random.bernoulli(key, shape=(batch['image'].shape[0],))
    turn = lambda x: jnp.where(
      turned.reshape(-1, *(1,) * (x.ndim - 1)), x[:, :, ::-1], x
    )
    batch = {name: turn(array) for name, array in batch.items()}
    return {**batch, 'image': NORMALISE(batch['image'])}


def create(*, noise: float = 40.0) -> Dataset:
  """Returns some digits under noise; the ink is that of the clean ones."""

  def split(name, count, seed):
    clean = digits.load(name)['image'][:count]
    random = np.random.default_rng(seed)
    noisy = clean + random.normal(0, noise, clean.shape)
    return ArraySplit(
      {
        'image': np.clip(noisy, 0, 255).astype(np.uint8),
        'ink': clean[..., 0] >= INK,
      }
    )

  return Dataset(
    name='strokes',
    num_classes=0,
    class_names=(),
    image_size=digits.IMAGE_SIZE,
    preprocessing='(images / 255 - 0.31) / 0.33',
    splits={'train': split('train', 320, 0), 'test': split('test', 180, 1)},
    augment=Flip(),
    preprocess=NORMALISE,
  )
