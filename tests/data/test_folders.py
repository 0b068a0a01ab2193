"""What is a class, what is an image, and what is said of the rest."""

import os
import shutil
import unicodedata

import numpy as np
from photos import encoded
from photos import open_folder
from photos import picture
from photos import write_folder
import pytest

from slimjax.data import folders
from slimjax.data.batches import Share
from slimjax.data.folders import list_classes
from slimjax.data.holding_out import stratified

ALONE = Share()


@pytest.fixture
def folder(tmp_path):
  return write_folder(
    tmp_path / 'photos',
    train={'ant': 4, 'bee': 3, 'cat': 3},
    val={'ant': 2, 'bee': 2, 'cat': 1},
  )


def _sizes(dataset):
  return {name: len(split) for name, split in dataset.splits.items()}


def test_what_systems_and_tools_leave_is_neither_class_nor_image(folder):
  clean = open_folder(folder)
  for hidden in ('.ipynb_checkpoints', '__MACOSX', '@eaDir', '.Trash'):
    for place in (folder, folder / 'train', folder / 'val', folder / 'val/ant'):
      (place / hidden).mkdir()
      shutil.copy(folder / 'train/ant/000.jpg', place / hidden / 'x.jpg')
  for name in ('.DS_Store', 'Thumbs.db', '._000.jpg'):
    (folder / 'train' / 'ant' / name).write_bytes(b'\0\1')
  dataset = open_folder(folder)
  assert dataset.class_names == clean.class_names == ('ant', 'bee', 'cat')
  assert _sizes(dataset) == {'train': 10, 'test': 5}
  for split in ('train', 'test'):
    names = dataset.splits[split].source.names()
    assert not any(b'/.' in name or b'_' in name for name in names)
  assert dataset.notes == (
    'train: 7 entries left out: beside the classes: 4 hidden; ant: 3 hidden',
    'val: 8 entries left out: beside the classes: 4 hidden; ant: 4 hidden',
  )
  assert clean.notes == ()


def test_images_are_found_by_trying_and_at_any_depth(folder):
  deep = folder / 'train' / 'bee' / 'images' / '2024'
  deep.mkdir(parents=True)
  photo = picture(1, 7)
  for number, (name, kind) in enumerate(
    {
      'a.tif': 'TIFF',
      'b.jfif': 'JPEG',
      'c.gif': 'GIF',
      'd.PNG': 'PNG',
      'no_suffix': 'JPEG',
      'e.ppm': 'PPM',
      'f.jpg_original': 'JPEG',
      'g.ico': 'ICO',
    }.items()
  ):
    place = deep if number % 2 else deep.parent
    (place / name).write_bytes(encoded(photo, kind))
  # Left out, with what they are.
  (deep / 'notes.txt').write_text('words')
  (deep / 'page').write_text('<html>gone</html>')
  (deep / 'photo.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0')
  dataset = open_folder(folder)
  assert _sizes(dataset)['train'] == 18
  (note,) = dataset.notes
  assert note == 'train: 3 entries left out: bee: 1 HEIC, 1 HTML, 1 text'
  (batch,) = list(
    dataset.train_batches(18, seed=0, steps=range(1), share=ALONE)
  )
  assert np.bincount(batch['label']).tolist() == [4, 11, 3]


def test_a_million_photos_are_not_opened(folder, monkeypatch):
  """Only a suffix that says nothing makes a file be looked into."""
  opened = []

  def is_picture(file):
    opened.append(file.name)
    return False

  monkeypatch.setattr(folders.pictures, 'is_picture', is_picture)
  unknown = folder / 'train' / 'ant' / 'x.unknown'
  unknown.write_bytes(b'\1\2')
  list_classes(folder / 'train')
  assert opened == [str(unknown)]


class _Cloud:
  """A local folder under a name of cloud storage, which only lists."""

  def __init__(self, path):
    self._path = path

  def __str__(self):
    return f'gs://bucket{self._path}'

  __fspath__ = __str__

  def __truediv__(self, name):
    return _Cloud(self._path / name)

  def walk(self):
    return os.walk(self._path)

  def open(self, mode):
    return self._path.open(mode)


def test_cloud_storage_is_listed_alike(folder):
  (folder / 'train' / 'ant' / '.hidden').mkdir()
  (folder / 'train' / 'ant' / 'inner').mkdir()
  shutil.copy(folder / 'train/ant/000.jpg', folder / 'train/ant/inner/x')
  (folder / 'train' / 'bee' / 'notes.txt').write_text('words')
  there = list_classes(_Cloud(folder / 'train'))
  assert there == list_classes(folder / 'train')
  assert b'ant/inner/x' in there.images['ant']


def test_odd_entries_are_counted_and_never_crash(folder, caplog):
  place = folder / 'train' / 'ant'
  (place / 'gone.jpg').symlink_to(folder / 'nowhere.jpg')
  (place / 'loop').symlink_to(folder / 'train' / 'ant')
  (place / 'inner.jpg').mkdir()  # a folder that is named as an image is
  shutil.copy(place / '000.jpg', place / 'inner.jpg' / 'y.jpg')
  bad = os.fsencode(place) + b'/caf\xe9.jpg'
  with open(bad, 'wb') as file:
    file.write(b'<html></html>')
  dataset = open_folder(folder)
  assert _sizes(dataset)['train'] == 12
  assert dataset.notes == (
    'train: 2 entries left out: ant: 1 links that lead nowhere, 1 links to a'
    ' folder above',
    'train: links that lead nowhere: ant/gone.jpg',
  )
  # The damaged one is named in the log with its reason, though it has no name
  # that is text; so is one that is deleted meanwhile.
  (folder / 'train' / 'cat' / '001.jpg').unlink()
  list(dataset.train_batches(12, seed=0, steps=range(1), share=ALONE))
  assert r'ant/caf\xe9.jpg (is HTML) cannot be decoded' in caplog.text
  assert 'cat/001.jpg (No such file or directory) cannot' in caplog.text


def test_names_that_look_alike(folder):
  composed, apart = (unicodedata.normalize(f, 'café') for f in ('NFC', 'NFD'))
  assert composed != apart
  (folder / 'train' / 'ant').rename(folder / 'train' / composed)
  (folder / 'val' / 'ant').rename(folder / 'val' / apart)
  dataset = open_folder(folder)
  assert dataset.class_names == ('bee', composed, 'cat')
  label = dataset.class_names.index(composed)
  (batch,) = dataset.eval_batches('test', 5, share=ALONE)
  assert (batch['label'] == label).sum() == 2
  assert batch['mask'].all()
  (folder / 'train' / apart).mkdir()
  says = r"look alike: 'caf\\xe9' and 'cafe\\u0301'|look alike: 'cafe\\u0301'"
  with pytest.raises(ValueError, match=says):
    open_folder(folder)


def test_classes_without_images_without_names_and_alone(folder):
  (folder / 'train' / 'dog').mkdir()
  (folder / 'train' / 'dog' / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic')
  with pytest.raises(ValueError, match=r'class dog has no .*out: 1 HEIC\)'):
    open_folder(folder)
  shutil.rmtree(folder / 'train' / 'dog')
  os.mkdir(os.fsencode(folder / 'train') + b'/caf\xe9')
  with pytest.raises(ValueError, match=r"class folder b'caf\\xe9' in .*UTF-8"):
    open_folder(folder)
  os.rmdir(os.fsencode(folder / 'train') + b'/caf\xe9')
  shutil.rmtree(folder / 'val' / 'bee')
  (folder / 'test').mkdir()
  assert open_folder(folder).notes == (
    'val: no images of bee',
    f'not read: the folders test in {folder}',
  )
  for name in ('bee', 'cat'):
    shutil.rmtree(folder / 'train' / name)
  with pytest.raises(ValueError, match='a single class, ant: there is nothing'):
    open_folder(folder)
  with pytest.raises(ValueError, match='holds no folders; one for each'):
    open_folder(folder / 'train' / 'ant')
  shutil.rmtree(folder / 'train' / 'ant')
  with pytest.raises(ValueError, match='has no images; .*CLASS'):
    open_folder(folder)


# Where no folder is there to test on.


def test_images_are_set_aside_where_there_is_no_test_split(folder):
  shutil.rmtree(folder / 'val')
  for number in range(4, 24):
    image = encoded(picture(0, number))
    (folder / 'train' / 'ant' / f'{number:03}.jpg').write_bytes(image)
  dataset = open_folder(folder)
  assert _sizes(dataset) == {'train': 23, 'test': 7}
  assert dataset.notes == (
    'no test split: 7 of 30 training images are set aside, 20 % of every class'
    ' (config.data.test_share, drawn by held_out_seed = 0)',
  )
  (batch,) = dataset.eval_batches('test', 7, share=ALONE)
  assert np.bincount(batch['label']).tolist() == [5, 1, 1]
  train, test = (set(dataset.splits[n].chosen) for n in ('train', 'test'))
  assert not train & test
  assert train | test == set(range(30))
  # The same folder without `train`: its folders are the classes.
  flat = open_folder(folder / 'train')
  assert flat.class_names == dataset.class_names
  for name, split in flat.splits.items():
    assert split.fingerprint() == dataset.splits[name].fingerprint()
  held = open_folder(folder, held_out=4)
  assert _sizes(held) == {'train': 19, 'test': 7, 'held_out': 4}
  assert held.splits['test'].fingerprint() == flat.splits['test'].fingerprint()
  assert not set(held.splits['held_out'].chosen) & test
  with pytest.raises(
    ValueError, match='test_share must be .* above 0 to below 1'
  ):
    open_folder(folder, test_share=1.0)


def test_set_aside_is_a_share_of_each_class_and_stays():
  labels = np.repeat([0, 1, 2, 3], [100, 50, 3, 1])
  names = [b'%d/%d' % (label, i) for i, label in enumerate(labels)]
  rest, aside = stratified(labels, names, 0.2, seed=0)
  assert np.bincount(labels[aside], minlength=4).tolist() == [20, 10, 1, 0]
  assert sorted([*rest, *aside]) == list(range(154))
  other = stratified(labels, names, 0.2, seed=1)[1]
  assert set(other) != set(aside)
  # More images: those that were set aside still are.
  more = [b'0/new%d' % i for i in range(20)]
  _, later = stratified(
    np.concatenate([labels, np.zeros(20, int)]), names + more, 0.2, seed=0
  )
  kept = {[*names, *more][i] for i in later}
  assert len({names[i] for i in aside} - kept) <= 4
