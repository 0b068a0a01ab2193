"""torchvision's and timm's networks, written down again without PyTorch.

Each draws its arrays by PyTorch's names as it runs, so that it says the names
and shapes of a checkpoint, and what the network gives. pytest has this folder
on sys.path.
"""

import zlib

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


class Weights(dict):
  """Arrays by name, drawn when they are first asked for."""

  def draw(self, name, shape, low, high):
    if name not in self:
      random = np.random.default_rng(zlib.crc32(name.encode()))
      self[name] = random.uniform(low, high, shape)
    return self[name]


def conv(weights, name, x, out, size=1, stride=1, groups=1):
  """Convolves [b, c, h, w] without bias, padded by half the kernel's size."""
  fan_in = x.shape[1] // groups * size * size
  bound = (6 / fan_in) ** 0.5
  shape = (out, x.shape[1] // groups, size, size)
  kernel = weights.draw(f'{name}.weight', shape, -bound, bound)
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(size // 2, size // 2)] * 2,
    feature_group_count=groups,
    dimension_numbers=('NCHW', 'OIHW', 'NCHW'),
  )


def norm(weights, name, x):
  c = x.shape[1]
  row = lambda *which: weights.draw(*which).reshape(1, c, 1, 1)
  scale = row(f'{name}.weight', c, 0.5, 1.5)
  bias = row(f'{name}.bias', c, -0.5, 0.5)
  mean = row(f'{name}.running_mean', c, -0.5, 0.5)
  var = row(f'{name}.running_var', c, 0.5, 1.5)
  return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def linear(weights, name, x, classes):
  x = x.mean((2, 3))
  kernel = weights.draw(f'{name}.weight', (classes, x.shape[1]), -0.1, 0.1)
  bias = weights.draw(f'{name}.bias', classes, -0.1, 0.1)
  return x @ kernel.T + bias.reshape(1, -1)


def relu6(x):
  return jnp.clip(x, 0, 6)


def resnet(weights, x, depths=(3, 4, 6, 3), classes=1000):
  x = jax.nn.relu(norm(weights, 'bn1', conv(weights, 'conv1', x, 64, 7, 2)))
  x = lax.reduce_window(
    x,
    -jnp.inf,
    lax.max,
    (1, 1, 3, 3),
    (1, 1, 2, 2),
    [(0, 0), (0, 0), (1, 1), (1, 1)],
  )
  for stage, depth in enumerate(depths, 1):
    planes = 64 * 2 ** (stage - 1)
    for j in range(depth):
      block = f'layer{stage}.{j}'
      stride = 2 if stage > 1 and j == 0 else 1
      shortcut = y = x
      for n, out, size, step in (
        (1, planes, 1, 1),
        (2, planes, 3, stride),
        (3, 4 * planes, 1, 1),
      ):
        y = conv(weights, f'{block}.conv{n}', y, out, size, step)
        y = norm(weights, f'{block}.bn{n}', y)
        y = jax.nn.relu(y) if n < 3 else y
      if j == 0:
        name = f'{block}.downsample'
        shortcut = conv(weights, f'{name}.0', x, 4 * planes, 1, stride)
        shortcut = norm(weights, f'{name}.1', shortcut)
      x = jax.nn.relu(y + shortcut)
  return linear(weights, 'fc', x, classes)


def timm_mobilenet_v1(weights, x, classes=1000):
  x = relu6(norm(weights, 'bn1', conv(weights, 'conv_stem', x, 32, 3, 2)))
  stages = ((1, 64, 1), (2, 128, 2), (2, 256, 2), (6, 512, 2), (2, 1024, 2))
  for stage, (units, out, first) in enumerate(stages):
    for j in range(units):
      block, c = f'blocks.{stage}.{j}', x.shape[1]
      stride = first if j == 0 else 1
      x = conv(weights, f'{block}.conv_dw', x, c, 3, stride, groups=c)
      x = relu6(norm(weights, f'{block}.bn1', x))
      x = conv(weights, f'{block}.conv_pw', x, out)
      x = relu6(norm(weights, f'{block}.bn2', x))
  return linear(weights, 'classifier', x, classes)


INVERTED = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


def mobilenet_v2(weights, x, names, classes=1000):
  """Runs with the names of `torchvision_names` or `timm_names`."""
  stem, last, classifier, block_names = names
  x = relu6(norm(weights, stem[1], conv(weights, stem[0], x, 32, 3, 2)))
  i = 0
  for stage, (expansion, out, blocks, first) in enumerate(INVERTED):
    for j in range(blocks):
      i += 1
      expand, depthwise, project = block_names(i, stage, j, expansion > 1)
      shortcut, stride = x, first if j == 0 else 1
      wide = x.shape[1] * expansion
      if expand:
        x = relu6(norm(weights, expand[1], conv(weights, expand[0], x, wide)))
      x = conv(weights, depthwise[0], x, wide, 3, stride, groups=wide)
      x = relu6(norm(weights, depthwise[1], x))
      x = norm(weights, project[1], conv(weights, project[0], x, out))
      x = shortcut + x if j else x
  x = relu6(norm(weights, last[1], conv(weights, last[0], x, 1280)))
  return linear(weights, classifier, x, classes)


def _torchvision_block(i, stage, j, expands):
  prefix = f'features.{i}.conv'
  if not expands:
    return (
      None,
      (f'{prefix}.0.0', f'{prefix}.0.1'),
      (f'{prefix}.1', f'{prefix}.2'),
    )
  return (
    (f'{prefix}.0.0', f'{prefix}.0.1'),
    (f'{prefix}.1.0', f'{prefix}.1.1'),
    (f'{prefix}.2', f'{prefix}.3'),
  )


def _timm_block(i, stage, j, expands):
  b = f'blocks.{stage}.{j}'
  if not expands:
    return None, (f'{b}.conv_dw', f'{b}.bn1'), (f'{b}.conv_pw', f'{b}.bn2')
  return (
    (f'{b}.conv_pw', f'{b}.bn1'),
    (f'{b}.conv_dw', f'{b}.bn2'),
    (f'{b}.conv_pwl', f'{b}.bn3'),
  )


TORCHVISION_NAMES = (
  ('features.0.0', 'features.0.1'),
  ('features.18.0', 'features.18.1'),
  'classifier.1',
  _torchvision_block,
)
TIMM_NAMES = (
  ('conv_stem', 'bn1'),
  ('conv_head', 'bn2'),
  'classifier',
  _timm_block,
)
