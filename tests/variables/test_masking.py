"""A width masked inside a wider program is that width sliced."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SlimLayerNorm
from slimjax.models import mobilenet_v2
from slimjax.variables import masking
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import take_width

# A width of its own for every unit.
CHANNELS = {
  'tiny': (24, 40, 56),
  'resnet14': (
    13,
    *(40, 8, 16, 40),
    *(88, 24, 32, 88),
    *(96, 40, 48, 96),
    *(120, 56, 64, 120),
  ),
  'mobilenet_v2': (20, 8, 40, 16, 88, 16, 200),
}
# What all of MobileNet v2 is made of.
FEW_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2))


def make(name):
  if name == 'tiny':
    return tiny_net.TinyNet(
      num_classes=5, widths=(0.25, 0.5), dtype=jnp.float64
    )
  widths = (0.1, 0.25) if name == 'resnet14' else (0.5, 1.0)
  return slimjax.create_model(
    name, num_classes=5, widths=widths, dtype=jnp.float64
  )


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', CHANNELS)
def test_outputs_statistics_and_gradients(name, monkeypatch):
  monkeypatch.setattr(mobilenet_v2, 'STAGES', FEW_STAGES)
  model, channels = make(name), CHANNELS[name]
  full = model.full_channels
  # Networks with running statistics of (0, 1) and norms that are not (1, 0).
  variables = jax.tree.map(
    jnp.float64,
    model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), width=full),
  )
  variables = nn.meta.unbox(variables)
  keys = iter(jax.random.split(jax.random.key(1), 1000))
  variables['norm'] = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape, x.dtype),
    variables['norm'],
  )
  images = jax.random.normal(jax.random.key(2), (4, 32, 32, 3), jnp.float64)
  cotangent = jax.random.normal(jax.random.key(3), (4, 5), jnp.float64)

  def run(trained, counts, width):
    norm = trained['norm']
    if counts is not None:
      norm = masking.mask_norm(model, norm, counts)
    outputs, moved = model.clone(widths=(width,)).apply(
      {**trained, 'norm': norm, 'batch_stats': state[width]},
      images,
      width=width,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(outputs * cotangent), (outputs, moved['batch_stats'])

  small = take_width(model, variables, width=channels)
  state = {
    full: variables['batch_stats'],
    channels: small['batch_stats'],
  }
  both = []
  for tree, counts, width in (
    (variables, np.asarray(channels, np.int32), full),
    (small, None, channels),
  ):
    trained = {key: tree[key] for key in ('params', 'norm')}
    program = jax.jit(jax.value_and_grad(run, has_aux=True), static_argnums=2)
    both.append(program(trained, counts, width))
  (
    ((_, (masked, masked_state)), gradient),
    ((_, (sliced, sliced_state)), expected),
  ) = both
  # A bias that the next norm takes away has a gradient of rounding alone.
  close = lambda x, y: np.testing.assert_allclose(
    x, y, rtol=0, atol=1e-12 * np.max(np.abs(y)) + 1e-15
  )
  close(masked, sliced)
  # The active part is that of the small network, the rest has no gradient.
  for (collection, *path), cut in cuts(model, channels).items():
    if collection == 'batch_stats':
      whole, part = masked_state, sliced_state
    else:
      whole, part = gradient[collection], expected[collection]
    for key in path:
      whole, part = whole[key], part[key]
    close(cut.take(whole), part)
    if collection != 'batch_stats':
      assert not np.any(cut.put(whole, jnp.zeros_like(part)))


def test_units_are_layers_whose_outputs_are_summed():
  model = slimjax.create_model('resnet14', num_classes=5, widths=(1.0,))
  names = [name for name, _ in model.layer_names()]
  found = [[names[i] for i in places] for places in masking.units(model)]
  assert ['stage1_block1/shortcut', 'stage1_block1/conv3'] in found
  assert sum(map(len, found)) == len(names)


class Biased(tiny_net.TinyNet):
  """Ends in a convolution whose bias no norm takes away."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    full, channels = self.full_channels, self.channels(width)
    x = self.conv_norm(nn.relu)(full[0], 3, 8, name='stem')(
      images, channels[0], train=train
    )
    x = SlimConv(
      full[1],
      1,
      use_bias=True,
      bias_init=nn.initializers.ones,
      name='unit1',
    )(x, channels[1])
    x = SlimConv(full[2], 1, name='unit2')(x, channels[2])
    return self.classify(x)


class Mixed(tiny_net.TinyNet):
  """Has a norm over the channels."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    full, channels = self.full_channels, self.channels(width)
    x = SlimConv(full[0], 3, 8, name='stem')(images, channels[0])
    x = SlimLayerNorm(name='mixing')(x)
    x = SlimConv(full[1], 1, name='unit1')(x, channels[1])
    x = SlimConv(full[2], 1, name='unit2')(x, channels[2])
    return self.classify(x)


@pytest.mark.parametrize('net', [Biased, Mixed])
def test_what_a_mask_would_compute_wrongly_is_refused(net):
  with pytest.raises(ValueError, match='differ from the sliced ones'):
    masking.check_maskable(net(num_classes=3, widths=(0.125, 0.25)))


def test_a_users_network_may_be_masked():
  masking.check_maskable(tiny_net.TinyNet(num_classes=3, widths=(0.125, 0.25)))


def test_shuffles_are_refused():
  model = slimjax.create_model('shufflenet', num_classes=5, widths=(0.5, 1.0))
  with pytest.raises(ValueError, match='do not divide into 3 groups'):
    masking.check_maskable(model)
