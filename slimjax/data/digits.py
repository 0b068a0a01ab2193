"""The embedded data set: handwritten digits that come with scikit-learn.

1,797 real digits of 8x8 pixels (Alpaydin and Kaynak, UCI, 1998), here upsampled
to 32x32 RGB, by default 1,437 to train and 360 to test.
"""

import numpy as np

from slimjax import checks
from slimjax.data.batches import ArraySplit
from slimjax.data.dataset import Dataset
from slimjax.data.jpeg import CentreCrop
from slimjax.data.preprocess import affine_augment
from slimjax.data.preprocess import AugmentImages
from slimjax.data.preprocess import check_affine
from slimjax.data.preprocess import Normalise

IMAGE_SIZE = 32
_IMAGES = 1797
_TRAIN = 1437
# The mean and the standard deviation of the training images in [0, 1].
_MEAN = 0.31
_STD = 0.33
# Maps uint8 [b, h, w, 3] to float32 with about zero mean, unit deviation.
preprocess = Normalise(mean=_MEAN, std=_STD)


def create(
  *,
  max_shift: float = 3.0,
  max_degrees: float = 12.0,
  max_zoom: float = 0.12,
  train_images: int = _TRAIN,
  split_seed: int = 0,
  held_out: int = 0,
) -> Dataset:
  """Returns the digits as a data set.

  Args:
    max_shift, max_degrees, max_zoom: see
      `slimjax.data.preprocess.random_affine`.
    train_images: number of training images; default: 1,437. Fewer make a harder
      task. The other images are for testing.
    split_seed: seed that draws the training images; default: 0.
    held_out: number of training images set aside as the split `held_out`;
      default: 0.

  Raises:
    ValueError: a number is out of its range.
  """
  check_affine(IMAGE_SIZE, max_shift, max_degrees, max_zoom)
  options = {'train_images': train_images, 'split_seed': split_seed}
  train, test = (load(name, **options) for name in ('train', 'test'))
  checks.whole('held_out', held_out, least=0)
  if held_out >= train_images:
    raise ValueError(
      f'held_out {held_out} must be less than the {train_images} training'
      ' images'
    )
  # They are in random order already.
  left = train_images - held_out
  splits = {'train': {k: a[:left] for k, a in train.items()}, 'test': test}
  if held_out:
    splits['held_out'] = {k: a[left:] for k, a in train.items()}
  return Dataset(
    name='digits',
    num_classes=10,
    class_names=tuple('0123456789'),
    image_size=IMAGE_SIZE,
    preprocessing=f'(images / 255 - {_MEAN}) / {_STD}',
    splits={name: ArraySplit(arrays) for name, arrays in splits.items()},
    augment=AugmentImages(
      affine_augment,
      (
        ('mean', _MEAN),
        ('std', _STD),
        ('max_shift', max_shift),
        ('max_degrees', max_degrees),
        ('max_zoom', max_zoom),
      ),
    ),
    preprocess=preprocess,
    # Any picture is cut to its centre, as a square of that size.
    decode=CentreCrop(IMAGE_SIZE, IMAGE_SIZE),
  )


def load(
  split: str, *, train_images: int = _TRAIN, split_seed: int = 0
) -> dict[str, np.ndarray]:
  """Returns a whole split, {'image': uint8 [n, 32, 32, 3], 'label': int32 [n]}.

  Args:
    split: 'train' or 'test'.
    train_images, split_seed: see `create`.
  """
  # Both splits get some of them.
  checks.whole('train_images', train_images, least=1, most=_IMAGES - 1)
  checks.whole('split_seed', split_seed, least=0, most=2**32 - 1)
  from scipy import ndimage
  from sklearn import datasets

  if split not in ('train', 'test'):
    raise ValueError(
      f"the digits have the splits 'train' and 'test', not {split!r}"
    )
  digits = datasets.load_digits()
  order = np.random.RandomState(split_seed).permutation(_IMAGES)
  test, train = np.split(order, [_IMAGES - train_images])
  chosen = test if split == 'test' else train
  small = digits.images[chosen] * (255.0 / 16.0)  # [n, 8, 8]; were 0 to 16
  factor = IMAGE_SIZE // small.shape[1]
  images = ndimage.zoom(
    small, (1, factor, factor), order=1, mode='nearest', grid_mode=True
  )
  images = np.round(images).astype(np.uint8)[..., None]
  return {
    'image': np.repeat(images, 3, axis=-1),
    'label': digits.target[chosen].astype(np.int32),
  }
