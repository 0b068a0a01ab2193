"""Reads images from folders, one per class."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import unicodedata

from etils import epath
import numpy as np

from slimjax.data import fingerprint
from slimjax.data import folders
from slimjax.data.folders import Listing
from slimjax.data.sources import find_test_split
from slimjax.data.sources import Record
from slimjax.data.sources import Sources
from slimjax.data.sources import TEST_SPLITS

_GONE = (
  FileNotFoundError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)
_SPLITS = (*TEST_SPLITS, 'train', 'training', 'testing', 'eval', 'dev')


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Reads FOLDER/CLASS/**/FILE.

  Attributes:
    folder: the folder of the classes.
    files: CLASS/FILE as bytes [n].
    class_labels: int32 [n].
  """

  folder: str
  files: np.ndarray
  class_labels: np.ndarray

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> Record:
    file, label = self.files[index], int(self.class_labels[index])
    name = f'{self.folder}/{folders.printable(file)}'
    try:
      encoded = (epath.Path(self.folder) / os.fsdecode(file)).read_bytes()
    except _GONE as error:
      return Record(name, b'', label, error.strerror or type(error).__name__)
    return Record(name, encoded, label)

  def labels(self) -> np.ndarray:
    return self.class_labels

  def names(self) -> list[bytes]:
    return self.files.tolist()

  def fingerprint(self, chosen: np.ndarray) -> str:
    """Hashes labels and names within the folder, so that it may be moved.

    Names are composed (Unicode NFC): file systems differ in it.
    """
    names = b'\0'.join(self.files[chosen].tolist())
    if not names.isascii():
      text = names.decode('utf-8', 'surrogateescape')
      names = os.fsencode(unicodedata.normalize('NFC', text))
    return fingerprint.of([names, self.class_labels[chosen]])


def open_folder(data_dir: str | None, test_split: str | None) -> Sources:
  """Opens DIR/train/CLASS/*.jpg, and DIR/validation, DIR/val or DIR/test.

  Where there is no train/ the classes lie in DIR itself, and there is no test
  split. Classes are numbered in the order of their names.

  Args:
    data_dir: DIR.
    test_split: the folder of the test images; None finds it.

  Raises:
    ValueError: a split or its images are missing, or the classes differ.
  """
  if data_dir is None:
    raise ValueError('image_folder needs --config.data.data_dir=DIR')
  root = epath.Path(data_dir)
  if not root.is_dir():
    raise ValueError(f'config.data.data_dir {root} is not a folder')
  there = folders.list_folders(root)
  if not there:
    raise ValueError(
      f'config.data.data_dir {root} holds no folders; one for each class is'
      f' expected, {root}/CLASS/*.jpg or {root}/train/CLASS/*.jpg'
    )
  alone = not {name.casefold() for name in there} & {*_SPLITS}
  if alone and test_split is None:
    train, test_name = root, ''
  else:
    train = root / 'train'
    test_name = find_test_split(str(root), there, test_split)
  listing = folders.list_classes(train)
  classes = tuple(listing.images)
  _check_train(train, listing)
  notes = listing.notes('train')
  test = None
  if test_name:
    tested = folders.list_classes(root / test_name)
    notes += tested.notes(test_name)
    notes += _check_test(root / test_name, tested, train, classes)
    test = _source(root / test_name, tested.images, classes)
  unread = [name for name in there if name not in ('train', test_name)]
  if unread and not alone:
    notes.append(f'not read: the folders {folders.some(unread)} in {root}')
  return Sources(
    train=_source(train, listing.images, classes),
    test=test,
    test_name=test_name,
    class_names=classes,
    notes=tuple(notes),
  )


def _source(
  folder: epath.Path,
  images: Mapping[str, Sequence[bytes]],
  classes: Sequence[str],
) -> FolderSource:
  number = {name: label for label, name in enumerate(classes)}
  labels = [number[name] for name, found in images.items() for _ in found]
  return FolderSource(
    str(folder),
    np.array([file for found in images.values() for file in found]),
    np.array(labels, np.int32),
  )


def _check_train(folder: epath.Path, listing: Listing) -> None:
  """Raises ValueError unless every class has images, and there are two."""
  if not any(listing.images.values()):
    raise ValueError(
      f'{folder} has no images; they are expected in folders, one per class:'
      f' {folder}/CLASS/*.jpg' + _left_out(listing, '')
    )
  for name, found in listing.images.items():
    if not found:
      raise ValueError(
        f'the class {name} has no images in {folder / name}'
        f'{_left_out(listing, name)}; remove the folder, or fill it'
      )
  if len(listing.images) == 1:
    (name,) = listing.images
    raise ValueError(
      f'{folder} has a single class, {name}: there is nothing to tell apart. A'
      ' folder for each class is expected'
    )


def _check_test(
  folder: epath.Path,
  listing: Listing,
  train: epath.Path,
  classes: Sequence[str],
) -> list[str]:
  """Returns notes; raises ValueError if the test images cannot be used."""
  if extra := sorted(set(listing.images) - set(classes)):
    raise ValueError(
      f'{folder} has classes that {train} lacks: {folders.some(extra)}'
    )
  if not any(listing.images.values()):
    raise ValueError(f'{folder} has no images')
  without = [name for name in classes if not listing.images.get(name)]
  return (
    [f'{folder.name}: no images of {folders.some(without)}'] if without else []
  )


def _left_out(listing: Listing, name: str) -> str:
  reasons = listing.reasons(name)
  return f' (left out: {reasons})' if reasons else ''
