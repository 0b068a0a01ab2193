"""Shifts, turns and zooms of a batch on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slimjax.data import digits
from slimjax.data.preprocess import Normalise
from slimjax.data.preprocess import random_affine


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
