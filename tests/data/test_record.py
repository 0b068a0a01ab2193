"""What a run knows of its data: written, read, compared."""

import dataclasses
import functools
import json
import os
import shutil

import numpy as np
from photos import encoded
from photos import open_folder
from photos import picture
from photos import write_folder
import pytest

from slimjax.data import digits
from slimjax.data.batches import ArraySplit
from slimjax.data.jpeg import CentreCrop
from slimjax.data.preprocess import Normalise
from slimjax.data.preprocess import normalise
from slimjax.data.record import differences
from slimjax.data.record import read_record
from slimjax.data.record import RECORD
from slimjax.data.record import record_of
from slimjax.data.record import SAMPLES
from slimjax.data.record import write_record


@pytest.fixture
def folder(tmp_path):
  return write_folder(
    tmp_path / 'photos',
    train={'ant': 6, 'bee': 5, 'cat': 4},
    val={'ant': 3, 'bee': 2, 'cat': 4},
  )


def _equal(one, other):
  """Returns whether two records say the same; arrays do not compare by ==."""
  return all(
    np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    for a, b in (
      (getattr(one, field.name), getattr(other, field.name))
      for field in dataclasses.fields(one)
    )
  )


@pytest.mark.parametrize('kind', ['photos', 'digits'])
def test_what_is_written_is_read(folder, tmp_path, kind):
  dataset = open_folder(folder) if kind == 'photos' else digits.create()
  record = record_of(dataset)
  write_record(tmp_path, record)
  again = read_record(tmp_path)
  assert _equal(again, record)
  assert differences(again, dataset) == []
  size = dataset.image_size
  assert again.samples.shape == (8, size, size, 3)
  assert again.samples.dtype == np.uint8
  # A picture that a user gives is seen as an evaluation sees it.
  if kind == 'photos':
    batch = dataset.splits['test'].read_eval(np.array([4]))
    file = (folder / 'val' / 'bee' / '001.jpg').read_bytes()
    assert (again.decode(file) == batch['image'][0]).all()
  else:
    shown = again.decode(encoded(picture(0, 0), 'PNG'))
    assert shown.shape == (32, 32, 3)
  images = again.preprocess(again.samples)
  np.testing.assert_array_equal(images, dataset.preprocess(again.samples))


def test_a_run_of_older_code_has_none_and_a_damaged_one_says_so(tmp_path):
  assert read_record(tmp_path) is None
  (tmp_path / RECORD).write_text('{"name": "digits"')
  with pytest.raises(
    ValueError, match=f'{RECORD} cannot be read .*remove {RECORD}'
  ):
    read_record(tmp_path)
  record = record_of(digits.create())
  write_record(tmp_path, record)
  os.truncate(tmp_path / SAMPLES, 99)
  with pytest.raises(ValueError, match=f'{SAMPLES} cannot be read'):
    read_record(tmp_path)
  write_record(tmp_path, dataclasses.replace(record, samples=None))
  assert read_record(tmp_path).samples is None
  assert not (tmp_path / SAMPLES).exists()


def test_only_what_can_be_found_again_is_named(tmp_path):
  dataset = digits.create()
  for function, kept in (
    (Normalise(0.5, (0.1, 0.2, 0.3)), True),
    (normalise, True),
    (lambda images: images, False),
    (functools.partial(normalise, mean=0.0, std=1.0), False),
    (Normalise(np.float32(0.5), 0.2), False),  # nothing that JSON has
  ):
    record = record_of(dataclasses.replace(dataset, preprocess=function))
    write_record(tmp_path, record)
    assert read_record(tmp_path).preprocess == (function if kept else None)
  # A name that is gone is an error that says which.
  text = json.loads((tmp_path / RECORD).read_text())
  text['decode']['name'] = 'slimjax.data.jpeg:CenterCrop'
  (tmp_path / RECORD).write_text(json.dumps(text))
  with pytest.raises(ValueError, match=r'decode .*is it CentreCrop\?'):
    read_record(tmp_path)


def test_a_moved_folder_is_the_same(folder, tmp_path):
  record = record_of(open_folder(folder))
  moved = shutil.move(folder, tmp_path / 'elsewhere')
  assert differences(record, open_folder(moved)) == []


def test_differences_are_named(folder):
  record = record_of(open_folder(folder))
  changed = open_folder(folder, image_size=8)
  assert [line.partition(':')[0] for line in differences(record, changed)] == [
    'image size',
    'preprocessing',
    'decode',
  ]
  crops = dataclasses.replace(open_folder(folder), decode=CentreCrop(16, 99))
  (line,) = differences(record, crops)
  assert line.startswith('decode: {"name": "slimjax.data.jpeg:CentreCrop"')
  # An image is deleted, another takes the place of one.
  (folder / 'val' / 'bee' / '001.jpg').unlink()
  (folder / 'train' / 'cat' / '003.jpg').rename(folder / 'train/cat/x.jpg')
  assert differences(record, open_folder(folder)) == [
    'examples of train: as many as before, 15, but others (names, labels or'
    ' pixels differ)',
    'examples of test: 9 before, 8 now',
  ]
  assert differences(record, open_folder(folder), splits=[]) == []
  held_out = open_folder(folder, held_out=2)
  assert differences(record, held_out, splits=['held_out']) == [
    'the split held_out is new'
  ]


def test_a_class_that_is_added_or_renamed_is_named(folder):
  record = record_of(open_folder(folder))
  write_folder(folder / 'more', train={'bat': 2}, val={'bat': 1})
  for split in ('train', 'val'):
    shutil.move(folder / 'more' / split / 'bat', folder / split / 'bat')
  shutil.rmtree(folder / 'more')
  added, *rest = differences(record, open_folder(folder))
  assert added == 'classes added: bat (3 classes before, 4 now)'
  assert [line.partition(':')[0] for line in rest] == [
    'examples of train',
    'examples of test',
  ]
  for split in ('train', 'val'):
    shutil.rmtree(folder / split / 'bat')
    (folder / split / 'bee').rename(folder / split / 'cow')
  assert differences(record, open_folder(folder))[:2] == [
    'classes added: cow (3 classes before, 3 now)',
    'classes missing: bee (3 classes before, 3 now)',
  ]


def test_arrays_are_known_by_their_values():
  dataset = digits.create()
  record = record_of(dataset)
  arrays = {k: v.copy() for k, v in dataset.splits['test'].arrays.items()}
  arrays['label'][7] += 1
  splits = {**dataset.splits, 'test': ArraySplit(arrays)}
  (line,) = differences(record, dataclasses.replace(dataset, splits=splits))
  assert line.startswith('examples of test: as many as before, 360')
