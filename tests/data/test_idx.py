"""IDX files: read exactly, or refused with the reason; and what they become."""

import gzip

from idx_sets import arrays
from idx_sets import idx
from idx_sets import SIZE
from idx_sets import TEST
from idx_sets import TRAIN
from idx_sets import write_set
import jax
import numpy as np
from photos import encoded
from PIL import Image
import pytest

from slimjax.configs import fashion
from slimjax.data import create_dataset
from slimjax.data.preprocess import affine_augment
from slimjax.data.preprocess import normalise
from slimjax.data.preprocess import random_affine
from slimjax.data.record import read_record
from slimjax.data.record import record_of
from slimjax.data.record import write_record
from slimjax.runtime.decoding import describe_decode
from slimjax.runtime.decoding import make_decode


@pytest.fixture
def folder(tmp_path):
  return write_set(tmp_path / 'set')


def open_idx(folder, **options):
  return create_dataset({'name': 'idx', 'data_dir': str(folder), **options})


def test_pixels_and_labels_are_those_of_the_files(folder):
  dataset = open_idx(folder)
  content = arrays()
  batch = dataset.splits['train'].read_eval(np.arange(TRAIN))
  assert batch['image'].dtype == np.uint8
  assert batch['label'].dtype == np.int32
  for channel in range(3):
    np.testing.assert_array_equal(
      batch['image'][..., channel], content['train-images-idx3']
    )
  np.testing.assert_array_equal(batch['label'], content['train-labels-idx1'])
  tested = dataset.splits['test'].read_eval(np.array([5, 2]))
  np.testing.assert_array_equal(
    tested['image'][..., 1], content['t10k-images-idx3'][[5, 2]]
  )
  assert tested['label'].tolist() == [2, 2]
  assert (dataset.image_size, dataset.class_names) == (SIZE, ('0', '1', '2'))
  pixels = content['train-images-idx3'] / 255
  expected = (pixels - round(pixels.mean(), 3)) / round(pixels.std(), 3)
  images = dataset.preprocess(batch['image'])
  np.testing.assert_allclose(images[..., 0], expected, atol=1e-5)


def test_other_names_of_the_same_files_are_the_same_data(folder):
  before = open_idx(folder).splits['train'].fingerprint()
  for path in list(folder.iterdir()):  # unpacked, as some tools name them
    name = path.name.removesuffix('.gz').replace('-idx', '.idx')
    name = name.replace('t10k', 'test')
    (folder / f'emnist-{name}').write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
  again = open_idx(folder, prefix='emnist-').splits['train']
  assert again.fingerprint() == before
  with pytest.raises(FileNotFoundError, match='has no train-images-idx3-ubyte'):
    open_idx(folder)
  images = folder / 'emnist-train-images.idx3-ubyte'
  content = bytearray(images.read_bytes())
  content[-1] ^= 1
  images.write_bytes(content)
  changed = open_idx(folder, prefix='emnist-').splits['train']
  assert changed.fingerprint() != before


WHOLE = idx(arrays()['train-images-idx3'])
PACKED = gzip.compress(WHOLE, 1)


@pytest.mark.parametrize(
  'content, reason',
  [
    (b'', "is no IDX file: it begins with b''"),
    (b'<!DOCTYPE html>', 'is no IDX file: it begins with .*<!DO.*, not with'),
    (WHOLE[:9], 'ends within its first 16 bytes'),
    (WHOLE[:-1], 'is cut off: 60 x 8 x 8 are 3,840 bytes, but 3,839 follow'),
    (WHOLE + b'\0', 'has something at its end'),
    (bytes((0, 0, 13, 3)) + WHOLE[4:], 'holds float32 of 3 dimensions'),
    (
      idx(np.zeros((3, 4))),
      'holds unsigned bytes of 2 dimensions; unsigned bytes',
    ),
    (PACKED[:-9], 'is a damaged gzip file'),
    (PACKED[:-8] + bytes(8), 'is a damaged gzip file .CRC'),
    (idx(np.zeros((59, 8, 8))), 'holds 59 images, but .* 60 labels'),
    (idx(np.zeros((60, 0, 8))), r'holds no pixels: \[60, 0, 8\]'),
  ],
)
def test_a_file_that_cannot_be_used_says_why(folder, content, reason):
  path = folder / 'train-images-idx3-ubyte.gz'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'{path} {reason}'):
    open_idx(folder)


def test_labels_and_splits_that_do_not_fit_are_refused(folder):
  with pytest.raises(ValueError, match='training images is 2, but there are 2'):
    open_idx(folder, class_names=('a', 'b'))
  labels = folder / 't10k-labels-idx1-ubyte.gz'
  labels.write_bytes(idx(np.arange(TEST) % 5))
  with pytest.raises(ValueError, match='test images is 4, but there are 3'):
    open_idx(folder)
  open_idx(folder, class_names='abcde')
  (folder / 't10k-images-idx3-ubyte.gz').write_bytes(
    idx(np.zeros((TEST, 8, 9)))
  )
  with pytest.raises(ValueError, match='8 x 8 pixels, the test images 8 x 9'):
    open_idx(folder, class_names='abcde')


@pytest.mark.parametrize(
  'options, reason',
  [
    ({'fit': 'crop'}, "fit must be .*'pad'.* 'resize', got 'crop'"),
    ({'image_size': 7}, "is less than the 8 x 8 .* fit='resize' makes them"),
    ({'held_out': 60}, 'held_out must be between 1 and 59, got 60'),
    (
      {'held_out': 20, 'train_images': 41},
      'train_images must be between 1 and 40, got 41',
    ),
    ({'test_split': 'held_out'}, "'held_out' with held_out above 0"),
    ({'data_dir': '/nowhere'}, '/nowhere is not a folder'),
  ],
)
def test_arguments_that_do_not_fit_are_refused(folder, options, reason):
  with pytest.raises(ValueError, match=reason):
    open_idx(folder, **options)


def test_images_set_aside_are_of_all_classes_and_no_others(folder):
  def images(split):
    return {image.tobytes() for image in split.examples.arrays['image']}

  def counts(split):
    return np.bincount(split.examples.arrays['label']).tolist()

  splits = open_idx(folder, held_out=12).splits
  assert counts(splits['held_out']) == [6, 4, 2]
  assert counts(splits['train']) == [24, 16, 8]
  assert len(images(splits['train']) | images(splits['held_out'])) == TRAIN
  fewer = open_idx(
    folder, held_out=12, train_images=24, test_split='held_out'
  ).splits
  assert counts(fewer['train']) == [12, 8, 4]
  assert images(fewer['train']) < images(splits['train'])
  assert fewer['held_out'].fingerprint() == splits['held_out'].fingerprint()
  assert fewer['test'] is fewer['held_out']
  other = open_idx(folder, held_out=12, split_seed=1).splits
  assert images(other['held_out']) != images(splits['held_out'])
  # The test files need not be there to choose a recipe.
  (folder / 't10k-images-idx3-ubyte.gz').unlink()
  open_idx(folder, held_out=12, test_split='held_out')


@pytest.mark.parametrize(
  'options', [{}, {'image_size': 11}, {'image_size': 12, 'fit': 'resize'}]
)
def test_a_picture_is_seen_as_the_images_of_the_set(folder, tmp_path, options):
  dataset = open_idx(folder, **options)
  shown = dataset.splits['test'].read_eval(np.array([3]))['image'][0]
  size = options.get('image_size', SIZE)
  assert shown.shape == (size, size, 3)
  image = arrays()['t10k-images-idx3'][3].astype(np.uint8)
  if options.get('fit') != 'resize':
    before = (size - SIZE) // 2
    inside = shown[before : before + SIZE, before : before + SIZE, 0]
    np.testing.assert_array_equal(inside, image)
    assert shown.sum() == 3 * image.sum()  # the frame is black
  write_record(tmp_path, record_of(dataset))
  decode = read_record(tmp_path).decode
  picture = encoded(Image.fromarray(image), 'PNG')
  np.testing.assert_array_equal(decode(picture), shown)
  # A bundle keeps the rule in words.
  assert make_decode(describe_decode(decode)) == decode
  colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  seen = decode(encoded(Image.fromarray(colour), 'PNG'))
  assert seen.shape == (size, size, 3)
  assert (seen == seen[..., :1]).all()


def test_oblong_images_are_left_oblong(tmp_path):
  for name, array in arrays(size=(6, 9)).items():
    (tmp_path / f'{name}-ubyte').write_bytes(idx(array))
  assert open_idx(tmp_path).image_size == (6, 9)
  assert open_idx(tmp_path, image_size=9).image_size == 9


def test_flips_come_after_shifts_and_mirror_half_of_the_images():
  images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)
  constants = {'mean': 0.4, 'std': 0.3}
  amounts = {'max_shift': 1.5, 'max_degrees': 5.0, 'max_zoom': 0.1}
  key = jax.random.key(0)
  found = np.asarray(
    affine_augment(key, images, flip=True, **constants, **amounts)
  )
  moved = np.asarray(
    random_affine(
      key,
      normalise(images, **constants),
      fill=normalise(0.0, **constants),
      **amounts,
    )
  )
  same = np.isclose(found, moved).all((1, 2, 3))
  mirrored = np.isclose(found, moved[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert 10 < mirrored.sum() < 30


def test_the_package_is_found_or_the_command_that_installs_it(
  folder, monkeypatch, tmp_path
):
  config = fashion.get_config()
  config.data.package = 'no-such-set'
  config.data.held_out = 12
  with pytest.raises(ValueError, match=r'sudo apt-get install dataset-no-such'):
    create_dataset(config.data)
  share = tmp_path / 'share'
  (share / 'datasets').mkdir(parents=True)
  folder.rename(share / 'datasets' / 'no-such-set')
  monkeypatch.setenv('XDG_DATA_DIRS', f'/nowhere:{share}')
  dataset = create_dataset(config.data)
  assert len(dataset.splits['train']) == TRAIN - 12
  assert dataset.num_classes == config.model.num_classes == 10
  with pytest.raises(ValueError, match='idx needs --config.data.data_dir'):
    create_dataset({'name': 'idx'})
