"""Files are written whole or not at all, and leave no draft."""

import json
import os
import pathlib

from etils import epath
import pytest

from slimjax import files


@pytest.mark.parametrize('kind', [str, pathlib.Path, epath.Path])
def test_what_is_written_is_read(tmp_path, kind):
  path = tmp_path / 'file'
  files.write_bytes(kind(path), b'\x00\xff')
  assert path.read_bytes() == b'\x00\xff'
  files.write_text(kind(path), 'µ = 1\n')
  assert path.read_bytes() == 'µ = 1\n'.encode()
  files.write_json(kind(path), {'width': [0.25, 8]})
  assert json.loads(path.read_text()) == {'width': [0.25, 8]}
  assert path.read_text().startswith('{\n  "width"')
  assert path.read_text().endswith('}\n')
  files.write_json(kind(path), [1, 2], indent=None)
  assert path.read_text() == '[1, 2]\n'
  assert os.listdir(tmp_path) == ['file']


def _half_and_fail(path, data):
  with open(path, 'wb') as file:
    file.write(data[: len(data) // 2])
  raise OSError('the disk is full')


def _fail(*_):
  raise OSError('the disk is gone')


def _interrupt(*_):
  raise KeyboardInterrupt


@pytest.mark.parametrize(
  'method, fault, error',
  [
    ('write_bytes', _half_and_fail, OSError),
    ('replace', _fail, OSError),
    ('replace', _interrupt, KeyboardInterrupt),
  ],
)
@pytest.mark.parametrize('before', ['old', None])
def test_an_error_leaves_the_file_as_it_was(
  tmp_path, monkeypatch, before, method, fault, error
):
  path = tmp_path / 'file'
  if before is not None:
    path.write_text(before)
  monkeypatch.setattr(type(epath.Path(path)), method, fault)
  with pytest.raises(error):
    files.write_text(path, 'new content')
  assert os.listdir(tmp_path) == ([] if before is None else ['file'])
  assert before is None or path.read_text() == before


def test_what_is_no_json_changes_nothing(tmp_path):
  path = tmp_path / 'file.json'
  files.write_json(path, 1)
  with pytest.raises(TypeError, match='not JSON serializable'):
    files.write_json(path, {'array': object()})
  assert path.read_text() == '1\n'
  assert os.listdir(tmp_path) == ['file.json']


def test_no_folder_is_made(tmp_path):
  with pytest.raises(files.WriteError, match='moved, deleted or unmounted'):
    files.write_text(tmp_path / 'typo' / 'file', 'content')
  assert os.listdir(tmp_path) == []


def test_a_dead_draft_is_no_obstacle(tmp_path):
  """The one of a process that was killed while it wrote."""
  (tmp_path / 'file.draft').write_text('a longer content, cut')
  files.write_text(tmp_path / 'file', 'new')
  assert (tmp_path / 'file').read_text() == 'new'
  assert os.listdir(tmp_path) == ['file']


def test_a_path_is_what_a_user_means(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.expand('~/runs/a') == epath.Path(tmp_path / 'runs' / 'a')
  assert files.expand(tmp_path) == epath.Path(tmp_path)
  assert str(files.expand('gs://bucket/~/x')) == 'gs://bucket/~/x'
  with pytest.raises(ValueError, match='workdir is empty; name a folder'):
    files.expand('', 'workdir')
  files.write_text('~/a.txt', 'text')
  assert (tmp_path / 'a.txt').read_text() == 'text'
