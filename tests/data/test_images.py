"""ImageNet without ImageNet: files as TFDS writes them, and image folders.

What is decoded, cropped and augmented is compared with written-out formulas.
"""

import io
import json
import logging
import multiprocessing
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from places import ROOT
import pytest

from slimjax.data import create_dataset
from slimjax.data import images
from slimjax.data.batches import CorruptImagesError
from slimjax.data.batches import Share
from slimjax.data.jpeg import decode_centre_crop
from slimjax.data.jpeg import decode_random_crop
from slimjax.data.jpeg import DecodeError
from slimjax.data.jpeg import random_crop
from slimjax.data.preprocess import colour_augment
from slimjax.data.preprocess import colour_jitter
from slimjax.data.preprocess import lighting_noise

sys.path.insert(0, str(ROOT / 'experiments' / 'input_pipeline'))
TRAIN, VALIDATION, CLASSES = 37, 11, 5
ALONE = Share()
CORRUPT = ('train_000003.JPEG', 'train_000020.JPEG', 'validation_000002.JPEG')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Writes a small imagenet2012, with three images that end in the middle."""
  import synthetic

  folder = tmp_path_factory.mktemp('tfds')
  synthetic.write(
    folder,
    train=TRAIN,
    validation=VALIDATION,
    classes=CLASSES,
    corrupt=CORRUPT,
  )
  return folder


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


# From files to batches.


def _dataset(data_dir, **options):
  return create_dataset(
    {
      'name': 'imagenet2012',
      'data_dir': str(data_dir),
      'augmentation': 'mobile',
      'image_size': 32,
      'workers': 0,
      **options,
    }
  )


def _train(dataset, steps, *, seed=3, share=ALONE, batch_size=8):
  return list(
    dataset.train_batches(batch_size, seed=seed, steps=steps, share=share)
  )


def _same(batches, others):
  return len(batches) == len(others) and all(
    (one[name] == two[name]).all()
    for one, two in zip(batches, others, strict=True)
    for name in one
  )


def test_imagenet_is_read_without_tensorflow(data_dir):
  dataset = _dataset(data_dir)
  assert 'tensorflow' not in sys.modules
  assert (dataset.num_classes, dataset.image_size) == (1000, 32)
  assert len(dataset.class_names) == 1000
  sizes = {name: len(split) for name, split in dataset.splits.items()}
  assert sizes == {'train': TRAIN, 'test': VALIDATION}
  (batch,) = _train(dataset, range(1))
  assert batch['image'].shape == (8, 32, 32, 3)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].dtype == np.int32
  augmented = dataset.augment(jax.random.key(0), batch)
  assert augmented['label'] is batch['label']
  assert augmented['image'].dtype == jnp.float32
  assert abs(float(augmented['image'].mean())) < 3
  # Equal to that of another: it keys compiled programs.
  assert hash(dataset.augment) == hash(_dataset(data_dir).augment)
  assert dataset.preprocess == _dataset(data_dir).preprocess


def test_worker_processes_read_what_one_process_reads(data_dir, caplog):
  """Also from the middle, the share of one of several hosts, and Ctrl-C."""
  steps, share = range(2, 12), Share(1, 2)
  expected = _train(_dataset(data_dir), steps, share=share)
  batches = _dataset(data_dir, workers=2).train_batches(
    8, seed=3, steps=steps, share=share
  )
  found = [next(batches)]
  for process in multiprocessing.active_children():
    os.kill(process.pid, signal.SIGINT)  # as a terminal does to all
  found += list(batches)
  assert _same(found, expected)
  assert 'died' not in caplog.text


def test_a_worker_that_is_killed_is_replaced(data_dir, caplog):
  steps = range(2, 22)
  expected = _train(_dataset(data_dir), steps)
  batches = _dataset(data_dir, workers=1).train_batches(
    8, seed=3, steps=steps, share=ALONE
  )
  found = [next(batches)]
  for process in multiprocessing.active_children():
    process.kill()
  with caplog.at_level(logging.ERROR):
    found += list(batches)
  assert _same(found, expected)
  assert 'a worker process of the input pipeline died' in caplog.text


def test_corrupt_images_are_named_replaced_or_not_scored(data_dir, caplog):
  dataset = _dataset(data_dir)
  with caplog.at_level(logging.ERROR):
    batches = _train(dataset, range(20))  # four epochs
    # Each is named once in a pass.
    for name in CORRUPT[:2]:
      assert caplog.text.count(name) == 1
    scored = list(dataset.eval_batches('test', 4, share=ALONE))
  assert all(batch['image'].std() > 5 for batch in batches)
  assert CORRUPT[2] in caplog.text
  mask = np.concatenate([batch['mask'] for batch in scored])
  assert mask.sum() == VALIDATION - 1
  # Beyond the limit it is an error.
  with pytest.raises(CorruptImagesError, match='2 images .*max_corrupt = 1'):
    _train(_dataset(data_dir, max_corrupt=1), range(20))
  with pytest.raises(CorruptImagesError, match=CORRUPT[2]):
    list(_dataset(data_dir, max_corrupt=0).eval_batches('test', 4, share=ALONE))


def test_held_out_images_are_not_trained_on(data_dir):
  dataset = _dataset(data_dir, held_out=10)
  chosen = {n: set(s.chosen.tolist()) for n, s in dataset.splits.items()}
  assert len(chosen['held_out']) == 10
  assert not chosen['held_out'] & chosen['train']
  assert chosen['held_out'] | chosen['train'] == set(range(TRAIN))
  again = _dataset(data_dir, held_out=10).splits['held_out'].chosen
  assert set(again.tolist()) == chosen['held_out']
  other = _dataset(data_dir, held_out=10, held_out_seed=1).splits['held_out']
  assert set(other.chosen.tolist()) != chosen['held_out']
  batches = list(dataset.eval_batches('held_out', 4, share=ALONE))
  assert len(batches) == 3
  with pytest.raises(ValueError, match='held_out 37 must be less'):
    _dataset(data_dir, held_out=37)


# What is refused at the start.


def test_unprepared_and_unreadable_sets_say_what_to_do(data_dir, tmp_path):
  with pytest.raises(ValueError, match='is not prepared in') as error:
    _dataset(tmp_path / 'nothing')
  text = str(error.value)
  assert 'ILSVRC2012_img_train.tar' in text
  assert f'{tmp_path}/nothing/downloads/manual' in text
  assert "tfds.builder('imagenet2012/5.1.0'" in text
  assert "file_format='array_record').download_and_prepare()" in text
  assert not (tmp_path / 'nothing').exists()
  # Prepared as TFRecord: only the files of TFDS tell.
  folder = tmp_path / 'records' / 'imagenet2012' / '5.1.0'
  folder.mkdir(parents=True)
  for path in (data_dir / 'imagenet2012' / '5.1.0').glob('*.json'):
    text = path.read_text().replace('array_record', 'tfrecord')
    (folder / path.name).write_text(text)
  with pytest.raises(ValueError, match='is prepared as tfrecord') as error:
    _dataset(tmp_path / 'records')
  assert (
    f'tfds convert_format --dataset_dir={tmp_path}/records/imagenet2012'
    ' --out_file_format=array_record' in str(error.value)
  )
  with pytest.raises(ValueError, match='splits train, validation; .* minival'):
    _dataset(data_dir, test_split='minival')
  with pytest.raises(ValueError, match="one of 'basic', .* got 'heavy'"):
    _dataset(data_dir, augmentation='heavy')
  with pytest.raises(ValueError, match='image_size 300 must be'):
    _dataset(data_dir, image_size=300, resize=256)
  with pytest.raises(ValueError, match='config.data.crop is not read'):
    _dataset(data_dir, crop=1)


def _own_set(data_dir, folder, classes):
  """Makes the files a set of the user's own, which TFDS has no code of."""
  folder = folder / 'my_photos' / '5.1.0'
  folder.mkdir(parents=True)
  for path in (data_dir / 'imagenet2012' / '5.1.0').iterdir():
    name = path.name.replace('imagenet2012', 'my_photos')
    data = path.read_bytes()
    if path.suffix == '.json':
      data = data.replace(b'imagenet2012', b'my_photos')
      data = data.replace(f'"{CLASSES}"'.encode(), f'"{classes}"'.encode())
    (folder / name).write_bytes(data)
  return folder


def test_sets_of_ones_own_are_read_and_wrong_labels_refused(data_dir, tmp_path):
  _own_set(data_dir, tmp_path / 'good', CLASSES)
  dataset = _dataset(tmp_path / 'good', name='my_photos')
  assert dataset.num_classes == CLASSES
  assert _same(_train(dataset, range(3)), _train(_dataset(data_dir), range(3)))
  _own_set(data_dir, tmp_path / 'bad', 3)
  with pytest.raises(ValueError, match='label of .*JPEG is [34], .* 3 classes'):
    _dataset(tmp_path / 'bad', name='my_photos')


def test_a_set_without_a_test_split_sets_images_aside(data_dir, tmp_path):
  info = _own_set(data_dir, tmp_path, CLASSES) / 'dataset_info.json'
  record = json.loads(info.read_text())
  record['splits'] = [s for s in record['splits'] if s['name'] == 'train']
  info.write_text(json.dumps(record))
  dataset = _dataset(tmp_path, name='my_photos', test_share=0.3)
  train, test = (dataset.splits[name] for name in ('train', 'test'))
  assert len(train) + len(test) == TRAIN
  labels = train.source.labels()
  assert labels.tolist() == [train.source[i].label for i in range(TRAIN)]
  counts = np.bincount(labels, minlength=CLASSES)
  aside = np.bincount(labels[test.chosen], minlength=CLASSES)
  assert (aside == np.clip(np.round(0.3 * counts), 1, counts - 1)).all()
  (note,) = dataset.notes
  assert note.startswith(f'no test split: {len(test)} of {TRAIN} training')
  again = _dataset(tmp_path, name='my_photos', test_share=0.3).splits['test']
  assert again.fingerprint() == test.fingerprint()


def test_empty_splits_are_refused(data_dir, tmp_path):
  info = _own_set(data_dir, tmp_path, CLASSES) / 'dataset_info.json'
  record = json.loads(info.read_text())
  for split in record['splits']:
    split['shardLengths'] = ['0' for _ in split['shardLengths']]
  info.write_text(json.dumps(record))
  with pytest.raises(ValueError, match='the split train is empty'):
    _dataset(tmp_path, name='my_photos')


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
