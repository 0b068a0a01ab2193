"""Weights as people save them, made plain: {name: array}.

A checkpoint of PyTorch may hold its tensors under a key such as `state_dict`,
beside an average of them, an optimiser and numbers; the names may begin with
`module.` and the like; the tensors may be of half precision.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

Arrays = dict[str, np.ndarray]
# Keys under which the weights lie, and those of averages of them.
_WRAPPERS = (
  'state_dict',
  'model_state_dict',
  'model_state',
  'model',
  'net',
  'network',
  'module',
  'weights',
  'params',
)
_AVERAGES = (
  'model_ema',
  'model_ema_state_dict',
  'state_dict_ema',
  'ema_state_dict',
  'ema_model',
  'params_ema',
  'ema',
)
# What wrapping a network puts before its names: parallel, compiled, averaged.
_ANYWHERE = ('_orig_mod',)
_LEADING = ('module', '_orig_mod')
# These count where all names have them: else they are the network's own.
_COMMON = ('model', 'net', 'network', 'backbone', 'student', 'ema_model')
_COUNTERS = ('num_batches_tracked', 'n_averaged')
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class StateDict:
  """The weights of a checkpoint.

  Attributes:
    arrays: arrays by plain name, float32, or float64 where they were.
    averages: keys of averages beside them, left aside; default: none.
  """

  arrays: Arrays
  averages: tuple[str, ...] = ()


def state_dict(content: Mapping[str, Any], where: str) -> StateDict:
  """Returns the weights that a checkpoint holds.

  Args:
    content: arrays or tensors by name, as `read_file` returns them, which may
      be nested under the usual keys. Where an average of the weights lies
      beside them, the weights are taken.
    where: name of the checkpoint, for errors.

  Raises:
    ValueError: there are no arrays, two have one plain name, or some hold NaN,
      infinite numbers or negative variances.
  """
  tensors, averages = _unwrapped(content)
  found = {name: x for name, x in tensors.items() if _is_array(x)}
  if not found:
    keys = ', '.join(map(repr, list(content)[:8]))
    raise ValueError(
      f'{where} holds no arrays by name; its keys are {keys}. Give the weights'
      ' alone, such as what model.state_dict() returns'
    )
  plain = _plain_names(found, where)
  arrays = as_arrays({name: found[key] for name, key in plain.items()}, where)
  return StateDict(arrays, averages)


def as_arrays(tensors: Mapping[str, Any], where: str) -> Arrays:
  """Returns arrays of numpy: float32 of half precision, else as they are.

  Args:
    tensors: arrays, or tensors of PyTorch, by name.
    where: name of their checkpoint, for errors.

  Raises:
    ValueError: some hold NaN, infinite numbers or negative variances.
  """
  arrays = {
    name: _as_numpy(value, f'{where}: {name}')
    for name, value in tensors.items()
  }
  _check_values(arrays, where)
  return arrays


def _unwrapped(content: Mapping) -> tuple[Mapping, tuple[str, ...]]:
  """Returns what lies under the usual keys, and the averages beside it."""
  averages: tuple[str, ...] = ()
  while True:
    beside = [key for key in _AVERAGES if _holds_arrays(content.get(key))]
    inner = [key for key in _WRAPPERS if _holds_arrays(content.get(key))]
    if inner:
      averages += tuple(beside)
      content = content[inner[0]]
    elif beside:
      content = content[beside[0]]
    else:
      return content, averages


def _holds_arrays(value: Any) -> bool:
  return isinstance(value, Mapping) and any(
    _is_array(x) or _holds_arrays(x) for x in value.values()
  )


def _is_array(value: Any) -> bool:
  return hasattr(value, 'shape') and hasattr(value, 'dtype')


def _plain_names(names: Mapping[Any, Any], where: str) -> dict[str, str]:
  """Returns {plain name: the name as it is found}, without counters."""
  split = {
    name: tuple(part for part in _parts(name) if part not in _ANYWHERE)
    for name in names
    if str(name).rpartition('.')[2] not in _COUNTERS
  }
  while True:
    short = {name: _without_leading(parts) for name, parts in split.items()}
    first = {parts[0] for parts in short.values()}
    if len(first) == 1 and first <= {*_COMMON}:
      short = {name: parts[1:] for name, parts in short.items()}
    if short == split or not all(short.values()):
      break
    split = short
  plain: dict[str, str] = {}
  for name, parts in split.items():
    key = '.'.join(parts)
    if key in plain:
      raise ValueError(
        f'{where} has two tensors for {key}: {plain[key]} and {name}; leave'
        ' one of them out'
      )
    plain[key] = name
  return plain


def _parts(name: Any) -> Iterator[str]:
  return iter(str(name).split('.'))


def _without_leading(parts: tuple[str, ...]) -> tuple[str, ...]:
  while len(parts) > 1 and parts[0] in _LEADING:
    parts = parts[1:]
  return parts


def _as_numpy(value: Any, where: str) -> np.ndarray:
  """Returns the array of a tensor; half precision becomes float32."""
  if hasattr(value, 'detach'):  # a tensor of PyTorch, on any device
    value = value.detach().cpu()
    if value.is_quantized or str(value.layout) != 'torch.strided':
      raise ValueError(f'{where} is quantised or sparse; give plain weights')
    if value.is_floating_point() and value.element_size() < 4:
      value = value.float()
    value = value.numpy()
  array = np.asarray(value)
  if not _is_floating(array) and array.dtype.kind == 'V':
    raise ValueError(
      f'{where} is of type {array.dtype}, which numpy writes for bfloat16;'
      ' write it as float32'
    )
  narrow = _is_floating(array) and array.itemsize < 4
  return array.astype(np.float32) if narrow else array


def _is_floating(array: np.ndarray) -> bool:
  return jnp.issubdtype(array.dtype, jnp.floating)


def _check_values(arrays: Arrays, where: str) -> None:
  floating = {
    name: x
    for name, x in arrays.items()
    if jnp.issubdtype(x.dtype, np.floating)
  }
  wrong = [name for name, x in floating.items() if not np.isfinite(x).all()]
  negative = [
    name
    for name, x in floating.items()
    if name.endswith(('running_var', '/var')) and (x < 0).any()
  ]
  for names, what in (
    (wrong, 'NaN or infinite numbers'),
    (negative, 'negative variances'),
  ):
    if names:
      more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
      raise ValueError(
        f'{where}: {", ".join(names[:_SHOWN])}{more} hold {what}; the training'
        ' that wrote it had failed, or the file is damaged'
      )
