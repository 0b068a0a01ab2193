"""A network that compiles at once, and a run of it: for tests of the programs.

It is a network of a user's own: `config.model.name` is NAME. pytest has this
folder on sys.path; a program that a test starts needs it in PYTHONPATH.
"""

from flax import linen as nn
import jax

from slimjax.configs import digits
from slimjax.models.mobilenet_v1 import Unit
from slimjax.models.net import SlimNet
from slimjax.widths import round_channels
from slimjax.widths import Width

NAME = 'tiny_net:TinyNet'
CHANNELS = (64, 128, 256)
STEPS = 22  # an epoch of 64 digits
# For `python -c`: runs a module as `python -m` does, without the seconds in
# which tensorboardX imports torch, should that be installed.
RUN_MODULE = """
import runpy, sys
class WithoutTorch:
  def find_spec(name, path, target=None):
    if name == 'torch':
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, WithoutTorch)
runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)
"""


class TinyNet(SlimNet):
  """The stem and two units of MobileNet v1."""

  @nn.nowrap
  def layer_names(self):
    return [('stem', None), ('unit1', None), ('unit2', None)]

  @nn.nowrap
  def uniform_channels(self, width: float):
    return [round_channels(width * c) for c in CHANNELS]

  @nn.compact
  def __call__(
    self, images: jax.Array, *, width: Width, train: bool = False
  ) -> jax.Array:
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu6)
    x = conv(full[0], 3, 2, name='stem')(images, channels[0], train=train)
    for i in (1, 2):
      unit = Unit(full[i - 1], full[i], 2, conv, name=f'unit{i}')
      x = unit(x, channels[i], train=train)
    return self.classify(x)


def get_config(**overrides):
  """Returns a short run of two widths on the digits; `a__b` is the key a.b."""
  config = digits.get_config()
  overrides = {
    'epochs': 2,
    'eval_every_epochs': 1,
    # Not a divisor of an epoch: sums of training metrics cross checkpoints.
    'log_every_steps': 8,
    'model__name': NAME,
    'model__widths': (0.125, 0.25),
    'schedule__warmup_epochs': 0.5,
    'schedule__peak_lr': 0.1,
    **overrides,
  }
  with config.unlocked():
    for key, value in overrides.items():
      *sections, name = key.split('__')
      section = config
      for part in sections:
        section = section[part]
      with section.ignore_type():
        section[name] = value
  return config
