"""Layers against slices by hand, and kernels against their definitions."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from tiny_net import TinyNet

import slimjax
from slimjax.layers import SlimConv
from slimjax.layers import SlimDense
from slimjax.layers import SwitchableBatchNorm
from slimjax.nn.kernels.batch_norm import batch_norm_train
from slimjax.nn.kernels.convolution import convolve as slim_convolve
from slimjax.nn.kernels.depthwise import depthwise_conv
from slimjax.variables import select

NHWC = ('NHWC', 'HWIO', 'NHWC')


def normal(seed, *shape):
  return np.random.RandomState(seed).standard_normal(shape)


def convolve(inputs, kernel, strides, padding, dilation, groups=1):
  return lax.conv_general_dilated(
    jnp.asarray(inputs),
    jnp.asarray(kernel),
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=NHWC,
    feature_group_count=groups,
  )


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


# The norm.


def norm_variables(channels):
  rng = np.random.RandomState(5)
  return {
    'norm': {
      'scale': rng.uniform(0.5, 1.5, channels),
      'bias': rng.standard_normal(channels),
    },
    'batch_stats': {
      'mean': rng.standard_normal(channels),
      'var': rng.uniform(0.5, 1.5, channels),
    },
  }


def norm_by_hand(variables, inputs, mean, var, epsilon=1e-5):
  scale, bias = variables['norm']['scale'], variables['norm']['bias']
  row = lambda x: np.asarray(x).reshape(1, 1, 1, -1)
  factor = scale / np.sqrt(var + epsilon)
  return (inputs - row(mean)) * row(factor) + row(bias)


def moved_by_hand(variables, mean, var, n, momentum=0.1):
  """Returns statistics moved as by PyTorch; var, over n, becomes unbiased."""
  old = variables['batch_stats']
  return {
    'mean': (1 - momentum) * old['mean'] + momentum * mean,
    'var': (1 - momentum) * old['var'] + momentum * var * n / (n - 1),
  }


@pytest.mark.usefixtures('x64')
def test_norm_in_evaluation_uses_running_statistics():
  variables = norm_variables(5)
  # Small, so that a wrong epsilon shows.
  variables['batch_stats']['var'] *= 1e-4
  inputs = 3 + 2 * normal(0, 2, 3, 4, 5)
  layer = SwitchableBatchNorm(dtype=jnp.float64)
  np.testing.assert_allclose(
    layer.apply(variables, inputs, train=False),
    norm_by_hand(variables, inputs, **variables['batch_stats']),
    rtol=1e-12,
    atol=1e-12,
  )


@pytest.mark.parametrize('options', [{}, {'momentum': 0.3, 'epsilon': 1e-2}])
@pytest.mark.usefixtures('x64')
def test_norm_in_training_uses_the_batch(options):
  variables = norm_variables(5)
  inputs = 3 + 0.02 * normal(0, 2, 3, 4, 5)
  layer = SwitchableBatchNorm(dtype=jnp.float64, **options)
  outputs, new = layer.apply(
    variables, inputs, train=True, mutable=['batch_stats']
  )
  mean, var = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
  by_hand = norm_by_hand(
    variables, inputs, mean, var, options.get('epsilon', 1e-5)
  )
  np.testing.assert_allclose(outputs, by_hand, rtol=0, atol=1e-10)
  expected = moved_by_hand(
    variables, mean, var, 24, options.get('momentum', 0.1)
  )
  for name, value in expected.items():
    np.testing.assert_allclose(new['batch_stats'][name], value, rtol=1e-12)


@pytest.mark.parametrize(
  'groups, active', [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 1, 4, 5, 8, 9])]
)
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.usefixtures('x64')
def test_a_wider_tree_is_sliced(groups, active, train):
  wide = norm_variables(12)
  thin = jax.tree.map(lambda x: x[np.array(active)], wide)
  inputs = 3 + 2 * normal(0, 2, 3, 4, 6)
  outputs, new = SwitchableBatchNorm(groups=groups, dtype=jnp.float64).apply(
    wide, inputs, train=train, mutable=['batch_stats']
  )
  expected, thin_new = SwitchableBatchNorm(dtype=jnp.float64).apply(
    thin, inputs, train=train, mutable=['batch_stats']
  )
  np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)
  for name, old in wide['batch_stats'].items():
    # The idle entries stay as they were.
    value = old.copy()
    value[active] = thin_new['batch_stats'][name]
    np.testing.assert_array_equal(new['batch_stats'][name], value)
    assert np.any(value != old) == train


def test_statistics_of_bfloat16_are_float32():
  variables = jax.tree.map(jnp.float32, norm_variables(5))
  # A mean that eight bits of mantissa, summed in as many, would not give.
  inputs = jnp.asarray(8 + normal(0, 4, 16, 16, 5), jnp.bfloat16)
  outputs, new = SwitchableBatchNorm(dtype=jnp.bfloat16).apply(
    variables, inputs, train=True, mutable=['batch_stats']
  )
  assert outputs.dtype == jnp.bfloat16
  exact = np.asarray(inputs, np.float64)
  mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  for name, value in moved_by_hand(variables, mean, var, 1024).items():
    assert new['batch_stats'][name].dtype == jnp.float32
    np.testing.assert_allclose(new['batch_stats'][name], value, rtol=1e-5)
  by_hand = norm_by_hand(variables, exact, mean, var)
  # Rounded once: half a unit in the last of eight bits.
  np.testing.assert_allclose(
    np.asarray(outputs, np.float64), by_hand, rtol=2**-8, atol=1e-4
  )


def test_a_mean_far_above_the_deviation_does_not_cancel():
  # E[x^2] - E[x]^2 in float32 would be off by more than the variance, 1e-4.
  inputs = np.float32(100 + 0.01 * normal(0, 8, 16, 16, 3))
  target = np.float32(normal(1, *inputs.shape))
  scale, bias = np.float32([0.5, 1.0, 2.0]), np.float32([0.0, 1.0, -1.0])

  def loss(norm, inputs, scale, bias, target):
    outputs, mean, var = norm(inputs, scale, bias)
    return jnp.sum(outputs * target), (outputs, mean, var)

  def plain(inputs, scale, bias):
    row = lambda x: x.reshape(1, 1, 1, -1)
    mean, var = jnp.mean(inputs, (0, 1, 2)), jnp.var(inputs, (0, 1, 2))
    factor = scale / jnp.sqrt(var + 1e-5)
    return (inputs - row(mean)) * row(factor) + row(bias), mean, var

  def run(norm, dtype):
    arguments = [jnp.asarray(x, dtype) for x in (inputs, scale, bias, target)]
    function = functools.partial(loss, norm)
    grad = jax.grad(function, argnums=(0, 1, 2), has_aux=True)
    return jax.tree.map(np.float64, jax.tree.leaves(jax.jit(grad)(*arguments)))

  ours = run(functools.partial(batch_norm_train, epsilon=1e-5), jnp.float32)
  with jax.enable_x64(True):
    expected = run(plain, jnp.float64)
  for actual, value in zip(ours, expected, strict=True):
    error = np.abs(actual - value).max()
    assert error < 5e-3 * np.abs(value).max()


@pytest.mark.usefixtures('x64')
def test_synchronised_norm_is_that_of_the_whole_batch():
  mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
  variables = norm_variables(5)
  # The devices' means differ, and their variances do.
  offsets = np.repeat(np.arange(4.0), 2).reshape(8, 1, 1, 1)
  inputs = jnp.asarray(normal(0, 8, 3, 4, 5) * (1 + offsets) + offsets)
  target = jnp.asarray(normal(1, 8, 3, 4, 5))

  def gradients(axis_name, variables, inputs, target):
    layer = SwitchableBatchNorm(axis_name=axis_name, dtype=jnp.float64)

    def loss(norm, inputs):
      outputs, new = layer.apply(
        {'norm': norm, 'batch_stats': variables['batch_stats']},
        inputs,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(outputs * target), (outputs, new['batch_stats'])

    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (norm, inputs), (outputs, stats) = grad(variables['norm'], inputs)
    return outputs, inputs, norm, stats

  def of_device(variables, inputs, target):
    variables = jax.tree.map(
      lambda x: lax.pcast(x, 'data', to='varying'), variables
    )
    outputs, inputs, norm, stats = gradients('data', variables, inputs, target)
    # Each device's own statistics are looked at: they must all be alike.
    stats = jax.tree.map(lambda x: x[None], stats)
    return outputs, inputs, lax.psum(norm, 'data'), stats

  split = P('data')
  mapped = jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(P(), split, split),
    out_specs=(split, split, P(), split),
  )
  variables = jax.tree.map(jnp.asarray, variables)
  *synchronised, stats = jax.jit(mapped)(variables, inputs, target)
  *whole, whole_stats = gradients(None, variables, inputs, target)
  for name, value in whole_stats.items():
    expected = np.tile(value, (4, 1))
    np.testing.assert_allclose(stats[name], expected, rtol=1e-12)
  for actual, expected in zip(
    jax.tree.leaves(synchronised), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


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


# The kernels of their own on CPU.


def native(inputs, kernel, *, strides, padding='VALID', dilation=(1, 1)):
  groups = inputs.shape[-1] // kernel.shape[2]
  return convolve(inputs, kernel, strides, padding, dilation, groups)


def gradients_of(conv, inputs, kernel, geometry):
  @jax.jit
  def run(inputs, kernel):
    outputs, pull = jax.vjp(functools.partial(conv, **geometry), inputs, kernel)
    # A cotangent that no two positions share.
    cotangent = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype))
    return outputs, *pull(cotangent.reshape(outputs.shape))

  return run(inputs, kernel)


@pytest.mark.parametrize(
  'size, strides, dilation, padding, image',
  [
    (3, (1, 1), (1, 1), ((1, 1), (1, 1)), (7, 10)),
    (3, (2, 2), (1, 1), ((1, 1), (1, 1)), (7, 10)),
    (3, (2, 2), (1, 1), ((1, 1), (1, 1)), (1, 2)),
    (3, (1, 1), (2, 2), ((2, 2), (2, 2)), (9, 8)),
    (3, (2, 2), (2, 2), ((2, 2), (2, 2)), (9, 8)),
    (5, (1, 1), (1, 1), ((2, 2), (2, 2)), (19, 6)),
    (5, (2, 2), (1, 1), ((2, 2), (2, 2)), (37, 11)),
    (5, (2, 2), (2, 2), ((4, 4), (4, 4)), (11, 13)),
    (3, (2, 1), (1, 2), ((0, 1), (2, 0)), (8, 9)),
    (3, (3, 3), (1, 1), ((0, 0), (0, 0)), (11, 10)),
  ],
)
@pytest.mark.usefixtures('x64')
def test_depthwise_kernel_and_its_gradients(
  size, strides, dilation, padding, image
):
  geometry = {'strides': strides, 'padding': padding, 'dilation': dilation}
  inputs = jnp.asarray(normal(0, 2, *image, 6))
  kernel = jnp.asarray(normal(1, size, size, 1, 6))
  ours = gradients_of(depthwise_conv, inputs, kernel, geometry)
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize('strides', [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize('groups', [1, 3])
@pytest.mark.usefixtures('x64')
def test_pointwise_kernel_and_its_gradients(strides, groups):
  inputs = jnp.asarray(normal(0, 2, 7, 10, 6))
  kernel = jnp.asarray(normal(1, 1, 1, 6 // groups, 9))
  geometry = {'strides': strides}
  ours = gradients_of(
    functools.partial(slim_convolve, groups=groups), inputs, kernel, geometry
  )
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
  'size, strides, dilation, padding, image',
  [
    ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (2, 2)),
    ((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1)), (5, 8)),
    ((3, 3), (1, 1), (2, 2), ((2, 2), (2, 2)), (4, 3)),
    ((5, 1), (2, 1), (1, 2), ((2, 1), (0, 3)), (5, 3)),
    ((3, 3), (1, 1), (1, 1), ((-1, 0), (0, -1)), (6, 7)),
    ((2, 2), (2, 2), (1, 1), ((1, 1), (1, 1)), (20, 17)),
  ],
)
@pytest.mark.usefixtures('x64')
def test_kernel_for_small_maps_and_its_gradients(
  size, strides, dilation, padding, image
):
  geometry = {'strides': strides, 'padding': padding, 'dilation': dilation}
  inputs = jnp.asarray(normal(0, 2, *image, 6))
  kernel = jnp.asarray(normal(1, *size, 6, 9))
  ours = gradients_of(slim_convolve, inputs, kernel, geometry)
  expected = gradients_of(native, inputs, kernel, geometry)
  for actual, value in zip(ours, expected, strict=True):
    np.testing.assert_allclose(actual, value, rtol=0, atol=1e-11)


@pytest.mark.parametrize('platform', ['cuda', 'tpu', 'cpu'])
@pytest.mark.parametrize(
  'conv, shape, geometry',
  [
    (
      depthwise_conv,
      (3, 3, 1, 6),
      {'strides': (2, 2), 'padding': ((1, 1), (1, 1))},
    ),
    (slim_convolve, (1, 1, 6, 4), {'strides': (2, 2)}),
    (slim_convolve, (3, 3, 6, 4), {'strides': (3, 3)}),
  ],
)
def test_only_cpu_has_formulations_of_its_own(conv, shape, geometry, platform):
  def both(inputs, kernel):
    return gradients_of(conv, inputs, kernel, geometry)

  inputs = jax.ShapeDtypeStruct((2, 9, 9, 6), jnp.float32)
  kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
  traced = jax.jit(both).trace(inputs, kernel)
  program = traced.lower(lowering_platforms=(platform,)).as_text()
  # One forward, one for each gradient.
  convolutions = program.count('stablehlo.convolution')
  assert convolutions == (0 if platform == 'cpu' else 3)
  assert ('stablehlo.slice' in program) == (platform == 'cpu')
