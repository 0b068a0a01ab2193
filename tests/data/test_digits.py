"""The digits: one split, fixed, of the source upsampled."""

import hashlib

import numpy as np
import pytest
from sklearn import datasets

from slimjax.data import digits
from slimjax.data.preprocess import normalise


@pytest.fixture(scope='module')
def splits():
  return {split: digits.load(split) for split in ('train', 'test')}


def test_every_digit_is_in_one_split(splits):
  sizes = {split: len(arrays['label']) for split, arrays in splits.items()}
  assert sizes == {'train': 1437, 'test': 360}
  for arrays in splits.values():
    assert arrays['image'].shape == (len(arrays['label']), 32, 32, 3)
    assert arrays['image'].dtype == np.uint8
    assert arrays['label'].dtype == np.int32
  # As often as in the source: none is in both, none is left out.
  source = datasets.load_digits()
  labels = np.concatenate([a['label'] for a in splits.values()])
  assert (np.bincount(labels) == np.bincount(source.target)).all()
  seen = {image.tobytes() for a in splits.values() for image in a['image']}
  distinct = len(np.unique(source.data, axis=0))
  assert len(seen) == distinct == len(source.data)


def test_the_split_is_fixed(splits):
  labels = splits['test']['label']
  digest = hashlib.sha256(labels.tobytes()).hexdigest()
  assert labels[:12].tolist() == TEST_LABELS
  assert digest == TEST_DIGEST


TEST_LABELS = [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]
TEST_DIGEST = '90b64c9407bb933643bebe70bb9fe608a91a095649694c890090132f04453529'


def test_images_are_the_source_upsampled(splits):
  """Bilinear between the centres of the pixels, and flat beyond the last."""
  source = datasets.load_digits()
  upsampled = _bilinear(source.images)
  for index in (0, 100, 359):
    image = splits['test']['image'][index].astype(float)
    assert (image == image[..., :1]).all()
    rounded = np.abs(upsampled - image[..., 0]).max(axis=(1, 2)) <= 0.5 + 1e-6
    (found,) = np.flatnonzero(rounded)
    assert source.target[found] == splits['test']['label'][index]


def _bilinear(small):
  """Maps [n, 8, 8] of 0..16 -> [n, 32, 32] of 0..255, an axis at a time."""
  at = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
  low = np.minimum(at.astype(int), 6)
  matrix = np.zeros((32, 8))
  matrix[np.arange(32), low] = 1 - (at - low)
  matrix[np.arange(32), low + 1] += at - low
  return matrix @ small @ matrix.T * 255 / 16


def test_preprocess_gives_zero_mean_and_unit_deviation(splits):
  images = np.asarray(digits.preprocess(splits['train']['image']))
  assert images.dtype == np.float32
  assert abs(images.mean()) < 0.1
  assert abs(images.std() - 1) < 0.1
  one = splits['train']['image'][:1]
  np.testing.assert_allclose(
    normalise(one, mean=0.5, std=0.25), (one / 255 - 0.5) / 0.25, atol=1e-6
  )


def test_unknown_split():
  with pytest.raises(ValueError, match="'train' and 'test', not 'validation'"):
    digits.load('validation')
