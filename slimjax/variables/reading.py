"""Reads files of weights: .pt and .pth, .safetensors, .npz.

A file is known by its first bytes, whatever its name ends with. No object is
ever unpickled, and what a file claims to hold is compared with `LIMIT_BYTES`
before it is taken apart. Only files of PyTorch need torch.
"""

from collections.abc import Mapping
import math
import os
import re
from typing import Any
from typing import BinaryIO
import zipfile
import zlib

from etils import epath
import jax.numpy as jnp
import numpy as np

from slimjax import files
from slimjax import naming

# The largest network here, ResNet-152, has 0.24 GB; in a checkpoint of training
# it lies beside an average of it and the state of an optimiser.
LIMIT_BYTES = 4 << 30
_ENDINGS = ('.pt', '.pth', '.bin', '.ckpt', '.safetensors', '.npz')
_HEAD_BYTES = 512
# First bytes of files that are something else, and what to do about them.
_OTHERS = (
  (
    b'version https://git-lfs',
    'a pointer of Git LFS, not the file itself; fetch that with: git lfs pull',
  ),
  (b'\x89HDF', 'an HDF5 file, as Keras writes; its networks do not fit'),
  (b'\x1f\x8b', 'packed by gzip; unpack it first'),
  (b'BZh', 'packed by bzip2; unpack it first'),
  (b'\xfd7zXZ', 'packed by xz; unpack it first'),
  (b'\x93NUMPY', 'a single array; write all by name with np.savez'),
  (b'{', 'JSON, which holds no weights'),
)
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
_DTYPES = {
  'F64': np.float64,
  'F32': np.float32,
  'F16': np.float16,
  'BF16': jnp.dtype(jnp.bfloat16),
  'I64': np.int64,
  'I32': np.int32,
  'I16': np.int16,
  'I8': np.int8,
  'U8': np.uint8,
  'BOOL': np.bool_,
}


def read_file(path: epath.PathLike) -> dict[str, Any]:
  """Returns what a file of weights holds: arrays or tensors of PyTorch by name.

  What lies in a PyTorch file may be nested, and stand beside other values.

  Args:
    path: path of the file, locally or wherever etils' epath reaches; `~` is the
      home folder.

  Raises:
    FileNotFoundError: there is no such file.
    IsADirectoryError: it is a folder.
    ImportError: it is a file of PyTorch, and torch is not installed.
    ValueError: it is no file of weights, is damaged, holds objects besides
      tensors, or claims to hold more than `LIMIT_BYTES`.
  """
  path = files.expand(path, 'the file of weights')
  check_exists(path)
  if path.is_dir():
    inside = _weights_in(path)
    hint = f'; give one of its files: {", ".join(inside)}' if inside else ''
    raise IsADirectoryError(f'{path} is a folder, not a file of weights{hint}')
  size = path.stat().length
  _check_size(path, size, 'has')
  with path.open('rb') as file:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(b'PK'):
      return _read_zip(file, path, size)
    if head.startswith(b'\x80'):
      return _read_torch(file, path, size)
    if _is_safetensors(head, size):
      return _read_safetensors(file.read(), path)
  raise ValueError(f'{path} is {_what_else(head, size)}')


def check_exists(path: epath.Path) -> None:
  """Raises FileNotFoundError unless there is such a file or folder."""
  if path.exists():
    return
  beside = path.parent
  names = [p.name for p in beside.iterdir()] if beside.is_dir() else []
  where = beside if beside.is_dir() else f'{beside}, nor such a folder'
  raise FileNotFoundError(
    f'there is no {path.name} in {where}{naming.near(path.name, names)}'
  )


def _weights_in(folder: epath.Path) -> list[str]:
  names = (p.name for p in folder.iterdir())
  return sorted(n for n in names if n.endswith(_ENDINGS))[:5]


def _check_size(path: epath.Path, size: int, verb: str) -> None:
  if size > LIMIT_BYTES:
    raise ValueError(
      f'{path} {verb} {size:,} bytes, more than the {LIMIT_BYTES:,} that are'
      ' read: it is no network of this size, or holds much else; write the'
      ' weights alone'
    )


def _what_else(head: bytes, size: int) -> str:
  """Says what a file is that is none of weights."""
  if not size:
    return 'empty; the download or the copy of it failed'
  if head.lstrip().startswith(b'<'):
    return (
      'a web page, not a file of weights: the download gave a page instead;'
      ' open it in a browser, or see what the link needs'
    )
  for start, text in _OTHERS:
    if head.startswith(start):
      return text
  return (
    f'no file of weights: it begins with {head[:8]!r}; files of PyTorch,'
    ' .safetensors and .npz are read'
  )


def _damaged(path: epath.Path, size: int, why: Any) -> ValueError:
  reason = ' '.join(str(why).split())[:200]
  return ValueError(
    f'{path} is damaged or cut off, it has {size:,} bytes ({reason}); get it'
    ' again'
  )


# Zip archives: PyTorch's files, and numpy's.


def _read_zip(file: BinaryIO, path: epath.Path, size: int) -> dict[str, Any]:
  try:
    with zipfile.ZipFile(file) as archive:
      members = archive.infolist()
      _check_size(path, sum(m.file_size for m in members), 'unpacks to')
      names = [m.filename for m in members]
      if any(os.path.basename(name) == 'constants.pkl' for name in names):
        raise ValueError(
          f'{path} is a TorchScript archive, a program; write its weights:'
          f' {_SAVE}'
        )
      if any(name.endswith('.npy') for name in names):
        return {
          member.filename.removesuffix('.npy'): _read_npy(archive, member, path)
          for member in members
        }
  except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
    raise _damaged(path, size, error) from error
  if any(os.path.basename(name) == 'data.pkl' for name in names):
    file.seek(0)
    return _read_torch(file, path, size)
  raise ValueError(
    f'{path} is a zip archive of {", ".join(names[:5]) or "nothing"}, neither'
    ' of PyTorch nor of numpy; unpack it first'
  )


def _read_npy(
  archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: epath.Path
) -> np.ndarray:
  """Returns an array whose header claims no more than there is."""
  name = member.filename
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  try:
    with archive.open(member) as stream:
      version = np.lib.format.read_magic(stream)
      shape, _, dtype = readers[version](stream)
    claimed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
      raise ValueError(
        'it holds objects, which are never unpickled (allow_pickle=False)'
      )
    if claimed > member.file_size:
      raise ValueError(
        f'it claims {claimed:,} bytes and has {member.file_size:,}'
      )
    with archive.open(member) as stream:
      return np.lib.format.read_array(stream, allow_pickle=False)
  except (ValueError, KeyError) as error:
    raise ValueError(f'{path}: {name} cannot be read: {error}') from error


# PyTorch.


def _read_torch(file: BinaryIO, path: epath.Path, size: int) -> dict[str, Any]:
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f"{path} is a file of PyTorch: pip install 'slimjax[torch]', or give"
      ' a .npz or .safetensors file'
    ) from error
  try:
    # weights_only: nothing but tensors and plain values is unpickled.
    content = torch.load(file, map_location='cpu', weights_only=True)
  except Exception as error:
    raise _explained(error, path, size) from error
  if isinstance(content, torch.Tensor):
    raise ValueError(f'{path} is a single tensor; write all: {_SAVE}')
  if not isinstance(content, Mapping):
    raise ValueError(
      f'{path} holds a {type(content).__name__}, no tensors by name; write'
      f' {_SAVE}'
    )
  # A view may say that a number is repeated a billion times.
  _check_size(path, _claimed_bytes(content), 'unpacks to')
  return dict(content)


def _explained(error: Exception, path: epath.Path, size: int) -> ValueError:
  """Returns the error of what went wrong in `torch.load`."""
  text = str(error)
  found = re.search(r'GLOBAL (\S+)', text)
  if found or 'weights_only' in text.lower():
    what = f' ({found[1]})' if found else ''
    return ValueError(
      f'{path} holds objects besides tensors{what}, such as an optimiser, a'
      ' meter or a whole network. They are never unpickled, as that can run'
      f' code. Where the file comes from, write the weights alone: {_SAVE}'
    )
  return _damaged(path, size, error)


def _claimed_bytes(content: Any) -> int:
  if hasattr(content, 'element_size'):
    return content.numel() * content.element_size()
  if isinstance(content, Mapping):
    return sum(map(_claimed_bytes, content.values()))
  if isinstance(content, (list, tuple)):
    return sum(map(_claimed_bytes, content))
  return 0


# Safetensors.


def _is_safetensors(head: bytes, size: int) -> bool:
  """Returns whether the first eight bytes are the length of a JSON header."""
  length = int.from_bytes(head[:8], 'little')
  return head[8:9] == b'{' and 2 <= length < max(size, 100_000_000)


def _read_safetensors(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
  from safetensors import deserialize
  from safetensors import SafetensorError

  try:
    tensors = deserialize(data)
  except SafetensorError as error:
    raise _damaged(path, len(data), error) from error
  arrays = {}
  for name, tensor in tensors:
    if tensor['dtype'] not in _DTYPES:
      raise ValueError(
        f'{path}: {name} is of type {tensor["dtype"]}; write it as float32'
      )
    array = np.frombuffer(tensor['data'], _DTYPES[tensor['dtype']])
    arrays[name] = array.reshape(tensor['shape'])
  return arrays
