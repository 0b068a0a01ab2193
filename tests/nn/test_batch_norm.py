"""The norm of a switch, against the formulas."""

import functools

from arrays import normal
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from slimjax.layers import SwitchableBatchNorm
from slimjax.nn.kernels.batch_norm import batch_norm_train


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
