"""Reads and writes checkpoints of the authors' PyTorch networks.

In them `features.3.body.1.bn.0.weight` is the scale of switch 0 (widths
ascending) of the norm that follows the convolution `features.3.body.0`.
Convolutions are (out, in / groups, kh, kw), linear layers (out, in). One
grouped 1x1 convolution here is three convolutions there (`a_0`, `a_1`, `a_2`),
and so is the stem of ShuffleNet.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from slimjax.models.mobilenet_v1 import MobileNetV1
from slimjax.models.mobilenet_v1 import UNITS
from slimjax.models.mobilenet_v2 import MobileNetV2
from slimjax.models.mobilenet_v2 import STAGES as INVERTED_STAGES
from slimjax.models.net import SlimNet
from slimjax.models.resnet import ResNet
from slimjax.models.shufflenet import GROUPS
from slimjax.models.shufflenet import ShuffleNet
from slimjax.models.shufflenet import STAGES as SHUFFLE_STAGES
from slimjax.variables.format import SHARED
from slimjax.variables.format import variable_shapes
from slimjax.variables.format import Variables

Arrays = Mapping[str, Any]
# Our names and PyTorch's of the variables of a norm.
_NORM = {
  ('norm', 'scale'): 'weight',
  ('norm', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}


@dataclasses.dataclass(frozen=True)
class _Unit:
  """A `ConvNorm` and the PyTorch modules that correspond to it.

  Attributes:
    path: path of the `ConvNorm`.
    convs: PyTorch's convolutions, one for each block of output channels.
    norms: PyTorch's norms, likewise.
    shared_norm: whether the published code has one norm for all switches there.
  """

  path: tuple[str, ...]
  convs: tuple[str, ...]
  norms: tuple[str, ...]
  shared_norm: bool = False


def load_torch(
  model: SlimNet, checkpoint: str | os.PathLike | Arrays
) -> dict[str, Any]:
  """Returns the variables in a checkpoint of the authors' network.

  Args:
    model: the same architecture with the same widths and classes.
    checkpoint: a dict of arrays by name, or the path of a file: .npz,
      .safetensors, or a PyTorch file (read with `weights_only=True`; needs
      torch). The tensors may stand under the key `model`, their names may begin
      with `module.`, and `num_batches_tracked` is ignored.

  Returns:
    The variables, float32 (float64 if the arrays are and jax allows it).

  Raises:
    ValueError: tensors are missing, extra or misshaped; the message lists all.
  """
  arrays = _read(checkpoint)
  if not _is_array(arrays.get('model', np.zeros(()))):
    arrays = arrays['model']
  arrays = {
    name.removeprefix('module.'): array
    for name, array in arrays.items()
    if not name.endswith('num_batches_tracked')
  }
  expected = dict(_entries(model))
  # One published norm is shared by the switches; ours is private by default.
  for unit in _units(model):
    for name in _NORM.values() if unit.shared_norm else ():
      shared = f'{unit.norms[0]}.{name}'
      if shared in arrays and shared not in expected:
        array = arrays.pop(shared)
        for i in range(len(model.widths)):
          arrays[f'{unit.norms[0]}.bn.{i}.{name}'] = array
  arrays = {name: _to_numpy(array) for name, array in arrays.items()}
  _compare(model, arrays, {n: e.shape for n, e in expected.items()})
  parts: dict[tuple[str, ...], list] = {}
  for name, entry in expected.items():
    value = _from_torch(arrays[name])
    parts.setdefault(entry.path, []).append(value)
  return traverse_util.unflatten_dict(
    {
      path: jnp.asarray(np.concatenate(values, axis=-1))
      for path, values in parts.items()
    }
  )


def save_torch(
  model: SlimNet,
  variables: Variables,
  path: str | os.PathLike | None = None,
) -> dict[str, np.ndarray]:
  """Returns variables as the authors' arrays: the inverse of `load_torch`.

  Args:
    model: the network.
    variables: its variables, of all its widths.
    path: file to write, .npz, .safetensors, or .pt (needs torch); default:
      none.

  Returns:
    The arrays by the authors' names, in the order of their checkpoints.

  MobileNet v2's last norm is one for all switches in the authors' code. One is
  written if the model shares it ('norm/last', 'batch_stats/last') or if it is
  the same for all switches; otherwise one per switch.
  """
  flat = traverse_util.flatten_dict(variables)
  offsets: dict[tuple[str, ...], int] = {}
  arrays = {}
  for name, entry in _entries(model):
    if entry.path not in flat:
      raise ValueError(
        f'the variables have no {"/".join(entry.path)}: save_torch needs all'
        f' the widths of the model, {model.widths}'
      )
    start = offsets.get(entry.path, 0)
    size = entry.shape[0]
    offsets[entry.path] = start + size
    value = np.asarray(flat[entry.path])[..., start : start + size]
    arrays[name] = _to_torch(value)
  for unit in _units(model):
    if unit.shared_norm and f'{unit.norms[0]}.bn.0.weight' in arrays:
      _share(arrays, unit.norms[0], len(model.widths))
  if path is not None:
    _write(arrays, os.fspath(path))
  return arrays


@dataclasses.dataclass(frozen=True)
class _Entry:
  """The place of a tensor in our tree, and its shape in PyTorch."""

  path: tuple[str, ...]
  shape: tuple[int, ...]


def _entries(model: SlimNet) -> Iterator[tuple[str, _Entry]]:
  """Yields every tensor of the checkpoint; norms are private unless shared."""
  flat = traverse_util.flatten_dict(variable_shapes(model))
  switches = [model.switch(width) for width in model.ordered_widths]
  for unit in _units(model):
    blocks = len(unit.convs)
    kernel = ('params', *unit.path, 'conv', 'kernel')
    kh, kw, fan_in, out = flat[kernel].shape
    for conv, norm in zip(unit.convs, unit.norms, strict=True):
      yield f'{conv}.weight', _Entry(kernel, (out // blocks, fan_in, kh, kw))
      shared = {
        name: (collection, SHARED, *unit.path, 'norm', leaf)
        for (collection, leaf), name in _NORM.items()
      }
      for name, path in shared.items():
        if path in flat:
          shape = (flat[path].shape[0] // blocks,)
          yield f'{norm}.{name}', _Entry(path, shape)
      for i, switch in enumerate(switches):
        for name, (collection, _, *module, leaf) in shared.items():
          private = (collection, switch, *module, leaf)
          if private in flat:
            shape = (flat[private].shape[0] // blocks,)
            yield f'{norm}.bn.{i}.{name}', _Entry(private, shape)
  path = ('params', 'classifier', 'kernel')
  yield 'classifier.0.weight', _Entry(path, flat[path].shape[::-1])
  path = ('params', 'classifier', 'bias')
  yield 'classifier.0.bias', _Entry(path, flat[path].shape)


def _units(model: SlimNet) -> list[_Unit]:
  """Returns the units of a network in the order of the published checkpoint."""
  for family, units in _FAMILIES.items():
    if isinstance(model, family):
      return units(model)
  raise ValueError(
    f'{type(model).__name__} has no published checkpoints; they exist for'
    f' {", ".join(family.__name__ for family in _FAMILIES)}'
  )


def _unit(path: str, conv: str, norm: str, **options) -> _Unit:
  return _Unit(tuple(path.split('/')), (conv,), (norm,), **options)


def _body(path: str, prefix: str, names: tuple[str, ...]) -> list[_Unit]:
  """Returns units in PyTorch's sequence: convolution, norm, activation, ..."""
  return [
    _unit(
      f'{path}/{name}', f'{prefix}.body.{3 * i}', f'{prefix}.body.{3 * i + 1}'
    )
    for i, name in enumerate(names)
  ]


def _mobilenet_v1(model: SlimNet) -> list[_Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  for i in range(1, len(UNITS) + 1):
    units += _body(f'unit{i}', f'features.{i}', ('depthwise', 'pointwise'))
  return units


def _mobilenet_v2(model: SlimNet) -> list[_Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  i = 0
  for expansion, _, blocks, _ in INVERTED_STAGES:
    for _ in range(blocks):
      i += 1
      names = ('expand',) * (expansion > 1) + ('depthwise', 'project')
      units += _body(f'block{i}', f'features.{i}', names)
  i += 1
  last = _unit('last', f'features.{i}.0', f'features.{i}.1', shared_norm=True)
  return [*units, last]


def _resnet(model: SlimNet) -> list[_Unit]:
  assert isinstance(model, ResNet)
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  i = 0
  for stage, depth in enumerate(model.depths, 1):
    for j in range(1, depth + 1):
      i += 1
      block, prefix = f'stage{stage}_block{j}', f'features.{i}'
      units += _body(block, prefix, ('conv1', 'conv2', 'conv3'))
      if j == 1:
        units.append(
          _unit(
            f'{block}/shortcut', f'{prefix}.shortcut.0', f'{prefix}.shortcut.1'
          )
        )
  return units


def _shufflenet(model: SlimNet) -> list[_Unit]:
  def grouped(path, prefix):
    branches = [f'{prefix}_{group}' for group in range(GROUPS)]
    return _Unit(
      tuple(path.split('/')),
      tuple(f'{branch}.0' for branch in branches),
      tuple(f'{branch}.1' for branch in branches),
    )

  units = [grouped('stem', 'head')]
  i = 0
  for stage, (_, count) in enumerate(SHUFFLE_STAGES, 1):
    for j in range(1, count + 1):
      path, prefix = f'stage{stage}_unit{j}', f'features.{i}'
      units += [
        _unit(f'{path}/depthwise', f'{prefix}.b.1', f'{prefix}.b.2'),
        grouped(f'{path}/compress', f'{prefix}.a'),
        grouped(f'{path}/expand', f'{prefix}.c'),
      ]
      i += 1
  return units


_FAMILIES = {
  MobileNetV1: _mobilenet_v1,
  MobileNetV2: _mobilenet_v2,
  ResNet: _resnet,
  ShuffleNet: _shufflenet,
}


def _share(arrays: dict[str, np.ndarray], norm: str, switches: int) -> None:
  """Replaces a norm that is equal for all switches by one, in its place."""
  private = {
    name: [arrays[f'{norm}.bn.{i}.{name}'] for i in range(switches)]
    for name in _NORM.values()
  }
  if not all(
    np.array_equal(values[0], value)
    for values in private.values()
    for value in values
  ):
    return
  items = list(arrays.items())
  arrays.clear()
  for name, array in items:
    if not name.startswith(f'{norm}.bn.'):
      arrays[name] = array
    elif name.startswith(f'{norm}.bn.0.'):
      arrays[name.replace('.bn.0.', '.')] = array


def _compare(model, arrays, expected) -> None:
  lines = [f'missing: {name}' for name in expected if name not in arrays]
  lines += [f'not expected: {name}' for name in arrays if name not in expected]
  lines += [
    f'{name}: shape {arrays[name].shape}, expected {shape}'
    for name, shape in expected.items()
    if name in arrays and arrays[name].shape != shape
  ]
  if lines:
    raise ValueError(
      f'the checkpoint is not one of {type(model).__name__} with widths'
      f' {model.widths} and {model.num_classes} classes:\n  '
      + '\n  '.join(lines)
    )


def _from_torch(array: np.ndarray) -> np.ndarray:
  if (
    array.ndim == 4
  ):  # (out, in / groups, kh, kw) -> (kh, kw, in / groups, out)
    return array.transpose(2, 3, 1, 0)
  return array.T


def _to_torch(array: np.ndarray) -> np.ndarray:
  if array.ndim == 4:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
  return np.ascontiguousarray(array.T)


def _is_array(value: Any) -> bool:
  return hasattr(value, 'shape') and hasattr(value, 'dtype')


def _to_numpy(value: Any) -> np.ndarray:
  if hasattr(value, 'detach'):  # a tensor of PyTorch, on any device
    value = value.detach().cpu().numpy()
  return np.asarray(value)


def _read(checkpoint: str | os.PathLike | Arrays) -> dict[str, Any]:
  if isinstance(checkpoint, Mapping):
    return dict(checkpoint)
  path = os.fspath(checkpoint)
  if path.endswith('.npz'):
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  if path.endswith('.safetensors'):
    from safetensors.numpy import load_file

    return load_file(path)
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f"{path} is read as a PyTorch file: pip install 'slimjax[torch]', or give"
      ' a .npz or .safetensors file'
    ) from error
  # weights_only: nothing but tensors is unpickled.
  return torch.load(path, map_location='cpu', weights_only=True)


def _write(arrays: dict[str, np.ndarray], path: str) -> None:
  if path.endswith('.npz'):
    np.savez(path, **arrays)  # type: ignore[arg-type]
  elif path.endswith('.safetensors'):
    from safetensors.numpy import save_file

    save_file(arrays, path)
  elif path.endswith(('.pt', '.pth')):
    import torch

    torch.save(
      {'model': {n: torch.from_numpy(a.copy()) for n, a in arrays.items()}},
      path,
    )
  else:
    raise ValueError(f'{path} must end with .npz, .safetensors, .pt or .pth')
