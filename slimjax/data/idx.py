"""Data sets of IDX files: Fashion-MNIST, MNIST, and others made like it."""

from collections.abc import Sequence
import dataclasses

from etils import epath
import numpy as np

from slimjax import checks
from slimjax import files
from slimjax.data import idx_files
from slimjax.data.batches import ArraySplit
from slimjax.data.batches import Batch
from slimjax.data.dataset import Dataset
from slimjax.data.holding_out import stratified
from slimjax.data.jpeg import GreyCrop
from slimjax.data.preprocess import affine_augment
from slimjax.data.preprocess import AugmentImages
from slimjax.data.preprocess import check_affine
from slimjax.data.preprocess import Normalise

HELD_OUT = 'held_out'
_CHUNK = 4096  # images that are counted, or seen by numpy, at a time


@dataclasses.dataclass(frozen=True)
class Fit:
  """Gives grey images the size and the three channels of a network's input.

  Attributes:
    size: (height, width) of the result, pixels.
    pad: whether smaller images get a black frame; else they are resized.
  """

  size: tuple[int, int]
  pad: bool

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Returns uint8 [b, h, w] as uint8 [b, *size, 3]."""
    if images.shape[1:] != self.size:
      images = self._framed(images) if self.pad else self._resized(images)
    return np.repeat(images[..., None], 3, axis=-1)

  def _framed(self, images: np.ndarray) -> np.ndarray:
    frame = [
      ((new - old) // 2, (new - old + 1) // 2)
      for new, old in zip(self.size, images.shape[1:], strict=True)
    ]
    return np.pad(images, [(0, 0), *frame])

  def _resized(self, images: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = self.size
    resized = np.empty((len(images), height, width), np.uint8)
    for place, image in enumerate(map(Image.fromarray, images)):
      image = image.resize((width, height), Image.Resampling.BILINEAR)
      resized[place] = np.asarray(image)
    return resized


@dataclasses.dataclass(frozen=True)
class GreySplit:
  """Grey images held in memory as they are, and shown with three channels.

  Attributes:
    examples: `image` uint8 [n, h, w] and `label` int32 [n].
    fit: what the network sees of the images.
  """

  examples: ArraySplit
  fit: Fit

  def __len__(self) -> int:
    return len(self.examples)

  def fingerprint(self) -> str:
    """Returns a hash of the images as they are in the files, and the labels."""
    return self.examples.fingerprint()

  def read_train(self, indices: np.ndarray, keys: np.ndarray) -> Batch:
    return self._shown(self.examples.read_train(indices, keys))

  def read_eval(self, indices: np.ndarray) -> Batch:
    return self._shown(self.examples.read_eval(indices))

  def _shown(self, batch: Batch) -> Batch:
    return {**batch, 'image': self.fit(batch['image'])}


def create(
  *,
  data_dir: str | None = None,
  package: str = '',
  prefix: str = '',
  class_names: Sequence[str] = (),
  image_size: int | None = None,
  fit: str = 'pad',
  max_shift: float = 0.0,
  max_degrees: float = 0.0,
  max_zoom: float = 0.0,
  flip: bool = False,
  train_images: int | None = None,
  held_out: int = 0,
  split_seed: int = 0,
  test_split: str = 'test',
) -> Dataset:
  """Returns a data set of IDX files, plain or compressed by gzip.

  The folder holds PREFIXtrain-images-idx3-ubyte, PREFIXtrain-labels-idx1-ubyte,
  and the same for t10k or test. Pixels are used exactly as they lie.

  Args:
    data_dir: the folder; default: where `package` has been installed.
    package: name of the set in share/datasets, where packages of Debian put it;
      default: none.
    prefix: what the names of the files begin with, such as 'emnist-letters-';
      default: nothing.
    class_names: one name per class; default: the numbers of the labels.
    image_size: height and width that the network sees, pixels; default: those
      of the files. Networks take 28 pixels as they are; 32 cost a third more.
    fit: how images come to another `image_size`: 'pad' (the default) frames
      them in black and keeps every pixel, 'resize' interpolates.
    max_shift, max_degrees, max_zoom, flip: see
      `slimjax.data.preprocess.affine_augment`; default: nothing is changed.
    train_images: number of training images that are used; default: all. The
      same share of each class is drawn, to the nearest image.
    held_out: number of training images set aside as the split `held_out`, drawn
      likewise; default: 0.
    split_seed: seed that draws both; default: 0.
    test_split: 'test' (the default), or 'held_out', which also tests on the
      images set aside, for choosing a recipe: the test files are not read.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: an argument is wrong, or a file cannot be used; it says why.
  """
  checks.choice('fit', fit, allowed=('pad', 'resize'))
  if image_size is not None:
    checks.whole('image_size', image_size, least=1, most=2**14)
  checks.whole('held_out', held_out, least=0)
  checks.whole('split_seed', split_seed, least=0, most=2**32 - 1)
  folder = _folder(data_dir, package)
  images, labels = idx_files.read_split(folder, prefix, idx_files.TRAIN)
  names = tuple(class_names) or tuple(map(str, range(labels.max() + 1)))
  _check_labels(labels, names, 'training')
  size = images.shape[1:]
  seen = size if image_size is None else (image_size, image_size)
  check_affine(max(seen), max_shift, max_degrees, max_zoom)
  pad = fit == 'pad'
  if pad and min(np.subtract(seen, size)) < 0:
    raise ValueError(
      f'image_size {image_size} is less than the {size[0]} x {size[1]} pixels'
      " of the images; fit='resize' makes them smaller"
    )
  show = Fit(seen, pad)
  chosen = _draw(labels, train_images, held_out, split_seed)

  def split(images: np.ndarray, labels: np.ndarray) -> GreySplit:
    return GreySplit(ArraySplit({'image': images, 'label': labels}), show)

  splits = {n: split(images[i], labels[i]) for n, i in chosen.items()}
  if test_split == 'test':
    tested = idx_files.read_split(folder, prefix, idx_files.TEST)
    if tested[0].shape[1:] != size:
      raise ValueError(
        f'{folder}: the training images have {size[0]} x {size[1]} pixels, the'
        f' test images {" x ".join(map(str, tested[0].shape[1:]))}'
      )
    _check_labels(tested[1], names, 'test')
    splits['test'] = split(*tested)
  elif test_split == HELD_OUT and held_out:
    splits['test'] = splits[HELD_OUT]
  else:
    raise ValueError(
      "test_split must be 'test', or 'held_out' with held_out above 0, got"
      f' {test_split!r}'
    )
  mean, std = _moments(images)
  constants = {'mean': mean, 'std': std}
  return Dataset(
    name='idx',
    num_classes=len(names),
    class_names=names,
    image_size=seen[0] if seen[0] == seen[1] else seen,
    preprocessing=f'(images / 255 - {mean}) / {std}',
    splits=splits,
    augment=AugmentImages(
      affine_augment,
      (
        *constants.items(),
        ('max_shift', max_shift),
        ('max_degrees', max_degrees),
        ('max_zoom', max_zoom),
        ('flip', flip),
      ),
    ),
    preprocess=Normalise(**constants),
    decode=_decode(size, seen, pad),
    notes=(f'IDX files of {folder}',),
  )


def _folder(data_dir: str | None, package: str) -> epath.Path:
  if data_dir is None:
    if not package:
      raise ValueError('idx needs --config.data.data_dir=DIR')
    return idx_files.package_folder(package)
  folder = files.expand(data_dir, 'config.data.data_dir')
  if not folder.is_dir():
    raise ValueError(f'config.data.data_dir {folder} is not a folder')
  return folder


def _check_labels(labels: np.ndarray, names: Sequence[str], what: str) -> None:
  if labels.max() >= len(names):
    raise ValueError(
      f'a label of the {what} images is {labels.max()}, but there are'
      f' {len(names)} classes, counted from 0'
    )


def _draw(
  labels: np.ndarray, train_images: int | None, held_out: int, seed: int
) -> dict[str, np.ndarray]:
  """Returns the indices of the splits that the training images give."""
  names = [b'%d' % i for i in range(len(labels))]
  rest = np.arange(len(labels))
  chosen = {}
  if held_out:
    _check_count('held_out', held_out, len(labels) - 1)
    rest, chosen[HELD_OUT] = stratified(
      labels, names, held_out / len(labels), seed
    )
  if train_images is not None and train_images != len(rest):
    _check_count('train_images', train_images, len(rest))
    _, some = stratified(
      labels[rest], [names[i] for i in rest], train_images / len(rest), seed
    )
    rest = rest[some]
  return {'train': rest, **chosen}


def _check_count(what: str, count: int, most: int) -> None:
  if not 0 < count <= most:
    raise ValueError(f'{what} must be between 1 and {most:,}, got {count}')


def _moments(images: np.ndarray) -> tuple[float, float]:
  """Returns mean and deviation of pixels in [0, 1], to three decimals."""
  counts = np.zeros(256, np.int64)
  for start in range(0, len(images), _CHUNK):
    part = images[start : start + _CHUNK]
    counts += np.bincount(part.ravel(), minlength=256)
  levels = np.arange(256) / 255
  mean = counts @ levels / counts.sum()
  variance = counts @ (levels - mean) ** 2 / counts.sum()
  # Images of one colour are not scaled.
  return round(mean, 3), round(variance**0.5, 3) or 1.0


def _decode(
  size: tuple[int, int], seen: tuple[int, int], pad: bool
) -> GreyCrop | None:
  """Returns how any picture is cut to what the network sees, a square."""
  if size[0] != size[1] or seen[0] != seen[1]:
    return None
  return GreyCrop(seen[0], inner=size[0] if pad else seen[0])
