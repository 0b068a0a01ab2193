"""Weights, images and numbers of tests/golden (see its README)."""

import json
import pathlib
import re
import zlib

import jax
import numpy as np

from slimjax.models.net import SlimNet
from slimjax.variables.format import variable_shapes
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

FOLDER = pathlib.Path(__file__).parent / 'golden'
# our name of the model: name of the golden
MODELS = {
  'mobilenet_v1': 's_mobilenet_v1',
  'mobilenet_v2': 's_mobilenet_v2',
  'shufflenet': 's_shufflenet',
  'resnet50': 's_resnet50',
}


def widths(model: str) -> tuple[float, ...]:
  """Returns the widths of `model`; of AutoSlim's networks their numbers."""
  return tuple(_keys(model)['widths'])


def weights(
  model: str, dtype=np.float32, only: tuple[float, ...] | None = None
) -> dict[str, np.ndarray]:
  """Returns the checkpoint of `model`, by PyTorch's names.

  Args:
    model: the network.
    dtype: type of the arrays.
    only: widths to leave in it, in order; default: all.
  """
  keys = dict(_keys(model)['keys'])
  kept = [*map(widths(model).index, widths(model) if only is None else only)]
  low, high = (0.5, 1.5) if 'mobilenet' in model else (0.3, 0.9)
  arrays = {}
  for name, shape in keys.items():
    switch = re.search(r'(?<=\.bn\.)\d+', name)
    if switch and int(switch[0]) not in kept:
      continue
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) == 4:
      fan_in = shape[1] * shape[2] * shape[3]
      array = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    elif len(shape) == 2:
      array = rng.standard_normal(shape) / np.sqrt(shape[1])
    elif name.endswith('running_var'):
      last = len(widths(model)) - 1
      (widest,) = keys[re.sub(r'bn\.\d+\.', f'bn.{last}.', name)]
      array = rng.uniform(0.5, 1.5, shape) * shape[0] / widest
    elif name.endswith('.weight'):
      array = rng.uniform(low, high, shape)
    else:
      array = 0.1 * rng.standard_normal(shape)
    if switch:  # by its place among those that are left
      place = kept.index(int(switch[0]))
      name = name[: switch.start()] + str(place) + name[switch.end() :]
    arrays[name] = np.asarray(array, np.float32).astype(dtype)
  return arrays


def us_net(model: SlimNet, golden: str) -> dict:
  """Returns a US-Net's weights in float64, with statistics of (0, 1).

  Args:
    model: the network, at any widths.
    golden: name of the golden.
  """
  drawn = weights(golden, np.float64, only=())
  blank = jax.tree.map(lambda x: np.zeros(x.shape), variable_shapes(model))
  return load_torch(
    model,
    {
      key: drawn[key] if key in drawn else array + key.endswith('_var')
      for key, array in save_torch(model, blank).items()
    },
  )


def images(batch: int, dtype=np.float32) -> np.ndarray:
  """Returns images [batch, 64, 64, 3]."""
  rng = np.random.RandomState(zlib.crc32(b'images'))
  nchw = rng.standard_normal((batch, 3, 64, 64)).astype(np.float32)
  return nchw.transpose(0, 2, 3, 1).astype(dtype)


def logits(model: str) -> dict[float, np.ndarray]:
  """Returns logits of `images(4)` by width, of a US-Net of some widths."""
  with np.load(FOLDER / f'{MODELS.get(model, model)}.npz') as file:
    found = {width: f'logits/{width}' for width in widths(model)}
    return {width: file[key] for width, key in found.items() if key in file}


def training(model: str) -> dict[str, np.ndarray]:
  """Returns two training steps on `images(8)`."""
  with np.load(FOLDER / f'train_{MODELS.get(model, model)}.npz') as file:
    return dict(file)


def detection(name: str) -> dict[str, np.ndarray]:
  """Returns the arrays of a file of tests/golden/detection."""
  with np.load(FOLDER / 'detection' / f'{name}.npz') as file:
    return dict(file)


def _keys(model: str) -> dict:
  return json.loads(
    (FOLDER / f'{MODELS.get(model, model)}.keys.json').read_text()
  )
