"""Sets some training images aside, where no others are there to test on."""

from collections.abc import Sequence
import hashlib

import numpy as np


def stratified(
  labels: np.ndarray, names: Sequence[bytes], share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the indices of the images that stay, and of those set aside.

  The same share of every class is set aside, at least one image unless it is
  the only one. Images are drawn by the hashes of their names: when others are
  added, most images that were set aside still are.

  Args:
    labels: int [n].
    names: names of the images, n.
    share: share that is set aside, between 0 and 1.
    seed: seed that draws the images.

  Returns:
    Two int arrays, in ascending order.
  """
  keys = np.array([_key(name, seed) for name in names], np.uint64)
  aside = []
  for label in np.unique(labels):
    (members,) = np.nonzero(labels == label)
    count = min(max(round(share * len(members)), 1), len(members) - 1)
    aside.append(members[np.argsort(keys[members], kind='stable')[:count]])
  chosen = np.sort(np.concatenate(aside))
  return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _key(name: bytes, seed: int) -> int:
  digest = hashlib.blake2b(b'%d/' % seed + name, digest_size=8).digest()
  return int.from_bytes(digest, 'little')
