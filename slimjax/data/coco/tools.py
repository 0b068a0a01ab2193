"""Gets pycocotools where it is used, or says how it is installed."""

import types


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
