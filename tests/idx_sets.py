"""Small sets of IDX files."""

import gzip
import pathlib
import struct

import numpy as np

TRAIN, TEST, CLASSES = 60, 12, 3
SIZE = 8


def idx(array: np.ndarray) -> bytes:
  """Returns what an IDX file of unsigned bytes holds."""
  head = struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
  return head + array.astype(np.uint8).tobytes()


def arrays(size=(SIZE, SIZE), copies=1) -> dict[str, np.ndarray]:
  """Returns images and labels of both splits; the classes are not as large.

  Args:
    size: height and width of the images; default: 8 pixels.
    copies: number of times that each image is there; default: once.
  """
  random = np.random.default_rng(0)
  labels = np.repeat(np.arange(CLASSES), (30, 20, 10))
  found = {
    'train-images-idx3': random.integers(0, 256, (TRAIN, *size)),
    'train-labels-idx1': random.permutation(labels),
    't10k-images-idx3': random.integers(0, 256, (TEST, *size)),
    't10k-labels-idx1': np.arange(TEST) % CLASSES,
  }
  return {name: np.concatenate([a] * copies) for name, a in found.items()}


def write_set(folder: pathlib.Path, **options) -> pathlib.Path:
  """Writes `arrays` as compressed files, and returns the folder."""
  folder.mkdir()
  for name, array in arrays(**options).items():
    (folder / f'{name}-ubyte.gz').write_bytes(gzip.compress(idx(array), 1))
  return folder
