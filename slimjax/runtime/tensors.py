"""Reads the arrays of a bundle: weights, and samples with their outputs."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slimjax.runtime.errors import BundleError

# Types by their names in safetensors, of those that a bundle may hold.
_KINDS = {
  'F16': 'float16',
  'F32': 'float32',
  'F64': 'float64',
  'I8': 'int8',
  'I16': 'int16',
  'I32': 'int32',
  'I64': 'int64',
  'U8': 'uint8',
  'U16': 'uint16',
  'U32': 'uint32',
  'U64': 'uint64',
  'BOOL': 'bool',
}


def read_tensors(
  path: pathlib.Path, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
  """Returns the named tensors of a safetensors file, by default all.

  Raises:
    BundleError: it is no such file, or lacks one of them.
  """
  tensors = {}
  with _opened(path) as file:
    for name in file.keys() if names is None else names:
      _shape(path, name, file.get_slice(name))
      tensors[name] = file.get_tensor(name)
  return tensors


def tensor_shapes(
  path: pathlib.Path, names: Iterable[str]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of tensors without reading their data.

  Raises:
    BundleError: it is no such file, or lacks one of them.
  """
  with _opened(path) as file:
    return {name: _shape(path, name, file.get_slice(name)) for name in names}


def _shape(path: pathlib.Path, name: str, tensor: Any) -> jax.ShapeDtypeStruct:
  kind = _KINDS.get(tensor.get_dtype())
  if kind is None:
    raise BundleError(
      f'{path}: {name} is of the type {tensor.get_dtype()}, which bundles do'
      ' not hold'
    )
  return jax.ShapeDtypeStruct(tensor.get_shape(), jnp.dtype(kind))


def named_outputs(outputs: Any) -> dict[str, Any]:
  """Returns the arrays of a network's outputs by path; a single one's is ''."""
  flat, _ = jax.tree.flatten_with_path(outputs)
  names = lambda key: getattr(key, 'key', getattr(key, 'idx', key))
  return {
    ''.join(f'/{names(key)}' for key in path): array for path, array in flat
  }


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  from safetensors import safe_open
  from safetensors import SafetensorError

  try:
    with safe_open(path, framework='numpy') as file:
      yield file
  except SafetensorError as error:
    raise BundleError(f'{path} cannot be read: {error}') from error
