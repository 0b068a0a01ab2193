"""ImageNet and sets like it: from files to batches, and what is refused."""

import json
import logging
import multiprocessing
import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from places import ROOT
import pytest

from slimjax.data import create_dataset
from slimjax.data.batches import CorruptImagesError
from slimjax.data.batches import Share

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
