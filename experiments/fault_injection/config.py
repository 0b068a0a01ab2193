"""A run of seconds: digits, four steps, a network of one convolution."""

from flax import linen as nn
import jax

from slimjax.configs import digits
from slimjax.models.net import SlimNet
from slimjax.widths import round_channels
from slimjax.widths import Width


class Net(SlimNet):
  """A convolution and a classifier."""

  @nn.nowrap
  def layer_names(self):
    return [('stem', None)]

  @nn.nowrap
  def uniform_channels(self, width: float):
    return [round_channels(width * 16)]

  @nn.compact
  def __call__(
    self, images: jax.Array, *, width: Width, train: bool = False
  ) -> jax.Array:
    conv = self.conv_norm(nn.relu)
    x = conv(16, 3, 4, name='stem')(
      images, self.channels(width)[0], train=train
    )
    return self.classify(x)


def get_config():
  config = digits.get_config()
  config.epochs = 2
  config.batch_size = 512
  config.eval_every_epochs = 1
  config.log_every_steps = 2
  config.model.name = 'config:Net'
  config.model.widths = (1.0,)
  config.schedule.warmup_epochs = 0.5
  config.schedule.peak_lr = 0.1
  return config
