"""Data sets, and what happens to their images on the host and on the device."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from slimjax import checks
from slimjax import configuration
from slimjax.data import digits
from slimjax.data import idx
from slimjax.data import images
from slimjax.data.coco import digit_scenes
from slimjax.data.coco import factory as coco
from slimjax.data.dataset import check_dataset
from slimjax.data.dataset import Dataset
from slimjax.naming import near
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
  name = checks.text('config.data.name', section.get('name', ''), least=1)
  make = find_factory(name)
  known = [*filter(None, DATASETS), images.FOLDER]
  _check_spelling(name, make, section, known)
  options = dict(section)
  if make not in _NAMED:
    options.pop('name', None)
  dataset = configuration.call_named(make, 'config.data', options, name, known)
  check_dataset(dataset, f'config.data.name {name!r}')
  return dataset


def _check_spelling(
  name: str,
  make: Callable[..., Dataset],
  section: Mapping[str, Any],
  known: Sequence[str],
) -> None:
  """Raises ValueError if a name is none of ours, but was meant to be one.

  It would be taken for a data set of TFDS. What tells them apart is the keys:
  those of ours are not read there.
  """
  meant = near(name, known)
  if name in known or make is not images.create or not meant:
    return
  try:
    configuration.check_arguments(make, 'config.data', section, ())
  except ValueError as error:
    raise ValueError(
      f'config.data.name {name!r} is none of {", ".join(known)}{meant} As a'
      f' data set of tensorflow-datasets it does not fit: {error}'
    ) from error


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
