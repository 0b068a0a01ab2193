"""Finds and reads IDX files: MNIST, and the many sets that are made like it.

A file begins with two zero bytes, the type of its numbers and the count of its
dimensions; the dimensions follow, then the numbers, all with the highest byte
first (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist).
"""

from collections.abc import Sequence
import gzip
import math
import os
import struct
import sys
import zlib

from etils import epath
import numpy as np

_GZIP = b'\x1f\x8b'
_UNSIGNED_BYTE = 8
_TYPES = {
  _UNSIGNED_BYTE: 'unsigned bytes',
  9: 'signed bytes',
  11: 'int16',
  12: 'int32',
  13: 'float32',
  14: 'float64',
}
# The names of a split, as files begin; the first that is there is taken.
TRAIN = ('train',)
TEST = ('t10k', 'test')


def read_split(
  folder: epath.Path, prefix: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the images of a split, uint8 [n, h, w], and labels, int32 [n].

  Args:
    folder: folder of the files.
    prefix: what the names of the files begin with; may be ''.
    names: names of the split, such as `TRAIN`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or the two do not belong together.
  """
  image_file = _find(folder, prefix, names, 'images', 3)
  label_file = _find(folder, prefix, names, 'labels', 1)
  images, labels = read(image_file, 3), read(label_file, 1)
  if len(images) != len(labels):
    raise ValueError(
      f'{image_file} holds {len(images):,} images, but {label_file}'
      f' {len(labels):,} labels; both must be of the same split'
    )
  if not images.size:
    raise ValueError(f'{image_file} holds no pixels: {list(images.shape)}')
  return images, labels.astype(np.int32)


def read(path: epath.Path, dimensions: int) -> np.ndarray:
  """Returns the array of an IDX file, plain or compressed by gzip, uint8.

  Args:
    path: the file.
    dimensions: number of dimensions that the array must have.

  Raises:
    ValueError: the file is no such array, or not whole; it says why.
  """
  data = path.read_bytes()
  if data.startswith(_GZIP):
    try:
      data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise ValueError(
        f'{path} is a damaged gzip file ({error}); get it again'
      ) from error
  if len(data) < 4 or data[:2] != b'\0\0' or data[2] not in _TYPES:
    raise ValueError(
      f'{path} is no IDX file: it begins with {data[:4]!r}, not with'
      f' {bytes((0, 0, _UNSIGNED_BYTE, dimensions))!r}'
    )
  if data[2] != _UNSIGNED_BYTE or data[3] != dimensions:
    raise ValueError(
      f'{path} holds {_TYPES[data[2]]} of {data[3]} dimensions; unsigned bytes'
      f' of {dimensions} are expected'
    )
  start = 4 + 4 * dimensions
  if len(data) < start:
    raise ValueError(f'{path} ends within its first {start} bytes')
  shape = struct.unpack(f'>{dimensions}I', data[4:start])
  expected, found = math.prod(shape), len(data) - start
  if found != expected:
    said = 'is cut off' if found < expected else 'has something at its end'
    raise ValueError(
      f'{path} {said}: {" x ".join(map(str, shape))} are {expected:,} bytes,'
      f' but {found:,} follow its first {start}; get it again'
    )
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def package_folder(package: str) -> epath.Path:
  """Returns the folder of a set that a package of Debian has installed.

  Args:
    package: name of the folder in share/datasets, such as fashion-mnist.

  Raises:
    ValueError: it is not installed; the message has the command that does it.
  """
  shares = [
    os.path.join(sys.prefix, 'share'),
    *filter(None, os.environ.get('XDG_DATA_DIRS', '').split(os.pathsep)),
    '/usr/local/share',
    '/usr/share',
  ]
  for share in shares:
    folder = epath.Path(share) / 'datasets' / package
    if folder.is_dir():
      return folder
  raise ValueError(
    f'there is no folder datasets/{package} in'
    f' {", ".join(dict.fromkeys(shares))}. On Debian and Ubuntu this command'
    f' provides it:\n  sudo apt-get install dataset-{package}\nElsewhere put'
    ' the IDX files into a folder: --config.data.data_dir=DIR'
  )


def _find(
  folder: epath.Path, prefix: str, names: Sequence[str], what: str, rank: int
) -> epath.Path:
  """Returns the file of the images or the labels of a split."""
  for name in names:
    for mark in '-.':  # tools that unpack gzip write a dot
      for suffix in ('', '.gz'):
        path = folder / f'{prefix}{name}-{what}{mark}idx{rank}-ubyte{suffix}'
        if path.exists():
          return path
  wanted = [f'{prefix}{name}-{what}-idx{rank}-ubyte' for name in names]
  raise FileNotFoundError(
    f'{folder} has no {" or ".join(wanted)}, plain or with .gz;'
    ' config.data.prefix is what the names of the files begin with, before'
    f' {" or ".join(names)}'
  )
