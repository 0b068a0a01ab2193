"""A network to try steps on, with its batch and its schedule."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import SlimNet

CLASSES, BATCH, SIZE = 10, 8, 8
RATE = 0.2


class Tiny(SlimNet):
  """One of each layer, so that what is tested is the step."""

  @nn.nowrap
  def layer_names(self):
    return [('stem', None), ('pointwise', None)]

  @nn.nowrap
  def uniform_channels(self, width):
    return [int(16 * width), int(32 * width)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu6)
    x = conv(full[0], 3, 2, name='stem')(images, channels[0], train=train)
    x = conv(full[0], 3, groups=full[0], name='depthwise')(x, train=train)
    x = conv(full[1], 1, name='pointwise')(x, channels[1], train=train)
    return self.classify(x)


def make_model(widths, **options):
  return Tiny(num_classes=CLASSES, widths=widths, **options)


def make_batch(dtype, batch=BATCH, size=SIZE):
  rng = np.random.RandomState(1)
  return {
    'image': rng.standard_normal((batch, size, size, 3)).astype(dtype),
    'label': rng.randint(CLASSES, size=batch).astype(np.int32),
  }


def add_noise(key, batch):
  images = batch['image']
  noise = 0.3 * jax.random.normal(key, images.shape, images.dtype)
  return {**batch, 'image': images + noise}


def schedule(step):
  return RATE / (1.0 + jnp.asarray(step))
