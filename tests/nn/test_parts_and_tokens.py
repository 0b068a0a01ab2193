"""Layers with several inputs, of tokens and of one's own, against definitions.

What plain and grouped convolutions do is in test_layers.py.
"""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax
from slimjax.layers import SlimAttention
from slimjax.layers import SlimConv
from slimjax.layers import SlimConvTranspose
from slimjax.layers import SlimDense
from slimjax.layers import SlimEmbed
from slimjax.layers import SlimGroupNorm
from slimjax.layers import SlimLayerNorm
from slimjax.layers import SlimParameter
from slimjax.variables import select
from slimjax.variables.slicing import cuts

TOKENS = 6


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape)


def drawn(model):
  """Returns random variables in the format of `slimjax.init`."""
  shapes = jax.eval_shape(lambda: slimjax.init(model, jax.random.key(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(random.normal(size=x.shape), x.dtype), shapes
  )


def convolve(inputs, kernel, groups=1):
  return lax.conv_general_dilated(
    inputs,
    kernel,
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def close(found, expected, tolerance=1e-10):
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# Inputs in several parts.


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
