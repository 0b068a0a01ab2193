"""Reads encoded images from TFDS, prepared as ArrayRecord.

They are read in any order without TensorFlow, and may lie on cloud storage.
"""

from collections.abc import Sequence
import dataclasses
import difflib
from typing import Any
from typing import NamedTuple
from typing import Protocol

from etils import epath
import numpy as np

from slimjax.data import fingerprint
from slimjax.naming import colon_hint

# Names of the test split; the first that is there is taken.
TEST_SPLITS = ('validation', 'val', 'test', 'valid')


class Record(NamedTuple):
  """One example.

  Attributes:
    name: name of the example, for messages.
    encoded: image of the example, encoded.
    label: number of its class.
    problem: reason why the image cannot be read; default: '', it can.
  """

  name: str
  encoded: bytes
  label: int
  problem: str = ''


class Source(Protocol):
  """Records that can be read in any order, in any process."""

  def __len__(self) -> int:
    """Returns the number of records."""

  def __getitem__(self, index: int) -> Record:
    """Reads one record."""

  def labels(self) -> np.ndarray:
    """Returns the labels of all records, int32 [n]."""

  def names(self) -> list[bytes]:
    """Returns a name for each record that stays when others are added."""

  def fingerprint(self, chosen: np.ndarray) -> str:
    """Returns a hash of what some records are, cheaply: none is read."""


@dataclasses.dataclass(frozen=True)
class Sources:
  """The training and the test split of a data set.

  Attributes:
    train: the training images.
    test: the test images; None if there is no such split.
    test_name: name of that split.
    class_names: one name per class.
    notes: lines on what was found, for the user; default: none.
  """

  train: Source
  test: Source | None
  test_name: str
  class_names: tuple[str, ...]
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """A split that TFDS has prepared as ArrayRecord."""

  origin: str  # the set with its version, the split and its files
  split: str
  records: Any  # from tfds: picklable; opens its files where they are read
  image_key: str
  label_key: str

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Record:
    example = self.records[int(index)]
    name = example.get('file_name')
    name = name.decode() if isinstance(name, bytes) else name
    return Record(
      str(name or f'{self.split}[{index}]'),
      example[self.image_key],
      int(example[self.label_key]),
    )

  def labels(self) -> np.ndarray:
    """Reads every record, which takes a while."""
    labels = (self.records[i][self.label_key] for i in range(len(self)))
    return np.fromiter(labels, np.int32, len(self))

  def names(self) -> list[bytes]:
    return [b'%d' % i for i in range(len(self))]

  def fingerprint(self, chosen: np.ndarray) -> str:
    """Hashes version and files: a prepared set is what they say."""
    return fingerprint.of([self.origin.encode(), np.asarray(chosen, np.int64)])


def open_tfds(name: str, data_dir: str | None, test_split: str | None):
  """Opens a TFDS data set, such as imagenet2012.

  Args:
    name: name of the data set, optionally with a configuration or version.
    data_dir: folder of TFDS; None is ~/tensorflow_datasets, or TFDS_DATA_DIR.
    test_split: name of the test split; None is validation, val or test.

  Raises:
    ValueError: there is no such data set, it does not hold images and classes,
      or it is not prepared as ArrayRecord; the message has the command that
      prepares it.
  """
  try:
    import tensorflow_datasets as tfds
  except ModuleNotFoundError as error:
    raise ValueError(
      f'{name} is read by tensorflow-datasets, which is not installed:'
      " pip install -e '.[imagenet]'"
    ) from error

  where = {} if data_dir is None else {'data_dir': data_dir}
  try:
    builder = tfds.builder(name, **where)
  except tfds.core.DatasetNotFoundError as error:
    known = [
      'digits',
      'idx',
      'image_folder',
      *tfds.list_builders(with_community_datasets=False),
    ]
    near = difflib.get_close_matches(name, known, n=3)
    raise ValueError(
      f'config.data.name {name!r} is not a data set'
      + (f'; is it {" or ".join(near)}?' if near else '')
      + colon_hint(name)
      + '. Names are digits, idx, image_folder, and those of'
      ' tensorflow-datasets: https://www.tensorflow.org/datasets/catalog'
    ) from error
  except ModuleNotFoundError as error:
    raise ValueError(
      f"TFDS's own code of {name} needs a package that is not installed:"
      f' {error}. Sets for image classification, such as imagenet2012, do not'
    ) from error
  _check_prepared(builder)
  info = builder.info
  kinds = {
    key: type(info.features[key])
    for key in info.supervised_keys or ()
    if key in info.features
  }
  if list(kinds.values()) != [tfds.features.Image, tfds.features.ClassLabel]:
    raise ValueError(
      f'{name} is not a set for image classification: its supervised keys are'
      f' {kinds}, expected an Image and a ClassLabel'
    )
  image_key, label_key = kinds
  test_name = find_test_split(name, list(info.splits), test_split)

  def source(split: str) -> TfdsSource:
    if not info.splits[split].num_examples:
      raise ValueError(f'the split {split} is empty')
    decoders = {image_key: tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=decoders)
    shards = info.splits[split].shard_lengths
    origin = f'{info.full_name} {split} {shards}'
    return TfdsSource(origin, split, records, image_key, label_key)

  return Sources(
    train=source('train'),
    test=source(test_name) if test_name else None,
    test_name=test_name,
    class_names=tuple(info.features[label_key].names),
  )


def _check_prepared(builder: Any) -> None:
  """Raises ValueError with the command that prepares the set as ArrayRecord."""
  folder = epath.Path(builder.data_path)
  root = folder
  for _ in builder.info.full_name.split('/'):
    root = root.parent
  prepared = (folder / 'dataset_info.json').exists()
  format_ = builder.info.file_format
  if prepared and format_ is not None and format_.value == 'array_record':
    return
  if prepared:
    dataset = root / builder.name
    raise ValueError(
      f'{folder} is prepared as {format_.value if format_ else "?"}, which'
      ' cannot be read in random order. Convert it once (the command needs'
      ' TensorFlow, training does not):\n  pip install tensorflow\n'
      f'  tfds convert_format --dataset_dir={dataset}'
      f' --out_file_format=array_record --out_dir={root}_arrayrecord\nand set'
      f' --config.data.data_dir={root}_arrayrecord'
    )
  manual = getattr(builder, 'MANUAL_DOWNLOAD_INSTRUCTIONS', None)
  archives = ''
  if manual:
    archives = (
      f'First put what TFDS cannot download into {root}/downloads/manual:\n'
      + '\n'.join('    ' + line.strip() for line in manual.strip().splitlines())
      + '\nThen p'
    )
  raise ValueError(
    f'{builder.info.full_name} is not prepared in {root}.'
    f' {archives or "P"}repare it once:\n'
    '  python -c "import tensorflow_datasets as tfds;'
    f" tfds.builder('{builder.info.full_name}', data_dir='{root}',"
    " file_format='array_record').download_and_prepare()\""
    '\nIf it lies elsewhere: --config.data.data_dir=DIR'
  )


def find_test_split(
  where: str, splits: Sequence[str], wanted: str | None
) -> str:
  """Returns the name of the test split; '' if there is only `train`.

  Args:
    where: the data set, for errors.
    splits: the names that there are.
    wanted: the name that is asked for; None takes the first of `TEST_SPLITS`.

  Raises:
    ValueError: there is no `train`, or not what is asked for.
  """
  choices = TEST_SPLITS if wanted is None else (wanted,)
  found = [choice for choice in choices if choice in splits]
  if 'train' not in splits or (wanted is not None and not found):
    raise ValueError(
      f'{where} has the splits {", ".join(splits) or "(none)"}; train and'
      f' {" or ".join(choices)} are needed (--config.data.test_split)'
    )
  return found[0] if found else ''
