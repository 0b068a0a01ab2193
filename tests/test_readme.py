"""The README's Python runs as it stands there."""

import functools
import re

import jax
import jax.numpy as jnp
from places import ROOT
import pytest

import slimjax
from slimjax.analysis import features
from slimjax.variables import select

README = ROOT / 'README.md'
BLOCKS = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


@functools.cache
def run(block):
  names = {}
  exec(block, names)
  return names


@pytest.mark.parametrize('block', BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(block):
  names = run(block)
  assert names['logits'].shape == (2, names['model'].num_classes)


def test_the_network_of_your_own_honours_dtype_and_folds():
  (block,) = (block for block in BLOCKS if 'class Net' in block)
  names = run(block)  # it asks check_model itself
  model, variables, images = (
    names[name] for name in ('model', 'variables', 'images')
  )
  assert (model.dtype, names['logits'].dtype) == (jnp.bfloat16, jnp.float32)
  program = jax.make_jaxpr(functools.partial(model.apply, width=0.5))(
    select(variables, 'w050'), images
  )
  for name in ('conv1', 'conv2'):
    assert set(variables['params'][name]) == {'conv'}
  assert 'bf16[2,8,8,32]' in str(program)  # of the second layer
  small, weights = slimjax.fold_batch_norm(
    *slimjax.extract(model, variables, width=0.25)
  )
  assert set(weights) == {'params'}
  folded = slimjax.apply(small, weights, images, width=0.25)
  expected = slimjax.apply(model, variables, images, width=0.25)
  assert jnp.abs(folded - expected).max() < 0.02 * jnp.abs(expected).max()


def test_the_network_of_your_own_can_be_visualized():
  (block,) = (block for block in BLOCKS if 'class Net' in block)
  layers = features.find_layers(run(block)['model'], 32)
  assert list(layers) == ['conv1', 'conv2']
  assert all(layer.activated for layer in layers.values())
