"""Reads and writes checkpoints of the authors, and reads ordinary networks.

In the authors' `features.3.body.1.bn.0.weight` is the scale of switch 0 (widths
ascending) of the norm that follows the convolution `features.3.body.0`.
Convolutions are (out, in / groups, kh, kw), linear layers (out, in). One
grouped 1x1 convolution here is three convolutions there (`a_0`, `a_1`, `a_2`),
and so is the stem of ShuffleNet. The names are in `torch_layouts`.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import io
import os
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax import files
from slimjax.models.detector import BOX_CELLS
from slimjax.models.detector import Detector
from slimjax.models.net import SlimNet
from slimjax.variables.format import SHARED
from slimjax.variables.format import variable_shapes
from slimjax.variables.format import Variables
from slimjax.variables.reading import read_file
from slimjax.variables.recognising import misfit
from slimjax.variables.recognising import recognise
from slimjax.variables.state_dicts import state_dict
from slimjax.variables.torch_detectors import DETECTOR
from slimjax.variables.torch_layouts import authors_layout
from slimjax.variables.torch_layouts import Layout

Arrays = Mapping[str, Any]
# Our names and PyTorch's of the variables of a norm.
_NORM = {
  ('norm', 'scale'): 'weight',
  ('norm', 'bias'): 'bias',
  ('batch_stats', 'mean'): 'running_mean',
  ('batch_stats', 'var'): 'running_var',
}
# Our axes of a kernel [(kh, kw,) in, out] or a vector, in PyTorch's order.
_AXES = {
  'vector': (0,),
  'dense': (1, 0),
  'flattened': (1, 0),
  'conv': (3, 2, 0, 1),
  'transposed': (2, 3, 0, 1),
}


def load_torch(
  model: SlimNet, checkpoint: str | os.PathLike | Arrays
) -> dict[str, Any]:
  """Returns the variables in a checkpoint of the authors' network.

  `slimjax.load_weights` takes those of other networks, classes and widths too.

  Args:
    model: the same architecture with the same widths and classes.
    checkpoint: a dict of arrays by name, or the path of a file: .npz,
      .safetensors, or a PyTorch file (read with `weights_only=True`; needs
      torch). The tensors may stand under keys such as `model` or `state_dict`,
      their names may begin with `module.` or `_orig_mod.`, and
      `num_batches_tracked` is ignored.

  Returns:
    The variables, float32 (float64 if the arrays are and jax allows it).

  Raises:
    ValueError: the file cannot be read, numbers in it are not finite, or
      tensors are missing, extra or misshaped.
  """
  where = 'the checkpoint'
  if not isinstance(checkpoint, Mapping):
    where = os.fspath(checkpoint)
    checkpoint = read_file(checkpoint)
  arrays = state_dict(checkpoint, where).arrays
  return jax.tree.map(jnp.asarray, from_authors(model, arrays, where))


def from_authors(model: SlimNet, arrays: Arrays, where: str) -> dict[str, Any]:
  """Returns the variables of `model` in arrays by the authors' names."""
  arrays = dict(arrays)
  layout = authors_layout(model)
  expected = dict(_entries(model, layout))
  # One published norm is shared by the switches; ours is private by default.
  for unit in layout.units(model):
    for name in _NORM.values() if unit.shared_norm else ():
      shared = f'{unit.norms[0]}.{name}'
      if shared in arrays and shared not in expected:
        array = arrays.pop(shared)
        for i in range(len(model.widths)):
          arrays[f'{unit.norms[0]}.bn.{i}.{name}'] = array
  shapes = {name: np.shape(array) for name, array in arrays.items()}
  lines = misfit({n: e.shape for n, e in expected.items()}, shapes)
  if lines:
    look = recognise(shapes)
    looks = f'; it looks like {look.network}' if look.network else ''
    if look.layout not in ('', 'authors'):
      looks += ', which slimjax.load_weights takes'
    raise ValueError(
      f'{where} is not one of the authors of {type(model).__name__} with widths'
      f' {model.widths} and {model.num_classes} classes{looks}:\n'
      + '\n'.join(lines)
    )
  return _assembled(expected, arrays)


def from_ordinary(
  model: SlimNet, layout: Layout, arrays: Arrays, where: str
) -> dict[str, Any]:
  """Returns the variables in arrays of a network of one width.

  Args:
    model: the same architecture with one width, and the same classes.
    layout: the names in the model's family.
    arrays: arrays by these names.
    where: name of their checkpoint, for errors.

  Raises:
    ValueError: tensors are missing, extra or misshaped.
  """
  expected = dict(_entries(model, layout, plain=True))
  shapes = {name: np.shape(array) for name, array in arrays.items()}
  lines = misfit({n: e.shape for n, e in expected.items()}, shapes)
  if lines:
    raise ValueError(
      f'{where} looks like {recognise(shapes).network}, but does not fit'
      f' {type(model).__name__}:\n' + '\n'.join(lines)
    )
  return _assembled(expected, arrays)


def _assembled(
  expected: Mapping[str, '_Entry'], arrays: Arrays
) -> dict[str, Any]:
  """Returns our tree, of numpy, of arrays by PyTorch's names."""
  parts: dict[tuple[str, ...], list] = {}
  for name, entry in expected.items():
    if not np.issubdtype(arrays[name].dtype, np.floating):
      raise ValueError(
        f'{name} holds {arrays[name].dtype} numbers; floating ones are needed'
      )
    value = _from_torch(arrays[name], entry.kind)
    parts.setdefault(entry.path, []).append(value)
  return traverse_util.unflatten_dict(
    {path: np.concatenate(values, axis=-1) for path, values in parts.items()}
  )


def save_torch(
  model: SlimNet,
  variables: Variables,
  path: str | os.PathLike | None = None,
) -> dict[str, np.ndarray]:
  """Returns variables as the authors' arrays: the inverse of `load_torch`.

  Args:
    model: the network; a detector of one width, with a ResNet, is written by
      torchvision's names.
    variables: variables of the model, of all its widths.
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
  plain = isinstance(model, Detector)
  if plain and len(model.widths) > 1:
    raise ValueError(
      f'a file of torchvision holds one width, got {model.widths}; extract one'
      ' first'
    )
  layout = DETECTOR if plain else authors_layout(model)
  for name, entry in _entries(model, layout, plain=plain):
    if entry.path not in flat:
      raise ValueError(
        f'the variables have no {"/".join(entry.path)}: save_torch needs all'
        f' the widths of the model, {model.widths}'
      )
    start = offsets.get(entry.path, 0)
    size = entry.shape[1 if entry.kind == 'transposed' else 0]
    offsets[entry.path] = start + size
    value = np.asarray(flat[entry.path])[..., start : start + size]
    arrays[name] = _to_torch(value, entry.kind)
  for unit in layout.units(model):
    if unit.shared_norm and f'{unit.norms[0]}.bn.0.weight' in arrays:
      _share(arrays, unit.norms[0], len(model.widths))
  if path is not None:
    files.write_bytes(path, _packed(arrays, os.fspath(path)))
  return arrays


@dataclasses.dataclass(frozen=True)
class _Entry:
  """The place of a tensor in our tree, and its shape in PyTorch.

  Attributes:
    path: path of the leaf.
    shape: PyTorch's shape.
    kind: a key of `_AXES`; default: 'vector'.
  """

  path: tuple[str, ...]
  shape: tuple[int, ...]
  kind: str = 'vector'


def _entries(
  model: SlimNet, layout: Layout, *, plain: bool = False
) -> Iterator[tuple[str, _Entry]]:
  """Yields every tensor of the checkpoint; norms are private unless shared.

  Args:
    model: the network.
    layout: the names.
    plain: whether the network has one width and its norms no switches;
      default: no.
  """
  flat = traverse_util.flatten_dict(variable_shapes(model))
  switches = [model.switch(width) for width in model.ordered_widths]
  for unit in layout.units(model):
    blocks = len(unit.convs)
    kernel = ('params', *unit.path, 'conv', 'kernel')
    kh, kw, fan_in, out = flat[kernel].shape
    for conv, norm in zip(unit.convs, unit.norms, strict=True):
      entry = _Entry(kernel, (out // blocks, fan_in, kh, kw), 'conv')
      yield f'{conv}.weight', entry
      shared = {
        name: (collection, SHARED, *unit.path, 'norm', leaf)
        for (collection, leaf), name in _NORM.items()
      }
      for name, path in shared.items():
        if path in flat:
          shape = (flat[path].shape[0] // blocks,)
          yield f'{norm}.{name}', _Entry(path, shape)
      for i, switch in enumerate(switches):
        prefix = norm if plain else f'{norm}.bn.{i}'
        for name, (collection, _, *module, leaf) in shared.items():
          private = (collection, switch, *module, leaf)
          if private in flat:
            shape = (flat[private].shape[0] // blocks,)
            yield f'{prefix}.{name}', _Entry(private, shape)
  for layer in layout.plain_layers(model):
    for name, leaf in (('weight', 'kernel'), ('bias', 'bias')):
      path = ('params', *layer.path, leaf)
      kind = layer.kind if leaf == 'kernel' else 'vector'
      shape = tuple(flat[path].shape[i] for i in _AXES[kind])
      yield f'{layer.module}.{name}', _Entry(path, shape, kind)


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


def _from_torch(array: np.ndarray, kind: str) -> np.ndarray:
  if kind == 'flattened':
    # (out, c * cells^2) -> (cells^2 * c, out)
    out, c = len(array), array.shape[1] // BOX_CELLS**2
    maps = array.reshape(out, c, BOX_CELLS**2)
    return maps.transpose(2, 1, 0).reshape(-1, out)
  return array.transpose(np.argsort(_AXES[kind]))


def _to_torch(array: np.ndarray, kind: str) -> np.ndarray:
  if kind == 'flattened':
    out = array.shape[1]
    maps = array.reshape(BOX_CELLS**2, -1, out)
    return np.ascontiguousarray(maps.transpose(2, 1, 0).reshape(out, -1))
  return np.ascontiguousarray(array.transpose(_AXES[kind]))


def _packed(arrays: dict[str, np.ndarray], path: str) -> bytes:
  """Returns the content of a file that is named so."""
  packed = io.BytesIO()
  if path.endswith('.npz'):
    np.savez(packed, **arrays)  # type: ignore[arg-type]
  elif path.endswith('.safetensors'):
    from safetensors.numpy import save

    return save(arrays)
  elif path.endswith(('.pt', '.pth')):
    import torch

    torch.save(
      {'model': {n: torch.from_numpy(a.copy()) for n, a in arrays.items()}},
      packed,
    )
  else:
    raise ValueError(f'{path} must end with .npz, .safetensors, .pt or .pth')
  return packed.getvalue()
