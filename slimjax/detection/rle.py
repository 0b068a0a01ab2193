"""Masks as the run-length codes of pycocotools, if that is installed."""

from collections.abc import Mapping
import types
from typing import Any
import warnings

import numpy as np


def mask_tools() -> types.ModuleType:
  """Returns pycocotools.mask.

  Raises:
    ValueError: it is not installed.
  """
  try:
    from pycocotools import mask
  except ModuleNotFoundError as error:
    raise ValueError(
      'masks and the scores of detectors need pycocotools, which is not'
      " installed: pip install -e '.[detection]'"
    ) from error
  return mask


def as_text(code: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a run-length code as JSON has it."""
  counts = code['counts']
  text = counts.decode() if isinstance(counts, bytes) else counts
  return {**code, 'counts': text}


def decode(code: Mapping[str, Any]) -> np.ndarray:
  """Returns the mask of a run-length code, uint8 [h, w] of 0 and 1.

  Raises:
    ValueError: it is no code, or pycocotools is not installed.
  """
  tools = mask_tools()
  with warnings.catch_warnings():
    # pycocotools 2.0.11 makes its arrays as NumPy 1 did.
    warnings.filterwarnings('ignore', '__array__ impl', DeprecationWarning)
    return tools.decode(code)
