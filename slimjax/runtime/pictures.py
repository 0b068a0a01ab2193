"""Encoded pictures to the images that a network takes, by a rule that is data.

A bundle's manifest holds the rule, so that it answers files without the data
set or the code it was trained with.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

Decode = Callable[[bytes], np.ndarray]
_CENTRE_CROP = 'centre_crop'


def describe_decode(decode: Decode | None) -> dict[str, Any] | None:
  """Returns a rule as JSON: its name and its numbers.

  Args:
    decode: such as `slimjax.data.dataset.Dataset.decode`.

  Returns:
    None if there is none, or where it is a function of a user's own.
  """
  from slimjax.data.jpeg import CentreCrop

  if not isinstance(decode, CentreCrop):
    return None
  return {
    'rule': _CENTRE_CROP,
    'resize': decode.resize,
    'size': decode.size,
    'orientation': 'exif',
  }


def make_decode(rule: Mapping[str, Any] | None) -> Decode | None:
  """Returns what `describe_decode` described; None of None.

  Raises:
    ValueError: this version has no such rule.
  """
  from slimjax.data.jpeg import CentreCrop

  if rule is None:
    return None
  if rule['rule'] != _CENTRE_CROP:
    raise ValueError(
      f'pictures are decoded by the rule {rule["rule"]!r}, which this version'
      ' of slimjax does not have; update it, or give arrays'
    )
  return CentreCrop(size=rule['size'], resize=rule['resize'])
