"""Reads COCO as TFDS prepares it, coco/2017 in ArrayRecord: boxes only.

TensorFlow is not needed: the folder that was prepared is opened, not TFDS's own
code of the set. Labels are positions in the list of classes, not COCO's ids.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.folder import Opened
from slimjax.data.coco.folder import Opening
from slimjax.data.coco.pixels import decode_annotated
from slimjax.data.coco.pixels import stored_size
from slimjax.data.sources import find_test_split

_INFO = 'dataset_info.json'
_CLASSES = 80
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids that COCO left out


@dataclasses.dataclass(frozen=True)
class PreparedPixels:
  """Pictures of a prepared set.

  Attributes:
    records: examples, from tfds: picklable, opened where they are read.
    files: names of the pictures, bytes [n].
    sizes: heights and widths, int [n, 2].
  """

  records: Any
  files: np.ndarray
  sizes: np.ndarray

  def name(self, index: int) -> str:
    return self.files[index].decode()

  def read(self, index: int) -> np.ndarray:
    encoded = self.records[int(index)]['image']
    return decode_annotated(encoded, self.sizes[index])


def open_prepared(
  data_dir: str | None, *, masks: bool = False, keypoints: bool = False
) -> Opening:
  """Opens a prepared set; its training split is read once, without decoding.

  Args:
    data_dir: folder of the version, such as DIR/coco/2017/1.1.0, or one above.
    masks, keypoints: must be False, the set has none.

  Raises:
    ValueError: it is not there, or not prepared as ArrayRecord.
  """
  if masks or keypoints:
    raise ValueError(
      'coco/2017 of TFDS has neither masks nor keypoints; config.data.name ='
      " 'coco' reads them from COCO's own files"
    )
  try:
    import tensorflow_datasets as tfds
  except ModuleNotFoundError as error:
    raise ValueError(
      'coco/2017 is read by tensorflow-datasets, which is not installed:'
      " pip install -e '.[imagenet]'"
    ) from error
  if data_dir is None:
    raise ValueError('coco/2017 needs --config.data.data_dir=DIR')
  folder = _version(epath.Path(data_dir))
  builder = tfds.builder_from_directory(folder)
  format_ = builder.info.file_format
  if format_ is None or format_.value != 'array_record':
    raise ValueError(
      f'{folder} is prepared as {format_ and format_.value}, which cannot be'
      ' read in random order; prepare it with'
      " file_format='array_record'"
    )
  objects = builder.info.features['objects'].feature
  names = tuple(objects['label'].names)

  def opened(split: str) -> Opened:
    decoders = {'image': tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=decoders)
    annotations = _annotations(records)
    pixels = PreparedPixels(records, annotations.files, annotations.sizes)
    return Opened.whole(annotations, pixels)

  splits = list(builder.info.splits)
  tested = find_test_split(str(folder), splits, None)
  return Opening(
    opened('train'),
    opened(tested) if tested else None,
    Categories(_ids(len(names)), names),
  )


def _version(folder: epath.Path) -> epath.Path:
  """Returns the folder of the newest version in or below a folder."""
  for place in (folder, folder / '2017', folder / 'coco' / '2017'):
    if (place / _INFO).exists():
      return place
    if place.is_dir():
      versions = [v for v in place.iterdir() if (v / _INFO).exists()]
      if versions:
        return max(versions, key=_number)
  raise ValueError(
    f'coco/2017 is not prepared in {folder}. Prepare it once, where TensorFlow'
    ' is installed (training does not need it):\n'
    '  python -c "import tensorflow_datasets as tfds;'
    f" tfds.builder('coco/2017', data_dir='{folder}',"
    " file_format='array_record').download_and_prepare()\""
  )


def _number(version: epath.Path) -> list[int]:
  """Returns the numbers of a version such as 1.10.0, which texts missort."""
  return [int(part) for part in version.name.split('.') if part.isdigit()]


def _ids(count: int) -> tuple[int, ...]:
  """Returns COCO's ids of its 80 classes; of other sets, the positions."""
  gaps = _GAPS if count == _CLASSES else ()
  ids = range(1, count + len(gaps) + 1)
  return tuple(id_ for id_ in ids if id_ not in gaps)


def _annotations(records: Any) -> Annotations:
  """Reads all records; pictures are not decoded."""
  empty = np.zeros((0, 4)), *(np.zeros(0, np.int64) for _ in range(4))
  ids, files, sizes, counts, objects = [], [], [], [], [empty]
  for i in range(len(records)):
    record: Mapping[str, Any] = records[i]
    height, width = stored_size(record['image'])
    found = record['objects']
    shares = np.asarray(found['bbox'], np.float64).reshape(-1, 4)
    top, left, bottom, right = (shares * [height, width, height, width]).T
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    keys = ('label', 'is_crowd', 'area', 'id')
    objects.append((boxes, *(np.asarray(found[key], int) for key in keys)))
    ids.append(int(record['image/id']))
    files.append(bytes(record['image/filename']))
    sizes.append((height, width))
    counts.append(len(shares))
  columns = zip(*objects, strict=True)
  boxes, labels, crowd, areas, numbers = map(np.concatenate, columns)
  return Annotations(
    image_ids=np.array(ids, np.int64),
    files=np.array(files),
    sizes=np.array(sizes, np.int32).reshape(-1, 2),
    starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    ids=numbers,
    boxes=boxes,
    labels=(labels + 1).astype(np.int32),
    crowd=crowd.astype(bool),
    areas=areas.astype(np.float64),
  )
