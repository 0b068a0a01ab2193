"""Costs of channels, by two probe networks: equal to what is traced."""

from flax import linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax.searching.costs import macs_of
from slimjax.searching.costs import params_of


@pytest.mark.parametrize('small_stem', [False, True])
def test_any_channels_cost_what_their_program_does(small_stem):
  # As many classes as the first probe has channels.
  model = slimjax.create_model(
    'resnet14', num_classes=1000, widths=(0.25, 1.0), small_stem=small_stem
  )
  channels = (
    13, 40, 8, 16, 40, 88, 24, 32, 88, 96, 40, 48, 96, 120, 56, 64, 120,
  )  # fmt: skip
  profile = slimjax.profile_model(model, width=channels, image_size=(48, 40))
  assert macs_of(model, (48, 40))([channels]) == [profile.macs]
  assert params_of(model, (48, 40))([channels]) == [profile.params]


def test_thousands_of_channels_at_once():
  model = tiny_net.TinyNet(num_classes=7, widths=(0.125, 0.25))
  counts = np.random.default_rng(0).integers(1, 64, (5000, 3))
  costs = macs_of(model, 32)(counts)
  assert costs.dtype == np.int64
  one, two, three = counts.T
  # Stem 27 x 16 x 16; units: 9 + out on half the size, and again; 7 classes.
  expected = (
    27 * 256 * one + 64 * one * (9 + two) + 16 * two * (9 + three) + 7 * three
  )
  np.testing.assert_array_equal(costs, expected)


class Joined(tiny_net.TinyNet):
  """Joins the maps of two layers, so that an axis is the channels of both."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    full, channels = self.full_channels, self.channels(width)
    conv = self.conv_norm(nn.relu)
    x = conv(full[0], 3, 8, name='stem')(images, channels[0], train=train)
    y = conv(full[1], 3, 1, name='unit1')(x, channels[1], train=train)
    joined = jnp.concatenate([x, y], axis=-1)
    z = conv(full[2], 1, name='unit2')(joined, channels[2], train=train)
    return self.classify(z)


def test_what_is_no_layer_of_its_own_is_refused():
  model = Joined(num_classes=7, widths=(0.125, 0.25))
  with pytest.raises(ValueError, match='Networks that join maps'):
    macs_of(model, 32)
