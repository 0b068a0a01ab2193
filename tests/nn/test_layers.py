"""Layers against slices by hand."""

from arrays import close
from arrays import convolve
from arrays import normal
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_net import TinyNet

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SlimConvTranspose
from slimjax.layers import SlimDense
from slimjax.variables import select

# Convolutions.


@pytest.mark.parametrize(
  'options, strides, padding, dilation',
  [
    ({}, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ({'strides': 2}, (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ({'kernel_size': 1, 'strides': 2}, (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ({'kernel_size': 7, 'strides': 2}, (2, 2), ((3, 3), (3, 3)), (1, 1)),
    ({'dilation': 2}, (1, 1), ((2, 2), (2, 2)), (2, 2)),
    ({'padding': 0, 'dilation': 2}, (1, 1), ((0, 0), (0, 0)), (2, 2)),
    (
      {
        'kernel_size': (3, 5),
        'strides': (2, 1),
        'padding': ((0, 1), (2, 3)),
        'dilation': (1, 2),
      },
      (2, 1),
      ((0, 1), (2, 3)),
      (1, 2),
    ),
  ],
)
@pytest.mark.usefixtures('x64')
def test_dense_convolution_uses_leading_channels(
  options, strides, padding, dilation
):
  layer = SlimConv(10, dtype=jnp.float64, use_bias=True, **options)
  size = options.get('kernel_size', 3)
  size = (size, size) if isinstance(size, int) else size
  kernel, bias = normal(0, *size, 6, 10), normal(1, 10)
  inputs = normal(2, 2, 11, 14, 4)
  outputs = layer.apply({'params': {'kernel': kernel, 'bias': bias}}, inputs, 7)
  by_hand = convolve(inputs, kernel[:, :, :4, :7], strides, padding, dilation)
  by_hand += bias[None, None, None, :7]
  np.testing.assert_allclose(outputs, by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.usefixtures('x64')
def test_grouped_convolution_slims_inside_each_group(stride):
  layer = SlimConv(
    15, strides=stride, groups=3, use_bias=True, dtype=jnp.float64
  )
  # 4 inputs and 5 outputs a group, of which 2 and 3 are active
  kernel, bias = normal(0, 3, 3, 4, 15), normal(1, 15)
  inputs = normal(2, 2, 9, 8, 6)
  outputs = layer.apply({'params': {'kernel': kernel, 'bias': bias}}, inputs, 9)
  by_hand = [
    convolve(
      inputs[..., 2 * g : 2 * g + 2],
      kernel[:, :, :2, 5 * g : 5 * g + 3],
      (stride, stride),
      ((1, 1), (1, 1)),
      (1, 1),
    )
    + bias[None, None, None, 5 * g : 5 * g + 3]
    for g in range(3)
  ]
  by_hand = np.concatenate(by_hand, axis=-1)
  np.testing.assert_allclose(outputs, by_hand, rtol=0, atol=1e-12)


@pytest.mark.usefixtures('x64')
def test_dense_convolution_slims_inside_the_groups_behind_it():
  layer = SlimConv(15, 1, out_groups=3, dtype=jnp.float64)
  kernel, inputs = normal(0, 1, 1, 6, 15), normal(1, 2, 5, 4, 4)
  outputs = layer.apply({'params': {'kernel': kernel}}, inputs, 9)
  active = [0, 1, 2, 5, 6, 7, 10, 11, 12]
  by_hand = inputs @ kernel[0, 0, :4][:, active]
  np.testing.assert_allclose(outputs, by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  'stride, dilation, size', [(1, 1, 3), (2, 1, 5), (1, 2, 3), (2, 2, 3)]
)
@pytest.mark.usefixtures('x64')
def test_depthwise_convolution_keeps_its_channels(stride, dilation, size):
  layer = SlimConv(
    10,
    size,
    stride,
    dilation=dilation,
    groups=10,
    use_bias=True,
    dtype=jnp.float64,
  )
  kernel, bias = normal(0, size, size, 1, 10), normal(1, 10)
  inputs = normal(2, 2, 11, 8, 6)
  outputs = layer.apply({'params': {'kernel': kernel, 'bias': bias}}, inputs)
  pad = dilation * (size - 1) // 2
  by_hand = convolve(
    inputs,
    kernel[..., :6],
    (stride, stride),
    ((pad, pad), (pad, pad)),
    (dilation, dilation),
    groups=6,
  )
  by_hand += bias[None, None, None, :6]
  np.testing.assert_allclose(outputs, by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  'size, dilation, pad',
  [(1, 1, 0), (3, 1, 1), (5, 1, 2), (7, 1, 3), (3, 2, 2), (5, 2, 4), (7, 2, 6)],
)
def test_usual_padding_is_that_of_pytorch(size, dilation, pad):
  kernel, inputs = normal(0, size, size, 2, 3), normal(1, 1, 13, 16, 2)
  kernel, inputs = np.float32(kernel), np.float32(inputs)
  usual, told = (
    SlimConv(3, size, 2, padding=padding, dilation=dilation).apply(
      {'params': {'kernel': kernel}}, inputs
    )
    for padding in (None, pad)
  )
  # PyTorch's floor((n + 2 pad - dilation (size - 1) - 1) / stride + 1)
  assert usual.shape == (1, 7, 8, 3)
  np.testing.assert_array_equal(usual, told)


@pytest.mark.usefixtures('x64')
def test_dense_layer_uses_leading_channels():
  layer = SlimDense(7, dtype=jnp.float64)
  kernel, bias, inputs = normal(0, 6, 7), normal(1, 7), normal(2, 3, 4)
  variables = {'params': {'kernel': kernel, 'bias': bias}}
  np.testing.assert_allclose(
    layer.apply(variables, inputs),
    inputs @ kernel[:4] + bias[None],
    atol=1e-12,
  )
  np.testing.assert_allclose(
    layer.apply(variables, inputs, 5),
    inputs @ kernel[:4, :5] + bias[None, :5],
    atol=1e-12,
  )


@pytest.mark.parametrize(
  'layer, channels, active, message',
  [
    (SlimConv(6), 3, 7, '7 active output channels, but it has 1 to 6'),
    (SlimConv(6), 3, 0, '0 active output channels'),
    (SlimConv(6), 5, 6, '5 active input channels, but it has 1 to 4'),
    (SlimConv(6, groups=2), 4, 5, '5 of 6 output channels .* 2 groups'),
    (SlimConv(6, groups=2), 3, 6, '3 input channels .* 2 groups'),
    (SlimConv(6, groups=6), 4, 5, 'a depthwise convolution keeps its channels'),
    (SlimDense(6), 5, None, '5 active input channels, but it has 1 to 4'),
    (SlimDense(6), 4, 7, '7 active output channels, but it has 1 to 6'),
  ],
)
def test_counts_that_do_not_fit_are_refused(layer, channels, active, message):
  fan_in = 1 if getattr(layer, 'depthwise', False) else 4
  window = () if isinstance(layer, SlimDense) else (3, 3)
  variables = {
    'params': {
      'kernel': jnp.zeros((*window, fan_in, 6)),
      'bias': jnp.zeros(6),
    }
  }
  inputs = jnp.zeros((1, *(5 for _ in window), channels))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: layer.apply(variables, inputs, active))


# Transposed convolutions.


def transposed(inputs, kernel, strides, padding):
  """Adds x[i] kernel[a] to out[s * i + a - padding], as PyTorch does."""
  b, h, w, _ = inputs.shape
  kh, kw, _, features = kernel.shape
  (s, t), p = strides, padding
  out = jnp.zeros((b, (h - 1) * s + kh, (w - 1) * t + kw, features))
  for i in range(h):
    for j in range(w):
      for a in range(kh):
        for c in range(kw):
          value = inputs[:, i, j] @ kernel[a, c]
          out = out.at[:, s * i + a, t * j + c].add(value)
  return out[:, p : out.shape[1] - p, p : out.shape[2] - p]


@pytest.mark.parametrize(
  'size, strides, padding',
  [(2, 2, 0), (4, 2, 1), ((3, 2), (2, 1), 1), (2, 3, 0)],
)
def test_transposed_convolution_is_that_of_pytorch(x64, size, strides, padding):
  layer = SlimConvTranspose(5, size, strides, padding, dtype=jnp.float64)
  kh, kw = (size, size) if isinstance(size, int) else size
  both = (strides, strides) if isinstance(strides, int) else strides
  params = {'kernel': normal(0, kh, kw, 4, 5), 'bias': normal(1, 5)}
  params = jax.tree.map(jnp.asarray, params)
  inputs = jnp.asarray(normal(2, 2, 3, 2, 3))

  def ours(params, inputs):
    return layer.apply({'params': params}, inputs, 2)

  def by_hand(params, inputs):
    kernel = params['kernel'][:, :, :3, :2]
    outputs = transposed(inputs, kernel, both, padding)
    return outputs + params['bias'][None, None, None, :2]

  def run(function):
    loss = lambda *args: jnp.sum(jnp.sin(function(*args)))
    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, inputs)

  assert (
    ours(params, inputs).shape == jax.eval_shape(by_hand, params, inputs).shape
  )
  close(run(ours), run(by_hand))


# Precision of a network.


def test_bfloat16_network_has_float32_logits_statistics_and_parameters():
  half = TinyNet(num_classes=1000, widths=(0.5,), dtype=jnp.bfloat16)
  variables = slimjax.init(half, jax.random.key(0), image_size=32)
  images = jnp.float32(normal(0, 2, 32, 32, 3))

  def train(variables):
    selected = select(variables, 'w050')
    return half.apply(
      selected, images, width=0.5, train=True, mutable=['batch_stats']
    )

  results = variables, jax.eval_shape(train, variables)
  dtypes = {x.dtype for x in jax.tree.leaves(results)}
  assert dtypes == {jnp.dtype('float32')}
  logits, expected = (
    slimjax.apply(model, variables, images, width=0.5)
    for model in (half, half.clone(dtype=jnp.float32))
  )
  error = jnp.abs(logits - expected).max() / jnp.abs(expected).max()
  # Eight bits of mantissa, and not more: it was computed in bfloat16.
  assert 1e-4 < error < 0.1
  # Pooling and classifier are of float32: a tie would count as an error.
  for of_image in np.asarray(logits):
    assert len(np.unique(of_image)) == 1000
    assert len(np.unique(jnp.bfloat16(of_image))) < 900
