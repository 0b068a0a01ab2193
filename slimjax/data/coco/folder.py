"""Finds the COCO files of a folder, and the pictures they are of."""

from collections.abc import Sequence
import dataclasses
import os

from etils import epath
import numpy as np

from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.pixels import FilePixels
from slimjax.data.coco.pixels import Pixels
from slimjax.data.coco.reading import read_coco
from slimjax.data.folders import some
from slimjax.data.sources import TEST_SPLITS

# Where annotations and pictures of a split lie: of COCO itself, of most tools,
# of Roboflow's export. SPLIT is train, validation, val, test or valid.
_LAYOUTS = (
  ('annotations/{kind}_{split}2017.json', '{split}2017'),
  ('annotations/{kind}_{split}.json', '{split}'),
  ('annotations/{split}.json', '{split}'),
  ('{split}.json', '{split}'),
  ('{split}/_annotations.coco.json', '{split}'),
  ('annotations/{split}.json', 'images'),
  ('{split}.json', 'images'),
)


@dataclasses.dataclass(frozen=True)
class Opened:
  """An annotated split.

  Attributes:
    annotations: what is in its pictures.
    pixels: the pictures.
    chosen: number of each annotated picture in `pixels`, int [n].
  """

  annotations: Annotations
  pixels: Pixels
  chosen: np.ndarray

  @classmethod
  def whole(cls, annotations: Annotations, pixels: Pixels) -> 'Opened':
    """Returns all pictures, which are annotated in their order."""
    return cls(annotations, pixels, np.arange(len(annotations)))

  def take(self, pictures: np.ndarray) -> 'Opened':
    """Returns some of the pictures."""
    annotations = self.annotations.take(pictures)
    return Opened(annotations, self.pixels, self.chosen[pictures])


@dataclasses.dataclass(frozen=True)
class Opening:
  """The training and the test split of a set for detection.

  Attributes:
    train: the training split.
    test: the test split; None if there is none.
    categories: classes of both.
  """

  train: Opened
  test: Opened | None
  categories: Categories


def open_folder(
  data_dir: str | None,
  *,
  train: Sequence[str] = (),
  test: Sequence[str] = (),
  masks: bool,
  keypoints: bool,
) -> Opening:
  """Opens COCO files and the folders of their pictures.

  Args:
    data_dir: folder that all paths are relative to.
    train: paths of the annotations and of the folder of the pictures of the
      training split; default: found in one of the usual places.
    test: likewise.
    masks, keypoints: see `slimjax.data.coco.reading.read_coco`.

  Raises:
    ValueError: files or pictures are missing, or wrong.
  """
  if data_dir is None:
    raise ValueError('coco needs --config.data.data_dir=DIR')
  root = epath.Path(data_dir)
  if not root.is_dir():
    raise ValueError(f'config.data.data_dir {root} is not a folder')
  kind = 'person_keypoints' if keypoints else 'instances'
  paths = _given(root, train, 'train') or _find(root, ['train'], kind)
  if paths is None:
    raise ValueError(
      f'{root} has no annotations of a training split: expected are, with a'
      ' folder of pictures beside them, '
      + ', '.join(a.format(kind=kind, split='train') for a, _ in _LAYOUTS[:5])
      + '; or set config.data.train = (ANNOTATIONS, PICTURES)'
    )
  opened, categories = _open(*paths, masks=masks, keypoints=keypoints)
  paths = _given(root, test, 'test') or _find(root, TEST_SPLITS, kind)
  if paths is None:
    return Opening(opened, None, categories)
  tested, others = _open(*paths, masks=masks, keypoints=keypoints)
  if others != categories:
    raise ValueError(
      f'{paths[0]} has other categories than the training split (ids, names'
      f' and keypoints, in order): {_say(others)}, expected'
      f' {_say(categories)}'
    )
  return Opening(opened, tested, categories)


def _say(categories: Categories) -> str:
  pairs = zip(categories.ids, categories.names, strict=True)
  said = some(f'{id_} {name}' for id_, name in pairs)
  points = categories.keypoints
  return f'{said} with keypoints {some(points)}' if points else said


def _given(
  root: epath.Path, paths: Sequence[str], key: str
) -> tuple[epath.Path, epath.Path] | None:
  if not paths:
    return None
  if isinstance(paths, str) or len(paths) != 2:
    raise ValueError(
      f'{key} must be two paths, annotations and pictures, got {paths!r}'
    )
  annotations, pictures = (root / path for path in paths)
  return annotations, pictures


def _find(
  root: epath.Path, splits: Sequence[str], kind: str
) -> tuple[epath.Path, epath.Path] | None:
  for split in splits:
    for layout in _LAYOUTS:
      annotations, pictures = (
        root / part.format(kind=kind, split=split) for part in layout
      )
      if annotations.exists() and pictures.is_dir():
        return annotations, pictures
  return None


def _open(
  path: epath.Path, folder: epath.Path, *, masks: bool, keypoints: bool
) -> tuple[Opened, Categories]:
  annotations, categories = read_coco(path, masks=masks, keypoints=keypoints)
  _check_files(path, folder, annotations)
  pixels = FilePixels(str(folder), annotations.files, annotations.sizes)
  return Opened.whole(annotations, pixels), categories


def _check_files(
  path: epath.Path, folder: epath.Path, annotations: Annotations
) -> None:
  """Raises ValueError if pictures are missing; each folder is listed once."""
  if not folder.is_dir():
    raise ValueError(f'the folder of the pictures, {folder}, is not there')
  there: dict[str, set[str]] = {}
  missing = []
  for id_, file in zip(annotations.image_ids, annotations.files, strict=True):
    place, name = os.path.split(file.decode())
    if place not in there:
      inner = folder / place
      there[place] = (
        {entry.name for entry in inner.iterdir()} if inner.is_dir() else set()
      )
    if name not in there[place]:
      missing.append(f'{file.decode()} (image {id_})')
  if missing:
    raise ValueError(
      f'{len(missing):,} of the {len(annotations):,} pictures of {path} are'
      f' not in {folder}: {some(missing)}'
    )
