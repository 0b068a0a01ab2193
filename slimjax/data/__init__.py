"""Data sets, and what happens to their images on the host and on the device."""

from collections.abc import Mapping
from typing import Any

from slimjax import configuration
from slimjax.data import digits
from slimjax.data import images
from slimjax.data.dataset import Dataset


def create_dataset(section: Mapping[str, Any]) -> Dataset:
  """The data set of a configuration's section `data`.

  Args:
    section: `name` is digits (embedded), image_folder, or of TFDS; the rest are
      arguments of `slimjax.data.digits.create` or `slimjax.data.images.create`.

  Raises:
    ValueError: the section is wrong, or the data can not be read.
  """
  if section.get('name') == 'digits':
    options = {key: value for key, value in section.items() if key != 'name'}
    return configuration.call(digits.create, 'config.data', options)
  return configuration.call(images.create, 'config.data', section)
