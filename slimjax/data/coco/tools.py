"""Gets pycocotools where it is used, or says how it is installed."""

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
