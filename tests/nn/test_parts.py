"""Layers whose input comes in several slimmed parts."""

from arrays import close
from arrays import convolve
from arrays import drawn
from arrays import normal
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SlimConvTranspose
from slimjax.layers import SlimDense
from slimjax.variables.slicing import cuts


def test_parts_meet_their_rows_of_the_kernel(x64):
  layer = SlimConv(6, in_features=(4, 5), use_bias=True, dtype=jnp.float64)
  params = {'kernel': normal(0, 3, 3, 9, 6), 'bias': normal(1, 6)}
  parts = normal(2, 2, 5, 4, 2), normal(3, 2, 5, 4, 3)

  def ours(params, *parts):
    return layer.apply({'params': params}, parts, 4)

  def by_hand(params, *parts):
    kernel = jnp.asarray(params['kernel'])[:, :, jnp.array([0, 1, 4, 5, 6])]
    outputs = convolve(jnp.concatenate(parts, -1), kernel[..., :4])
    return outputs + params['bias'][None, None, None, :4]

  def run(function):
    loss = lambda *args: jnp.sum(jnp.sin(function(*args)))
    return jax.value_and_grad(loss, (0, 1, 2))(params, *parts)

  close(ours(params, *parts), by_hand(params, *parts))
  close(run(ours), run(by_hand))


def test_parts_of_a_dense_layer(x64):
  layer = SlimDense(6, in_features=(4, 5), dtype=jnp.float64)
  kernel, bias = normal(0, 9, 6), normal(1, 6)
  parts = normal(2, 2, 7, 4), normal(3, 2, 7, 2)
  outputs = layer.apply({'params': {'kernel': kernel, 'bias': bias}}, parts, 3)
  rows = np.concatenate(parts, -1) @ kernel[[0, 1, 2, 3, 4, 5], :3]
  close(outputs, rows + bias[None, None, :3])


def test_parts_of_a_depthwise_convolution(x64):
  layer = SlimConv(
    9, groups=9, in_features=(4, 5), use_bias=True, dtype=jnp.float64
  )
  kernel, bias = normal(0, 3, 3, 1, 9), normal(1, 9)
  parts = normal(2, 2, 5, 4, 3), normal(3, 2, 5, 4, 2)
  outputs = layer.apply({'params': {'kernel': kernel, 'bias': bias}}, parts)
  active = [0, 1, 2, 4, 5]
  expected = convolve(np.concatenate(parts, -1), kernel[..., active], groups=5)
  close(outputs, expected + bias[None, None, None, active])


def test_in_features_size_the_parameters():
  shape = lambda layer, inputs, *args: (
    jax.eval_shape(
      lambda: nn.meta.unbox(layer.init(jax.random.key(0), inputs, *args))
    )['params']['kernel'].shape
  )
  thin = jnp.zeros((1, 4, 4, 2))
  assert shape(SlimConv(8, in_features=6), thin, 4) == (3, 3, 6, 8)
  assert shape(SlimDense(8, in_features=(3, 4)), [thin, thin]) == (7, 8)
  assert shape(SlimConv(6, groups=6), thin) == (3, 3, 1, 6)


@pytest.mark.parametrize(
  'layer, rows, counts, message',
  [
    (SlimConv(6), 9, (2, 3), r'parts of \(2, 3\) .* 9 rows; give in_features'),
    (
      SlimConv(6, in_features=(4, 5)),
      9,
      (5, 3),
      '5 active input channels, .*4',
    ),
    (SlimConv(6, in_features=(4, 5)), 9, (4,), '1 inputs come in, but'),
    (SlimDense(6), 9, (2, 3), 'give in_features'),
    (SlimConv(9, groups=9), 1, (2, 3), r'parts of \(2, 3\).*give in_features'),
    (SlimConv(6, in_features=9), 9, (10,), '10 active input channels'),
  ],
)
def test_parts_that_do_not_fit_are_refused(layer, rows, counts, message):
  window = (3, 3) if isinstance(layer, SlimConv) else ()
  kernel = jnp.zeros((*window, rows, layer.features))
  parts = [jnp.zeros((1, 4, 4, n)) for n in counts]
  with pytest.raises(ValueError, match=message):
    layer.apply({'params': {'kernel': kernel}}, parts)


class Branches(slimjax.SlimNet):
  """Two branches, filtered together and mixed."""

  def layer_names(self):
    return [('a', None), ('b', None), ('mix', None)]

  def uniform_channels(self, width):
    return [int(c * width) for c in (4, 6, 8)]

  def example(self):
    return (jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32),)

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (a, b, mix), (full_a, full_b, full) = (
      self.channels(width),
      self.full_channels,
    )
    options = {'in_features': (full_a, full_b), 'dtype': self.dtype}
    both = full_a + full_b
    x = [
      nn.relu(SlimConv(full_a, dtype=self.dtype, name='a')(images, a)),
      nn.relu(SlimConv(full_b, dtype=self.dtype, name='b')(images, b)),
    ]
    x = SlimConv(both, groups=both, name='filter', **options)(x)
    x = SlimConv(full, 1, name='mix', **options)(jnp.split(x, [a], -1), mix)
    return self.classify(x)


def test_a_network_that_concatenates_branches(x64):
  model = Branches(num_classes=3, widths=(0.5, 1.0), dtype=jnp.float64)
  params = drawn(model)['params']
  images = jnp.asarray(normal(1, 2, 6, 6, 3))
  rows = jnp.array([0, 1, 4, 5, 6])  # of 4 and 6 channels the leading halves

  def by_hand(params):
    kernel = lambda name: jnp.float64(params[name]['kernel'])
    a = convolve(images, kernel('a')[..., :2])
    b = convolve(images, kernel('b')[..., :3])
    x = nn.relu(jnp.concatenate([a, b], -1))
    x = convolve(x, kernel('filter')[..., rows], groups=5)
    x = convolve(x, kernel('mix')[:, :, rows, :4]).mean((1, 2))
    return x @ kernel('classifier')[:4] + params['classifier']['bias'][None]

  variables = {'params': params}
  expected = by_hand(params)
  close(slimjax.apply(model, variables, images, width=0.5), expected)
  small, weights = slimjax.extract(model, variables, width=0.5)
  assert weights['params']['mix']['kernel'].shape == (1, 1, 5, 4)
  close(slimjax.apply(small, weights, images, width=0.5), expected)
  # The gradient of the small tree, put where it belongs in the whole one.
  part = jax.grad(
    lambda weights: jnp.sum(
      jnp.sin(small.apply({'params': weights}, images, width=0.5))
    )
  )(weights['params'])
  found = {
    path: cut.add(jnp.zeros(cut.whole_shape), part[path[1]][path[2]])
    for path, cut in cuts(model, 0.5).items()
  }
  whole = jax.grad(lambda params: jnp.sum(jnp.sin(by_hand(params))))(params)
  for (_, layer, name), gradient in found.items():
    close(gradient, whole[layer][name], 1e-5)  # of float32 parameters
  assert slimjax.check_model(model) == []


def test_macs_of_a_layer_on_maps_and_of_transposed_convolutions():
  class Net(Branches):
    @nn.compact
    def __call__(self, images, *, width, train=False):
      (a, b, _), (full_a, full_b, _) = self.channels(width), self.full_channels
      x = SlimDense(full_a, name='a')(images, a)
      x = SlimConvTranspose(full_b, 2, 2, name='b')(x, b)
      x = SlimConvTranspose(full_b, 4, 2, 1, name='c')(x, b)
      return self.classify(x)

  model = Net(num_classes=3, widths=(0.5, 1.0))
  profile = slimjax.profile_model(model, width=0.5)
  # 36 positions of 3 x 2, each into 4 of 2 x 3, those into 16 taps of 3 x 3
  expected = 36 * 3 * 2 + 36 * 4 * 2 * 3 + 144 * 16 * 3 * 3 + 3 * 3
  assert profile.macs == expected
