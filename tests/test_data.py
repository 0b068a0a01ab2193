"""The digits, their order, their shares among processes, their augmentation."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from slimjax.data import digits
from slimjax.data.arrays import padded_batches
from slimjax.data.arrays import TrainBatches
from slimjax.data.preprocess import normalise
from slimjax.data.preprocess import random_affine


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
  """[n, 8, 8] of 0 to 16 -> [n, 32, 32] of 0 to 255, an axis at a time."""
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


# Batches. Here an example is its number.


def _numbers(size):
  numbers = np.arange(size, dtype=np.int32)
  return {'image': numbers[:, None] * 10, 'label': numbers}


def _epoch(batches):
  return [i for batch in _take(batches, 4) for i in batch]


def _take(batches, count):
  return [next(batches)['label'].tolist() for _ in range(count)]


def test_an_epoch_takes_every_example_at_most_once():
  batches = TrainBatches(_numbers(23), 5, seed=0)
  assert batches.batches_per_epoch == 4
  epochs = [_epoch(batches) for _ in range(5)]
  for epoch in epochs:
    assert len(set(epoch)) == 20
  assert len({tuple(epoch) for epoch in epochs}) == 5
  # What is dropped differs, so that all are seen.
  assert len(set().union(*epochs)) == 23


def test_images_and_labels_stay_together():
  batch = next(TrainBatches(_numbers(23), 5, seed=0))
  assert (batch['image'][:, 0] == batch['label'] * 10).all()


def test_the_order_depends_on_seed_and_epoch_alone():
  one, same = (TrainBatches(_numbers(23), 5, seed=3) for _ in range(2))
  other = TrainBatches(_numbers(23), 5, seed=4)
  first = _take(one, 4)
  assert _take(same, 4) == first
  assert _take(other, 4) != first
  second = _take(one, 4)
  # The third epoch without the two before it.
  late = TrainBatches(_numbers(23), 5, seed=3)
  late.set_state({'epoch': 1, 'batch': 0})
  assert _take(late, 4) == second


@pytest.mark.parametrize('done', [0, 1, 3, 4, 5, 9])
def test_a_saved_position_goes_on_exactly(done):
  batches = TrainBatches(_numbers(23), 5, seed=3)
  _take(batches, done)
  state = batches.get_state()
  expected = _take(batches, 6)
  resumed = TrainBatches(_numbers(23), 5, seed=3)
  resumed.set_state(state)  # not moved by what came after it was taken
  assert _take(resumed, 6) == expected


@pytest.mark.parametrize('processes', [2, 4])
def test_shares_together_are_the_batch_of_one_process(processes):
  shares = [
    TrainBatches(
      _numbers(23), 8, seed=1, process_index=i, process_count=processes
    )
    for i in range(processes)
  ]
  whole = TrainBatches(_numbers(23), 8, seed=1)
  for _ in range(5):
    parts = [next(share)['label'] for share in shares]
    assert {len(part) for part in parts} == {8 // processes}
    assert np.concatenate(parts).tolist() == next(whole)['label'].tolist()


def test_impossible_batches_are_refused():
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainBatches(_numbers(23), 24, seed=0)
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainBatches(_numbers(23), 0, seed=0)
  with pytest.raises(ValueError, match='among 4 processes'):
    TrainBatches(_numbers(23), 6, seed=0, process_count=4)


@pytest.mark.parametrize('batch_size', [4, 8, 12, 20, 24, 40])
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_padded_batches_hold_each_example_once(batch_size, processes):
  shares = [
    list(
      padded_batches(
        _numbers(23), batch_size, process_index=i, process_count=processes
      )
    )
    for i in range(processes)
  ]
  # All processes run the same steps: one with fewer would hang the others.
  assert len({len(share) for share in shares}) == 1
  scored = []
  for parts in zip(*shares, strict=True):
    for batch in parts:
      assert batch['label'].shape == (batch_size // processes,)
      assert (batch['image'][:, 0] == batch['label'] * 10).all()
      scored += batch['label'][batch['mask']].tolist()
  assert scored == list(range(23))


# Augmentation.


def _affine(images, key=0, **maxima):
  arguments = {'max_shift': 0.0, 'max_degrees': 0.0, 'max_zoom': 0.0, **maxima}
  return np.asarray(
    random_affine(jax.random.key(key), jnp.asarray(images), **arguments)
  )


def _images(batch=4, size=12):
  rng = np.random.RandomState(0)
  return rng.uniform(1, 2, (batch, size, size, 3)).astype(np.float32)


def test_zero_maxima_change_nothing():
  images = _images()
  np.testing.assert_allclose(_affine(images, fill=-1.0), images, atol=1e-5)


def test_a_shift_moves_every_pixel_by_it():
  # Ramps tell where a pixel came from: channel 0 its row, channel 1 its column.
  size = 16
  rows, columns = np.mgrid[:size, :size].astype(np.float32)
  image = np.stack([rows, columns, np.ones_like(rows)], axis=-1)
  moved = _affine(np.stack([image] * 8), max_shift=3.0)
  centre = moved[:, size // 2, size // 2]
  down, right = size // 2 - centre[:, 0], size // 2 - centre[:, 1]
  assert len(set(down.round(4))) == len(set(right.round(4))) == 8
  assert max(abs(down).max(), abs(right).max()) <= 3
  assert max(abs(down).max(), abs(right).max()) > 1
  inner = slice(4, -4)
  np.testing.assert_allclose(
    moved[:, inner, inner, 0],
    rows[None, inner, inner] - down[:, None, None],
    atol=1e-4,
  )
  np.testing.assert_allclose(
    moved[:, inner, inner, 1],
    columns[None, inner, inner] - right[:, None, None],
    atol=1e-4,
  )


def test_a_turn_keeps_the_centre_and_a_zoom_scales_about_it():
  size = 17
  rows, columns = np.mgrid[:size, :size].astype(np.float32) - 8
  image = np.stack([rows, columns, np.ones_like(rows)], axis=-1)
  near = slice(5, 12)  # comes from inside under both
  y, x = rows[None, near, near], columns[None, near, near]

  turned = _affine(np.stack([image] * 4), max_degrees=30.0)
  np.testing.assert_allclose(turned[:, 8, 8, :2], 0.0, atol=1e-5)
  # Lengths stay, and the angle is one for the whole image.
  length = np.hypot(turned[:, near, near, 0], turned[:, near, near, 1])
  np.testing.assert_allclose(length, np.hypot(y, x) + 0 * length, atol=1e-4)
  angle = np.degrees(np.arctan2(turned[:, 8, 11, 0], turned[:, 8, 11, 1]))
  assert len(set(angle.round(3))) == 4
  assert 1 < abs(angle).max() <= 30

  zoomed = _affine(np.stack([image] * 4), max_zoom=0.2)
  factor = zoomed[:, 8, 11, 1] / 3
  assert len(set(factor.round(4))) == 4
  assert ((factor >= 1 / 1.2 - 1e-5) & (factor <= 1 / 0.8 + 1e-5)).all()
  np.testing.assert_allclose(
    zoomed[:, near, near, 1], factor[:, None, None] * x, atol=1e-4
  )


def test_fill_comes_from_outside():
  images = np.full((16, 9, 9, 3), 1.0, np.float32)
  moved = _affine(images, max_shift=8.0, fill=-5.0)
  assert (moved >= -5 - 1e-5).all()
  assert (moved <= 1 + 1e-5).all()
  corners = moved[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
  outside = np.isclose(corners, -5.0).any(axis=1)
  assert outside.sum() >= 12
  # The digits are filled with black.
  black = np.zeros((4, 32, 32, 3), np.uint8)
  augmented = digits.augment(jax.random.key(0), jnp.asarray(black))
  np.testing.assert_allclose(augmented, digits.preprocess(black), atol=1e-5)


def test_randomness_is_of_the_example_and_of_the_key_alone():
  images = np.stack([_images(batch=1)[0]] * 4)
  maxima = {'max_shift': 2.0, 'max_degrees': 20.0, 'max_zoom': 0.2}
  first, again = _affine(images, 1, **maxima), _affine(images, 1, **maxima)
  assert (first == again).all()
  for i in range(1, 4):
    assert np.abs(first[0] - first[i]).max() > 0.1
  assert np.abs(first - _affine(images, 2, **maxima)).max() > 0.1
  # What else is in the batch does not matter.
  others = np.concatenate([images[:1], _images()[1:]])
  np.testing.assert_allclose(
    _affine(others, 1, **maxima)[0], first[0], atol=1e-6
  )
