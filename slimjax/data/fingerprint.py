"""Hashes that tell whether two splits hold the same examples."""

from collections.abc import Iterable
import hashlib

import numpy as np


def of(parts: Iterable[bytes | np.ndarray]) -> str:
  """Returns a hash of some parts, which knows where each ends.

  Args:
    parts: bytes, or arrays of numbers.
  """
  digest = hashlib.blake2b(digest_size=16)
  for part in parts:
    data = part if isinstance(part, bytes) else np.ascontiguousarray(part).data
    digest.update(memoryview(data).nbytes.to_bytes(8, 'little'))
    digest.update(data)
  return digest.hexdigest()
