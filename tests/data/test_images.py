"""Images: crops, colours, folders of them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from slimjax.data import create_dataset
from slimjax.data import images
from slimjax.data.batches import Share
from slimjax.data.jpeg import decode_centre_crop
from slimjax.data.jpeg import decode_random_crop
from slimjax.data.jpeg import DecodeError
from slimjax.data.jpeg import random_crop
from slimjax.data.preprocess import colour_augment
from slimjax.data.preprocess import colour_jitter
from slimjax.data.preprocess import lighting_noise

ALONE = Share()


def _jpeg(array, **options):
  encoded = io.BytesIO()
  Image.fromarray(array).save(encoded, 'JPEG', quality=95, **options)
  return encoded.getvalue()


def _photo(height=90, width=120, seed=0):
  """Returns a smooth image, which JPEG keeps."""
  small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
  image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
  return np.asarray(image)


# Crops.


@pytest.mark.parametrize('least_area', [0.08, 0.25])
def test_random_crops_have_the_published_distribution(least_area):
  """Area uniform, log of the ratio uniform, place uniform, all inside."""
  rng = np.random.default_rng(0)
  height, width = 1000, 1000
  crops = np.array(
    [random_crop(rng, height, width, least_area) for _ in range(8000)]
  )
  top, left, part_height, part_width = crops.T
  assert (crops >= 0).all()
  assert (top + part_height <= height).all()
  assert (left + part_width <= width).all()
  area = part_height * part_width / (height * width)
  ratio = np.log(part_width / part_height)
  # Small crops always fit; those are uniform in area from the least.
  small = area < 0.7
  quarters = np.quantile(area[small], [0.25, 0.5, 0.75])
  expected = least_area + (0.7 - least_area) * np.array([0.25, 0.5, 0.75])
  np.testing.assert_allclose(quarters, expected, atol=0.02)
  assert abs(ratio).max() <= np.log(4 / 3) + 0.01
  quarters = np.quantile(ratio[small], [0.25, 0.5, 0.75]) / np.log(4 / 3)
  np.testing.assert_allclose(quarters, [-0.5, 0.0, 0.5], atol=0.06)
  room = height - part_height[small]
  np.testing.assert_allclose(
    np.quantile((top[small] + 0.5) / (room + 1), [0.25, 0.5, 0.75]),
    [0.25, 0.5, 0.75],
    atol=0.03,
  )


def test_a_crop_of_a_strip_is_its_centre():
  rng = np.random.default_rng(0)
  # No allowed ratio fits a share of 0.9 of a strip.
  assert random_crop(rng, 10, 1000, 0.9) == (0, 493, 10, 13)
  assert random_crop(rng, 1000, 10, 0.9) == (493, 0, 13, 10)


def test_random_crops_are_the_part_they_say(monkeypatch):
  """Ramps tell where a pixel came from, also after scaled decoding."""
  rows, columns = np.mgrid[:480, :640]
  ramp = np.stack([rows / 2, columns / 3, 0 * rows], axis=-1).astype(np.uint8)
  encoded = _jpeg(ramp, subsampling=0)
  for size in (32, 100, 224, 300):  # decoded at 1/8, 1/4 or 1/2 or whole
    for seed in range(4):
      top, left, part_height, part_width = random_crop(
        np.random.default_rng(seed), 480, 640, 0.25
      )
      crop = decode_random_crop(
        encoded, np.random.default_rng(seed), size, 0.25
      )
      assert crop.shape == (size, size, 3)
      assert crop.dtype == np.uint8
      at = (np.arange(size) + 0.5) / size
      # Scaled decoding starts at a whole pixel of the small image: 8 of these.
      np.testing.assert_allclose(
        crop[:, size // 2, 0], (top + at * part_height) / 2, atol=4.5
      )
      np.testing.assert_allclose(
        crop[size // 2, :, 1], (left + at * part_width) / 3, atol=3.5
      )


@pytest.mark.parametrize(
  'height, width, size, resize',
  [
    (375, 500, 224, 256),
    (500, 333, 224, 256),
    (60, 60, 32, 37),
    (32, 32, 32, 32),
  ],
)
def test_central_crops_are_those_of_torchvision(height, width, size, resize):
  """Pixel by pixel: Resize(resize), CenterCrop(size) of a PIL image."""
  encoded = _jpeg(_photo(height, width))
  image = Image.open(io.BytesIO(encoded)).convert('RGB')
  short = min(height, width)
  if short != resize:
    image = image.resize(
      (
        resize if width == short else int(resize * width / height),
        resize if height == short else int(resize * height / width),
      ),
      Image.Resampling.BILINEAR,
    )
  left = round((image.width - size) / 2)
  top = round((image.height - size) / 2)
  expected = np.asarray(image)[top : top + size, left : left + size]
  found = decode_centre_crop(encoded, size, resize)
  assert (found == expected).all()


def test_png_grey_and_cmyk_are_read_and_corrupt_images_are_not():
  photo = _photo()
  png = io.BytesIO()
  Image.fromarray(photo).save(png, 'PNG')
  assert (
    decode_centre_crop(png.getvalue(), 90, 90)[:, 0] == photo[:, 15]
  ).all()
  for mode in ('L', 'CMYK'):
    encoded = io.BytesIO()
    Image.fromarray(photo).convert(mode).save(encoded, 'JPEG')
    for crop in (
      decode_centre_crop(encoded.getvalue(), 32, 36),
      decode_random_crop(
        encoded.getvalue(), np.random.default_rng(0), 32, 0.25
      ),
    ):
      assert crop.shape == (32, 32, 3)
      assert crop.std() > 10
  whole = _jpeg(photo)
  for bad in (whole[: len(whole) // 2], whole[:50], b'', b'no image at all'):
    with pytest.raises(DecodeError):
      decode_centre_crop(bad, 32, 36)
    with pytest.raises(DecodeError):
      decode_random_crop(bad, np.random.default_rng(0), 32, 0.25)


# Colours, on the device.


def _blend(image, other, factor):
  return np.clip(factor * image + (1 - factor) * other, 0, 1)


def test_colour_jitter_is_one_of_six_orders_of_three_formulas():
  image = np.random.default_rng(0).uniform(0, 1, (5, 4, 3))
  grey_of = lambda x: x @ np.array([0.299, 0.587, 0.114])
  operations = {
    'brightness': lambda x, f: _blend(x, 0.0, f),
    'contrast': lambda x, f: _blend(x, grey_of(x).mean(), f),
    'saturation': lambda x, f: _blend(x, grey_of(x)[..., None], f),
  }
  names = list(operations)
  orders = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)
            if {a, b, c} == {0, 1, 2}]  # fmt: skip
  seen, factors = [], []
  jitter = jax.jit(lambda key: colour_jitter(key, jnp.asarray(image), 0.4))
  for seed in range(60):
    key = jax.random.key(seed)
    found = np.asarray(jitter(key))
    drawn = np.asarray(
      jax.random.uniform(jax.random.split(key)[1], (3,), minval=0.6, maxval=1.4)
    )
    matches = []
    for order in orders:
      expected = image
      for i in order:
        expected = operations[names[i]](expected, drawn[i])
      if np.abs(expected - found).max() < 1e-5:
        matches.append(order)
    assert matches, seed
    seen += matches[:1]
    factors.append(drawn)
  assert set(seen) == set(orders)
  assert np.min(factors) < 0.65
  assert np.max(factors) > 1.35


def test_lighting_noise_has_the_published_covariance():
  """It is that of 0.1 times the principal components of ImageNet's pixels."""
  components = np.array(
    [
      [-0.5675, 0.7192, 0.4009],
      [-0.5808, -0.0045, -0.8140],
      [-0.5836, -0.6948, 0.4203],
    ]
  )
  deviations = np.diag([0.2175, 0.0188, 0.0045])
  expected = 0.01 * components @ deviations**2 @ components.T
  grey = jnp.full((2, 2, 3), 0.5)
  keys = jax.random.split(jax.random.key(0), 20000)
  noisy = jax.jit(jax.vmap(lambda key: lighting_noise(key, grey, 0.1)))(keys)
  noise = np.asarray(noisy) - 0.5
  assert (noise == noise[:, :1, :1]).all()  # one colour an image
  covariance = np.cov(noise[:, 0, 0].T)
  np.testing.assert_allclose(covariance, expected, atol=2e-5)
  np.testing.assert_allclose(noise.mean(axis=(0, 1, 2)), 0, atol=5e-4)


def test_augmentation_flips_half_and_depends_on_key_and_place_alone():
  image = np.random.default_rng(0).integers(60, 190, (6, 6, 3), np.uint8)
  batch = jnp.asarray(np.stack([image] * 512))
  plain = {'mean': 0.0, 'std': 1.0, 'jitter': 0.0, 'lighting': 0.0}
  augment = jax.jit(lambda key, x: colour_augment(key, x, **plain))
  out = np.asarray(augment(jax.random.key(0), batch))
  straight = np.abs(out - image / 255).max(axis=(1, 2, 3)) < 1e-6
  flipped = np.abs(out - image[:, ::-1] / 255).max(axis=(1, 2, 3)) < 1e-6
  assert (straight ^ flipped).all()
  assert 200 < flipped.sum() < 312  # five deviations
  # Normalised, and each example its own.
  full = jax.jit(
    lambda key, x: colour_augment(key, x, mean=(0.5, 0.4, 0.3), std=(0.2,) * 3)
  )
  out = np.asarray(full(jax.random.key(0), batch[:8]))
  assert len({image.tobytes() for image in out}) == 8
  assert (out == np.asarray(full(jax.random.key(0), batch[:8]))).all()
  again = np.asarray(full(jax.random.key(0), batch[:4]))
  np.testing.assert_allclose(again, out[:4], atol=1e-6)
  assert (
    np.abs(np.asarray(full(jax.random.key(1), batch[:8])) - out).max() > 0.1
  )


def test_recipes_are_those_of_the_paper():
  """Appendix A: crops from 0.08 or 0.25; ImageNet's constants, or one half."""
  recipes = images.AUGMENTATIONS
  assert {name: r.least_area for name, r in recipes.items()} == {
    'basic': 0.08,
    'mobile': 0.25,
    'inception': 0.08,
  }
  for name in ('basic', 'mobile'):
    assert recipes[name].mean == (0.485, 0.456, 0.406)
    assert recipes[name].std == (0.229, 0.224, 0.225)
  assert recipes['inception'].mean == recipes['inception'].std == (0.5,) * 3


# Folders.


@pytest.fixture
def folder(tmp_path):
  for split, count in (('train', 3), ('val', 2)):
    for number, name in enumerate(('ant', 'bee', 'cat')):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(count):
        encoded = _jpeg(_photo(seed=10 * number + i))
        (tmp_path / split / name / f'{i}.JPG').write_bytes(encoded)
      (tmp_path / split / name / 'notes.txt').write_text('no image')
  return tmp_path


def _folder(path, **options):
  return create_dataset(
    {
      'name': 'image_folder',
      'data_dir': str(path),
      'image_size': 32,
      'workers': 0,
      **options,
    }
  )


def test_an_image_folder_is_a_data_set(folder):
  dataset = _folder(folder)
  assert dataset.class_names == ('ant', 'bee', 'cat')
  sizes = {name: len(split) for name, split in dataset.splits.items()}
  assert sizes == {'train': 9, 'test': 6}
  (batch,) = dataset.eval_batches('test', 6, share=ALONE)
  assert batch['label'].tolist() == [0, 0, 1, 1, 2, 2]
  expected = decode_centre_crop(_jpeg(_photo(seed=11)), 32, 37)
  assert (batch['image'][3] == expected).all()
  with_workers = _folder(folder, workers=1).eval_batches('test', 2, share=ALONE)
  images_ = np.concatenate([b['image'] for b in with_workers])
  assert (images_ == batch['image']).all()


def test_folders_that_can_not_be_used_are_refused(folder):
  with pytest.raises(ValueError, match='needs --config.data.data_dir'):
    create_dataset({'name': 'image_folder'})
  with pytest.raises(ValueError, match='is not a folder'):
    _folder(folder / 'nothing')
  with pytest.raises(ValueError, match='has the splits train, val; train and'):
    _folder(folder, test_split='minival')
  (folder / 'val' / 'dog').mkdir()
  with pytest.raises(ValueError, match='classes that .*train lacks: dog'):
    _folder(folder)
  (folder / 'val' / 'dog').rmdir()
  for path in folder.glob('val/*/*.JPG'):
    path.unlink()
  with pytest.raises(ValueError, match='val has no images'):
    _folder(folder)
