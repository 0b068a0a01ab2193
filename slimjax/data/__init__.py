"""Data sets, and what happens to their images on the host and on the device."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from slimjax import configuration
from slimjax.data import digits
from slimjax.data import images
from slimjax.data.dataset import Dataset
from slimjax.naming import resolve

# Factories by name; the last serves all other names: a folder, a TFDS set.
DATASETS: dict[str, Callable[..., Dataset]] = {
  'digits': digits.create,
  '': images.create,
}


def create_dataset(section: Mapping[str, Any]) -> Dataset:
  """Returns the data set of a configuration's section `data`.

  Args:
    section: `name` is digits (embedded), image_folder, a data set of TFDS, or
      'package.module:function' of your own, which returns a
      `slimjax.data.dataset.Dataset`; the other keys are the arguments of, for
      example, `slimjax.data.digits.create` or `slimjax.data.images.create`.

  Raises:
    ValueError: the section is wrong, or the data cannot be read.
  """
  name = section.get('name', '')
  options = {key: value for key, value in section.items() if key != 'name'}
  if ':' in name and '/' not in name:
    make = resolve(name, DATASETS, 'config.data.name')
    return configuration.call(make, 'config.data', options)
  if name in DATASETS and name:
    return configuration.call(DATASETS[name], 'config.data', options)
  return configuration.call(DATASETS[''], 'config.data', section)
