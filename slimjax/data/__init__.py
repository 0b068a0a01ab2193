"""Data sets, and what happens to their images on the host and on the device."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from slimjax import configuration
from slimjax.data import digits
from slimjax.data import idx
from slimjax.data import images
from slimjax.data.coco import digit_scenes
from slimjax.data.coco import factory as coco
from slimjax.data.dataset import check_dataset
from slimjax.data.dataset import Dataset
from slimjax.naming import resolve

# Factories by name; the last serves all other names: a folder, a TFDS set.
DATASETS: dict[str, Callable[..., Dataset]] = {
  'digits': digits.create,
  'idx': idx.create,
  'digit_scenes': digit_scenes.create,
  coco.FOLDER: coco.create,
  coco.PREPARED: coco.create,
  '': images.create,
}
_NAMED = (coco.create, images.create)  # these are told the name


def create_dataset(section: Mapping[str, Any]) -> Dataset:
  """Returns the data set of a configuration's section `data`.

  Args:
    section: `name` is digits or digit_scenes (embedded), idx, image_folder,
      coco (a folder for detection), a data set of TFDS, or
      'package.module:function' of your own, which returns a
      `slimjax.data.dataset.Dataset`; the other keys are the arguments of, for
      example, `slimjax.data.idx.create`, `slimjax.data.images.create` or
      `slimjax.data.coco.factory.create`.

  Raises:
    ValueError: the section is wrong, or the data cannot be read.
  """
  name = section.get('name', '')
  make = find_factory(name)
  options = dict(section)
  if make not in _NAMED:
    options.pop('name', None)
  known = [*filter(None, DATASETS), images.FOLDER]
  dataset = configuration.call_named(make, 'config.data', options, name, known)
  check_dataset(dataset, f'config.data.name {name!r}')
  return dataset


def find_factory(name: str) -> Callable[..., Dataset]:
  """Returns the function that makes the data set of a name.

  Args:
    name: see `create_dataset`.

  Raises:
    ValueError: it is the name of a user's own function, which is not there.
  """
  if ':' in name and '/' not in name:
    return resolve(name, DATASETS, 'config.data.name')
  return DATASETS.get(name, DATASETS[''])
