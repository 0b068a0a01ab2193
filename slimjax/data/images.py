"""Data sets of encoded photos: ImageNet, others of TFDS, an image folder."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from slimjax import checks
from slimjax import files
from slimjax.data.batches import Batch
from slimjax.data.dataset import Dataset
from slimjax.data.folder_source import open_folder
from slimjax.data.holding_out import stratified
from slimjax.data.jpeg import CentreCrop
from slimjax.data.jpeg import decode_random_crop
from slimjax.data.jpeg import DecodeError
from slimjax.data.preprocess import AugmentImages
from slimjax.data.preprocess import colour_augment
from slimjax.data.preprocess import Normalise
from slimjax.data.sources import open_tfds
from slimjax.data.sources import Record
from slimjax.data.sources import Source
from slimjax.data.sources import Sources
from slimjax.data.workers import processors

FOLDER = 'image_folder'
_LOOKS = 100  # images in a row that are tried until one can be decoded
_SAMPLES = 64  # records of each split that are read before training starts
_IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
_HALF = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """A recipe of the paper's appendix A.

  Attributes:
    least_area: least area of the random crop, as a share of the image's.
    mean, std: mean and deviation of RGB in [0, 1], used to normalise.
  """

  least_area: float
  mean: tuple[float, ...]
  std: tuple[float, ...]


# All recipes jitter colours by 0.4, add lighting noise of 0.1, and flip.
AUGMENTATIONS = {
  'basic': Augmentation(0.08, **_IMAGENET),
  'mobile': Augmentation(0.25, **_IMAGENET),
  'inception': Augmentation(0.08, **_HALF),
}


class LabelError(ValueError):
  """A label is not one of the classes."""


@dataclasses.dataclass(frozen=True)
class ImageSplit:
  """Examples of a source, decoded and cropped when they are read.

  Attributes:
    source: source of the records.
    chosen: indices of the records that belong to the split.
    num_classes: number of classes; labels are below it.
    decode: decoder of evaluations; its `size` is that of all crops.
    least_area: least area of random crops, as a share of the image's.
  """

  source: Source
  chosen: np.ndarray
  num_classes: int
  decode: CentreCrop
  least_area: float

  def __len__(self) -> int:
    return len(self.chosen)

  def fingerprint(self) -> str:
    """Returns a hash of the examples' names and labels, of no pixels."""
    return self.source.fingerprint(self.chosen)

  def _record(self, index: int):
    record = self.source[int(self.chosen[index])]
    if not 0 <= record.label < self.num_classes:
      raise LabelError(
        f'the label of {record.name} is {record.label}, but there are'
        f' {self.num_classes} classes, counted from 0'
      )
    return record

  def read_train(self, indices: np.ndarray, keys: np.ndarray) -> Batch:
    """Reads random crops; a corrupt image is replaced by the next sound one."""
    size = self.decode.size
    images = np.empty((len(indices), size, size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    corrupt: dict[str, str] = {}
    for i, (index, key) in enumerate(zip(indices, keys, strict=True)):
      for step in range(_LOOKS):
        record = self._record((index + step) % len(self))
        rng = np.random.default_rng(key)
        try:
          images[i] = decode_random_crop(
            _encoded(record), rng, size, self.least_area
          )
        except DecodeError as error:
          corrupt[record.name] = str(error)
          continue
        labels[i] = record.label
        break
      else:
        raise DecodeError(
          f'{_LOOKS} images in a row cannot be decoded, up to {record.name}:'
          f' {corrupt[record.name]}'
        )
    return {'image': images, 'label': labels, 'corrupt': corrupt}

  def read_eval(self, indices: np.ndarray) -> Batch:
    """Reads central crops; `mask` is False for a corrupt image."""
    size = self.decode.size
    images = np.zeros((len(indices), size, size, 3), np.uint8)
    labels = np.empty(len(indices), np.int32)
    mask = np.ones(len(indices), bool)
    corrupt: dict[str, str] = {}
    for i, index in enumerate(indices):
      record = self._record(index)
      labels[i] = record.label
      try:
        images[i] = self.decode(_encoded(record))
      except DecodeError as error:
        mask[i] = False
        corrupt[record.name] = str(error)
    return {'image': images, 'label': labels, 'mask': mask, 'corrupt': corrupt}

  def check(self, name: str) -> None:
    """Reads a few records; raises ValueError if the split cannot be used."""
    if not len(self):
      raise ValueError(f'the split {name} is empty')
    places = np.linspace(0, len(self) - 1, min(_SAMPLES, len(self)))
    for index in np.unique(places.astype(int)):
      self._record(index)


def _encoded(record: Record) -> bytes:
  if record.problem:
    raise DecodeError(record.problem)
  return record.encoded


def create(
  name: str,
  *,
  augmentation: str = 'basic',
  data_dir: str | None = None,
  image_size: int = 224,
  resize: int | None = None,
  test_split: str | None = None,
  test_share: float = 0.2,
  held_out: int = 0,
  held_out_seed: int = 0,
  workers: int | None = None,
  max_corrupt: int = 10,
) -> Dataset:
  """Returns a data set of photos.

  Args:
    name: name of a TFDS data set, such as imagenet2012, or image_folder.
    augmentation: one of `AUGMENTATIONS`; default: basic.
    data_dir: folder of TFDS (default: TFDS's own), or the image folder.
    image_size: height and width that the network sees, pixels; default: 224.
    resize: shorter side before the central crop of an evaluation; default: 8/7
      of `image_size`, which is 256 for 224.
    test_split: name of the test split; default: validation, val, test or
      valid.
    test_share: share of the training images of every class that is set aside
      to test on, if there is no test split; default: 0.2.
    held_out: number of training images set aside as the split `held_out`;
      default: 0.
    held_out_seed: seed that draws the images set aside; default: 0.
    workers: number of processes that decode; default: one for each processor
      that this process may use; 0 decodes in the training process.
    max_corrupt: number of images that may be unreadable; default: 10.

  Raises:
    ValueError: an argument is wrong, or the data cannot be read; the message
      says what to do.
  """
  checks.choice('augmentation', augmentation, allowed=AUGMENTATIONS)
  checks.whole('image_size', image_size, least=1, most=2**14)
  if resize is not None:
    checks.whole('resize', resize, least=1, most=2**14)
  if workers is not None:
    checks.whole('workers', workers, least=0, most=1024)
  checks.whole('held_out', held_out, least=0)
  checks.whole('held_out_seed', held_out_seed, least=0, most=2**32 - 1)
  checks.whole('max_corrupt', max_corrupt, least=0, most=10**6)
  checks.real('test_share', test_share, above=0, below=1)
  resize = round(image_size * 8 / 7) if resize is None else resize
  if not 0 < image_size <= resize:
    raise ValueError(
      f'image_size {image_size} must be between 1 and resize, {resize}'
    )
  if data_dir is not None:
    data_dir = str(files.expand(data_dir, 'config.data.data_dir'))
  opened = (
    open_folder(data_dir, test_split)
    if name == FOLDER
    else open_tfds(name, data_dir, test_split)
  )
  recipe = AUGMENTATIONS[augmentation]
  constants: dict[str, Any] = {'mean': recipe.mean, 'std': recipe.std}
  decode = CentreCrop(image_size, resize)

  def split(source: Source, chosen: np.ndarray) -> ImageSplit:
    return ImageSplit(
      source,
      chosen,
      num_classes=len(opened.class_names),
      decode=decode,
      least_area=recipe.least_area,
    )

  splits, notes = _splits(opened, split, test_share, held_out, held_out_seed)
  for key, examples in splits.items():
    examples.check(opened.test_name or key if key == 'test' else key)
  if workers is None:
    workers = processors()
  return Dataset(
    name=name,
    num_classes=len(opened.class_names),
    class_names=opened.class_names,
    image_size=image_size,
    preprocessing=(
      f'(images / 255 - {list(recipe.mean)}) / {list(recipe.std)}; before'
      ' that, turned as EXIF says, transparent parts white, the shorter side'
      f' resized to {resize}, the centre cropped to {image_size}'
    ),
    splits=splits,
    augment=AugmentImages(colour_augment, tuple(constants.items())),
    preprocess=Normalise(**constants),
    decode=decode,
    workers=workers,
    max_corrupt=max_corrupt,
    notes=(*opened.notes, *notes),
  )


def _splits(
  opened: Sources,
  split: Callable[[Source, np.ndarray], ImageSplit],
  test_share: float,
  held_out: int,
  seed: int,
) -> tuple[dict[str, ImageSplit], list[str]]:
  """Returns the splits, train, test and perhaps held_out; and notes."""
  rest, notes = np.arange(len(opened.train)), []
  if opened.test is None:
    rest, tested = stratified(
      opened.train.labels(), opened.train.names(), test_share, seed
    )
    test = split(opened.train, tested)
    notes.append(
      f'no test split: {len(tested):,} of {len(opened.train):,} training images'
      f' are set aside, {100 * test_share:g} % of every class'
      f' (config.data.test_share, drawn by held_out_seed = {seed})'
    )
  else:
    test = split(opened.test, np.arange(len(opened.test)))
  if held_out and not 0 < held_out < len(rest):
    raise ValueError(
      f'held_out {held_out} must be less than the {len(rest)} training images'
    )
  order = rest[np.random.default_rng(seed).permutation(len(rest))]
  splits = {
    'train': split(opened.train, np.sort(order[held_out:])),
    'test': test,
  }
  if held_out:
    splits['held_out'] = split(opened.train, np.sort(order[:held_out]))
  return splits, notes
