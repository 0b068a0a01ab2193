"""The feature pyramid, equal to torchvision's, and pieces of the heads."""

import zlib

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection.heads import doubled
from slimjax.detection.heads import FPN
from slimjax.detection.heads import RPNHead

FEATURES = 12
CHANNELS = {2: 8, 3: 16, 4: 32, 5: 64}  # at full width
GOLDEN = goldens.detection('fpn')


def drawn(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  values = rng.standard_normal(shape)
  if len(shape) == 1:
    return np.float32(0.1 * values)
  return np.float32(values * np.sqrt(2 / np.prod(shape[1:])))


def parameters():
  """Returns the parameters, and PyTorch's name of each by its path."""
  params, names = {}, {}
  for level, channels in CHANNELS.items():
    for ours, theirs, shape in (
      ('lateral', 'inner', (channels, 1, 1)),
      ('output', 'layer', (FEATURES, 3, 3)),
    ):
      path = f'{ours}{level}'
      name = f'units/fpn.{theirs}_blocks.{level - 2}.0'
      kernel = drawn(f'{name}.weight', (FEATURES, *shape))
      bias = drawn(f'{name}.bias', (FEATURES,))
      params[path] = {'kernel': kernel.transpose(2, 3, 1, 0), 'bias': bias}
      names |= {
        f'{name}.weight': (path, 'kernel'), f'{name}.bias': (path, 'bias')
      }  # fmt: skip
  return jax.tree.map(jnp.asarray, params), names


@pytest.mark.parametrize('width', [1.0, 0.5])
def test_the_pyramid_is_that_of_torchvision(width):
  """A thin map meets the leading rows of the lateral convolutions."""
  fpn, (params, names) = FPN(FEATURES), parameters()
  maps = [jnp.asarray(GOLDEN[f'{width}/c{level}']) for level in CHANNELS]

  def squares(params, maps):
    levels = fpn.apply({'params': params}, maps)
    return sum(jnp.sum(x**2) for x in levels), levels

  run = jax.jit(jax.grad(squares, (0, 1), has_aux=True))
  (of_params, of_maps), levels = run(params, maps)
  for level, found in enumerate(levels, 2):
    step = 4 if level < 4 else 1
    golden = GOLDEN[f'{width}/p{level}']
    gap = np.abs(found[:, ::step, ::step] - golden).max()
    assert gap < 2e-6 * np.abs(golden).max()
    norm = GOLDEN[f'{width}/p{level}/norm']
    assert np.linalg.norm(found) == pytest.approx(norm, rel=1e-6)
  for name, norm in zip(
    GOLDEN['param_names'], GOLDEN[f'{width}/grad_norm'], strict=True
  ):
    path, leaf = names[str(name)]
    found = np.linalg.norm(of_params[path][leaf])
    assert found == pytest.approx(norm, rel=1e-5), name
  for level, gradient in zip(CHANNELS, of_maps, strict=True):
    norm = GOLDEN[f'{width}/c{level}/grad_norm']
    assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-5)


def test_doubled_maps_are_interpolated_linearly():
  maps = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
  found = doubled(doubled(jnp.asarray(maps), 1), 2)
  expected = jax.image.resize(maps, (2, 6, 8, 5), 'linear')
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_decides_is_float32():
  """In bfloat16 the scores of thousands of anchors would tie."""
  head = RPNHead(8, dtype=jnp.bfloat16)
  levels = [jnp.ones((1, 4, 4, 8), jnp.bfloat16)]
  (logits,), (deltas,) = jax.eval_shape(
    lambda: head.init_with_output(jax.random.key(0), levels)[0]
  )
  assert (logits.shape, logits.dtype) == ((1, 48), jnp.float32)
  assert (deltas.shape, deltas.dtype) == ((1, 48, 4), jnp.float32)
