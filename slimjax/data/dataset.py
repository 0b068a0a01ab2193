"""The data set that programs read: its splits and what happens to them."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from slimjax.data.batches import ALONE
from slimjax.data.batches import Batch
from slimjax.data.batches import Corrupt
from slimjax.data.batches import EvalReader
from slimjax.data.batches import read
from slimjax.data.batches import Share
from slimjax.data.batches import Split
from slimjax.data.batches import TrainReader


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
  """Returns (height, width) of images; one number stands for both."""
  return (size, size) if isinstance(size, int) else size


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Splits of images, and what is done to them on the device.

  Attributes:
    name: name of the data set in the configuration.
    num_classes: number of classes, above all labels; 0 if there are none.
    class_names: one name per class, or empty.
    image_size: height and width in pixels, (height, width) if they differ. Of
      a split whose groups have several, that of the first.
    preprocessing: description of what `preprocess` does.
    splits: `train`, `test` and, if one was set aside, `held_out`.
    augment: (key, batch) -> batch for training: augments and preprocesses the
      images, and transforms what belongs to an image along with it. It runs on
      the device, once per step for all widths. It is hashable, as `preprocess`
      is: compiled programs are cached by both.
    preprocess: uint8 images [b, h, w, 3] -> floating images.
    decode: (bytes of an encoded picture, such as a JPEG) -> the image that an
      evaluation sees, uint8 [h, w, 3] of `image_size`; default: None, the data
      are no pictures. It serves the network.
    workers: number of processes that read; default: 0, the process itself.
    max_corrupt: number of images that may be unreadable, over all processes,
      see `slimjax.data.batches.read`; default: 0.
    notes: lines on what was found, such as what was left out; default: none.
    category_ids: ids that the classes have in a COCO file; default: none.
    keypoint_names: names of an object's keypoints; default: none.
    skeleton: pairs of keypoints, from 0, that a drawing connects; default:
      none.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  image_size: int | tuple[int, int]
  preprocessing: str
  splits: Mapping[str, Split]
  augment: Callable[[jax.Array, Batch], Batch]
  preprocess: Callable[[jax.Array], jax.Array]
  decode: Callable[[bytes], np.ndarray] | None = None
  workers: int = 0
  max_corrupt: int = 0
  notes: tuple[str, ...] = ()
  category_ids: tuple[int, ...] = ()
  keypoint_names: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()

  def describe(self) -> str:
    """Returns one line: name, classes, image size, examples of each split."""
    classes = f'{self.num_classes} classes, ' if self.num_classes else ''
    splits = ', '.join(f'{len(s):,} {name}' for name, s in self.splits.items())
    height, width = sides(self.image_size)
    return (
      f'{self.name}: {classes}images of {height} x {width} pixels: {splits}'
    )

  def train_batches(
    self,
    batch_size: int,
    *,
    seed: int,
    steps: range,
    share: Share = ALONE,
    corrupt: Corrupt | None = None,
  ) -> Iterator[Batch]:
    """Yields this process's part of the global batches of a range of steps.

    By default there is one process, whose part is all of them.
    """
    reader = TrainReader(self.splits['train'], batch_size, seed, steps, share)
    corrupt = corrupt or Corrupt(self.max_corrupt)
    return read(reader, corrupt=corrupt, workers=self.workers)

  def eval_batches(
    self,
    split: str,
    batch_size: int,
    *,
    share: Share = ALONE,
    corrupt: Corrupt | None = None,
  ) -> Iterator[Batch]:
    """Yields every example of a split once, padded and masked."""
    reader = EvalReader(self.splits[split], batch_size, share)
    corrupt = corrupt or Corrupt(self.max_corrupt)
    return read(reader, corrupt=corrupt, workers=self.workers)


def check_dataset(found: Any, what: str) -> None:
  """Raises ValueError if what a user's function returns is no data set.

  Args:
    found: object that it returns.
    what: key and name in errors, such as "config.data.name 'a:b'".
  """
  if not isinstance(found, Dataset):
    raise ValueError(
      f'{what} returns {type(found).__name__}; a'
      ' slimjax.data.dataset.Dataset is needed'
    )
  missing = {'train', 'test'} - set(found.splits)
  if missing:
    raise ValueError(
      f'{what}: the data set has the splits {", ".join(found.splits)}, but not'
      f' {" and ".join(sorted(missing))}'
    )
  size = found.image_size
  pair = size if isinstance(size, tuple) else (size, size)
  if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
    raise ValueError(
      f'{what}: image_size must be pixels, or a tuple (height, width), got'
      f' {size!r}'
    )
  for name in ('augment', 'preprocess'):
    function = getattr(found, name)
    if not callable(function) or not is_hashable(function):
      raise ValueError(
        f'{what}: {name} is {type(function).__name__}; a function, or an object'
        ' of a frozen dataclass with __call__, is needed: compiled programs'
        ' are cached by it'
      )


def is_hashable(value: Any) -> bool:
  """Returns whether a value can be a key, with all that it holds."""
  try:
    hash(value)
  except TypeError:
    return False
  return True
