"""Norms of the active channels, attention, and networks of tokens."""

import functools

from arrays import close
from arrays import drawn
from arrays import normal
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax
from slimjax.layers import SlimAttention
from slimjax.layers import SlimDense
from slimjax.layers import SlimEmbed
from slimjax.layers import SlimGroupNorm
from slimjax.layers import SlimLayerNorm
from slimjax.layers import SlimParameter
from slimjax.variables import select

TOKENS = 6


# Norms of the active channels.


def standardised(x, axes, epsilon):
  mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
  return (x - mean) / np.sqrt(var + epsilon)


@pytest.mark.parametrize(
  'layer, groups, epsilon',
  [
    (SlimLayerNorm(dtype=jnp.float64), None, 1e-6),
    (SlimLayerNorm(epsilon=0.1, dtype=jnp.float64), None, 0.1),
    (SlimGroupNorm(num_groups=2, dtype=jnp.float64), 2, 1e-5),
    (SlimGroupNorm(group_size=2, dtype=jnp.float64), 3, 1e-5),
  ],
)
def test_norms_count_active_channels_only(x64, layer, groups, epsilon):
  scale, bias = normal(0, 8), normal(1, 8)
  inputs = normal(2, 2, 3, 5, 6)
  outputs = layer.apply({'norm': {'scale': scale, 'bias': bias}}, inputs)
  if groups is None:
    expected = standardised(inputs, -1, epsilon)
  else:
    split = inputs.reshape(2, 15, groups, 6 // groups)
    expected = standardised(split, (1, 3), epsilon).reshape(inputs.shape)
  row = (None, None, None, slice(6))
  close(outputs, expected * scale[row] + bias[row])


@pytest.mark.parametrize(
  'options, message',
  [
    ({}, 'either num_groups or group_size, got None and None'),
    ({'num_groups': 2, 'group_size': 4}, 'got 2 and 4'),
    ({'num_groups': 4}, 'tail/norm: 6 active channels do not divide'),
    ({'group_size': 8}, 'do not divide into groups'),
  ],
)
def test_groups_that_do_not_fit_are_refused(options, message):
  class Tail(nn.Module):
    @nn.compact
    def __call__(self, x):
      return SlimGroupNorm(**options, name='norm')(x)

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return Tail(name='tail')(x)

  with pytest.raises(ValueError, match=message):
    jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 2, 2, 6)))


# A network of tokens.


class Tokens(slimjax.SlimNet):
  """Embedding, position, class token, attention, two layers per token.

  The layers that set a width are the embedding, heads and hidden channels.
  """

  dropout: float = 0.0

  def layer_names(self):
    return [('embed', None), ('heads', None), ('hidden', None)]

  def uniform_channels(self, width):
    return [int(8 * width), int(4 * width), int(24 * width)]

  def example(self):
    return (jax.ShapeDtypeStruct((1, TOKENS), jnp.int32),)

  @nn.compact
  def __call__(self, tokens, *, width, train=False):
    (c, heads, hidden), (full, most, wide) = (
      self.channels(width),
      self.full_channels,
    )
    make = {'dtype': self.dtype}
    x = SlimEmbed(10, full, name='embed', **make)(tokens, c)
    x += SlimParameter((TOKENS, full), name='position', **make)(c)[None]
    y = SlimLayerNorm(name='norm1', **make)(x)
    x += SlimAttention(full, most, 3, name='attention', **make)(
      y, c, heads=heads
    )
    y = SlimLayerNorm(name='norm2', **make)(x)
    y = nn.gelu(SlimDense(wide, name='hidden', **make)(y, hidden))
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    x += SlimDense(full, name='output', **make)(y, c)
    return SlimDense(self.num_classes, name='classifier')(x.mean(1))


@pytest.mark.parametrize('shared', [(), ('norm',)])
def test_a_network_of_tokens_is_correct(shared):
  model = Tokens(num_classes=3, widths=(0.5, 1.0), shared=shared)
  assert slimjax.check_model(model) == []
  variables = drawn(model)
  _, weights = slimjax.extract(model, variables, width=0.5)
  place = variables['norm']['shared' if shared else 'w050']['norm1']
  expected = place['scale'][:4]
  close(weights['norm']['w050']['norm1']['scale'], expected, 0)
  params, whole = weights['params'], variables['params']
  close(params['embed']['embedding'], whole['embed']['embedding'][:, :4], 0)
  close(params['position']['value'], whole['position']['value'][:, :4], 0)
  kernel = whole['attention']['query']['kernel']
  close(params['attention']['query']['kernel'], kernel[:4, :6], 0)


@pytest.mark.parametrize(
  'width, c, heads, hidden', [(0.5, 4, 2, 12), (1, 8, 4, 24)]
)
def test_macs_of_attention_and_of_layers_per_token(width, c, heads, hidden):
  model = Tokens(num_classes=3, widths=(0.5, 1.0))
  t, inner = TOKENS, heads * 3
  attention = 3 * t * c * inner + 2 * t * t * inner + t * inner * c
  profile = slimjax.profile_model(model, width=width)
  assert profile.macs == attention + 2 * t * c * hidden + c * 3
  params = 10 * c + t * c + 3 * (c * inner + inner) + inner * c + c
  params += c * hidden + hidden + hidden * c + c + c * 3 + 3
  assert profile.conv_fc_params == params
  assert profile.bn_params == 4 * c


def test_dropout_needs_a_key_and_drops():
  model = Tokens(num_classes=3, widths=(0.5, 1.0), dropout=0.5)
  selected = select(drawn(model), 'w050')
  tokens = jnp.arange(12).reshape(2, TOKENS) % 10

  @functools.partial(jax.jit, static_argnames='train')
  def run(key, train):
    return model.apply(
      selected, tokens, width=0.5, train=train, rngs={'dropout': key}
    )

  one, two = jax.random.key(1), jax.random.key(2)
  close(run(one, False), run(two, False), 0)
  close(run(one, True), run(one, True), 0)
  assert np.abs(run(one, True) - run(two, True)).max() > 1e-3
  assert slimjax.check_model(model) == []


# Attention.


def weights_of(c, heads, d, out):
  params = {
    name: {'kernel': normal(i, c, heads * d), 'bias': normal(9 + i, heads * d)}
    for i, name in enumerate(('query', 'key', 'value'))
  }
  params['out'] = {'kernel': normal(4, heads * d, out), 'bias': normal(5, out)}
  return params


def test_attention_is_that_of_flax(x64):
  c, heads, d, out = 6, 4, 3, 5
  layer = SlimAttention(out, heads, d, dtype=jnp.float64)
  flax = nn.MultiHeadDotProductAttention(
    heads, qkv_features=heads * d, out_features=out, dtype=jnp.float64
  )
  params, inputs = weights_of(c, heads, d, out), normal(7, 2, TOKENS, c)
  theirs = {
    name: {
      'kernel': p['kernel'].reshape(c, heads, d),
      'bias': p['bias'].reshape(heads, d),
    }
    for name, p in params.items()
    if name != 'out'
  }
  theirs['out'] = {
    'kernel': params['out']['kernel'].reshape(heads, d, out),
    'bias': params['out']['bias'],
  }
  causal = np.tril(np.ones((1, 1, TOKENS, TOKENS), bool))
  for mask in (None, causal):
    expected = flax.apply({'params': theirs}, inputs, mask=mask)
    close(layer.apply({'params': params}, inputs, mask=mask), expected)
  # A mask of queries and keys alone is that of all examples and heads.
  close(layer.apply({'params': params}, inputs, mask=causal[0, 0]), expected)


def test_heads_are_the_slimmed_unit(x64):
  c, heads, d, out = 6, 4, 3, 5
  params, inputs = weights_of(c, heads, d, out), normal(7, 2, TOKENS, 4)
  layer = SlimAttention(out, heads, d, dtype=jnp.float64)
  found = layer.apply({'params': params}, inputs, 3, heads=2)
  small = {
    name: {'kernel': p['kernel'][:4, :6], 'bias': p['bias'][:6]}
    for name, p in params.items()
  }
  small['out'] = {
    'kernel': params['out']['kernel'][:6, :3],
    'bias': params['out']['bias'][:3],
  }
  thin = SlimAttention(3, 2, d, dtype=jnp.float64)
  close(found, thin.apply({'params': small}, inputs))
  with pytest.raises(ValueError, match='5 active head channels'):
    layer.apply({'params': params}, inputs, heads=5)


def test_attention_of_bfloat16_weighs_in_float32():
  layer = SlimAttention(4, 2, 2, dtype=jnp.bfloat16)
  inputs = jnp.ones((1, 3, 4), jnp.bfloat16)
  variables = jax.eval_shape(layer.init, jax.random.key(0), inputs)
  program = str(jax.make_jaxpr(layer.apply)(variables, inputs))
  (line,) = [x for x in program.splitlines() if ' exp ' in x]
  assert 'f32[1,2,3,3]' in line
