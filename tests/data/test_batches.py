"""The digits, their order, their shares among processes, their augmentation."""

import functools
import hashlib
import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from slimjax.data import digits
from slimjax.data.batches import ArraySplit
from slimjax.data.batches import Corrupt
from slimjax.data.batches import CorruptImagesError
from slimjax.data.batches import EvalReader
from slimjax.data.batches import read
from slimjax.data.batches import Share
from slimjax.data.batches import TrainReader
from slimjax.data.prefetch import Prefetched
from slimjax.data.preprocess import Normalise
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


# Batches. Here an example is its number.


ALONE = Share()


def _numbers(size):
  numbers = np.arange(size, dtype=np.int32)
  return ArraySplit({'image': numbers[:, None] * 10, 'label': numbers})


def _read(reader):
  return read(reader, corrupt=Corrupt(0))


def _batches(size=23, batch_size=5, *, seed=0, steps=range(100), share=ALONE):
  reader = TrainReader(_numbers(size), batch_size, seed, steps, share)
  return [batch['label'].tolist() for batch in _read(reader)]


def test_no_example_is_lost_or_repeated_within_an_epoch():
  row = [i for batch in _batches(steps=range(23)) for i in batch]
  epochs = [row[start : start + 23] for start in range(0, 5 * 23, 23)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_images_and_labels_stay_together():
  batch = next(_read(TrainReader(_numbers(23), 5, 0, range(9))))
  assert (batch['image'][:, 0] == batch['label'] * 10).all()


def test_the_order_depends_on_seed_and_step_alone():
  batches = _batches(seed=3)
  assert _batches(seed=3) == batches
  assert _batches(seed=4) != batches
  # From any step, in the middle of an epoch or at its end.
  for first in (1, 4, 5, 23, 57):
    assert _batches(seed=3, steps=range(first, 100)) == batches[first:]


@pytest.mark.parametrize('processes', [2, 4])
def test_shares_together_are_the_batch_of_one_process(processes):
  """So a run may resume with another number of hosts."""
  shares = [
    _batches(batch_size=8, seed=1, share=Share(i, processes))
    for i in range(processes)
  ]
  whole = _batches(batch_size=8, seed=1)
  for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
    assert {len(part) for part in parts} == {8 // processes}
    assert [i for part in parts for i in part] == batch


def test_impossible_batches_are_refused():
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainReader(_numbers(23), 24, 0, range(1))
  with pytest.raises(ValueError, match='between 1 and the 23'):
    TrainReader(_numbers(23), 0, 0, range(1))
  with pytest.raises(ValueError, match='6 .* among 4 processes; try 8'):
    TrainReader(_numbers(23), 6, 0, range(1), Share(0, 4))


@pytest.mark.parametrize('batch_size', [4, 8, 12, 20, 24, 40])
@pytest.mark.parametrize('processes', [1, 2, 4])
def test_padded_batches_hold_each_example_once(batch_size, processes):
  shares = [
    list(_read(EvalReader(_numbers(23), batch_size, Share(i, processes))))
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


# Images that cannot be decoded.


class _Unreadable(ArraySplit):
  """Some examples, by number, are corrupt."""

  def read_eval(self, indices):
    batch = super().read_eval(indices)
    names = [f'{i}.jpg' for i in indices if i in (2, 3, 11)]
    return {**batch, 'corrupt': tuple(names)}


def test_corrupt_images_are_counted_once_and_named(caplog):
  reader = EvalReader(_Unreadable(_numbers(23).arrays), 5)
  corrupt = Corrupt(3)
  for _ in range(2):  # in a second pass they are the same
    with caplog.at_level(logging.ERROR):
      batches = list(read(reader, corrupt=corrupt))
    assert all(set(b) == {'image', 'label', 'mask'} for b in batches)
  assert [r.getMessage().split()[2] for r in caplog.records] == [
    *('2.jpg', '3.jpg', '11.jpg')
  ]
  with pytest.raises(CorruptImagesError, match=r'3 images .*max_corrupt = 2'):
    list(read(reader, corrupt=Corrupt(2)))


def _gathered(counts):
  """Returns what a collective gives each of several processes, stacked."""
  sent = []

  def keep(hashes):
    sent.append(hashes)
    return np.zeros_like(hashes)[None]

  for corrupt in counts:
    corrupt.check(keep)
  assert len({hashes.shape for hashes in sent}) == 1
  return lambda hashes: np.stack(sent)


@pytest.mark.parametrize(
  'names, together',
  [
    ((['a', 'b'], ['c', 'd']), 4),
    ((['a', 'b'], ['c', 'b']), 3),
    ((['a', 'b', 'c'], ['c', 'b']), 3),
    (([], ['a', 'b', 'c']), 3),
  ],
)
def test_corrupt_images_are_counted_over_all_processes(names, together):
  counts = [Corrupt(3) for _ in names]
  for corrupt, own in zip(counts, names, strict=True):
    corrupt.add(own)  # alone none has too many
  gather = _gathered(counts)
  for corrupt in counts:
    if together == 3:
      corrupt.check(gather)
      continue
    with pytest.raises(CorruptImagesError, match='4 images .*max_corrupt = 3'):
      corrupt.check(gather)


# Prefetching.


def test_prefetching_keeps_the_order_and_hands_errors_on():
  closed = []

  def numbers(stop_at=None):
    try:
      for i in range(10):
        if i == stop_at:
          raise KeyError(i)
        yield i
    finally:
      closed.append(True)

  with Prefetched(numbers(), lambda i: i * 2) as batches:
    assert list(batches) == [2 * i for i in range(10)]
    with pytest.raises(StopIteration):
      next(batches)
  with Prefetched(numbers(stop_at=3), lambda i: i) as batches:
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
      with pytest.raises(KeyError):
        next(batches)
  # Left early, the reader is closed in its own thread.
  with Prefetched(numbers(), lambda i: i, ahead=1) as batches:
    next(batches)
  assert len(closed) == 3


def test_waiting_for_input_is_counted():
  release = threading.Event()

  def slow():
    release.wait(10)
    yield 0

  with Prefetched(slow(), lambda i: i) as batches:
    threading.Timer(0.2, release.set).start()
    next(batches)
    assert 0.1 < batches.waited < 5


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
  labels = jnp.arange(4)
  augmented = digits.create().augment(
    jax.random.key(0), {'image': jnp.asarray(black), 'label': labels}
  )
  assert augmented['label'] is labels
  np.testing.assert_allclose(
    augmented['image'], digits.preprocess(black), atol=1e-5
  )


def test_two_data_sets_of_equal_options_share_their_programs():
  """What happens on the device keys what is compiled."""
  one, two = digits.create(), digits.create()
  assert one.augment is not two.augment
  assert (one.augment, one.preprocess) == (two.augment, two.preprocess)
  assert hash(one.augment) == hash(two.augment)
  assert one.augment != digits.create(max_shift=1.0).augment
  constants = {'mean': (0.5, 0.4, 0.3), 'std': 0.2}
  assert hash(Normalise(**constants)) == hash(Normalise(**constants))
  assert Normalise(**constants) != Normalise(**{**constants, 'std': 0.1})
  batch = {
    'image': jnp.zeros((2, 32, 32, 3), jnp.uint8),
    'label': jnp.arange(2),
  }
  traces = []

  @functools.partial(jax.jit, static_argnums=0)
  def prepare(augment, key, batch):
    traces.append(augment)
    return augment(key, batch)

  for dataset in (one, two):
    prepare(dataset.augment, jax.random.key(0), batch)
  assert len(traces) == 1


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
