"""Folders that are not the bundle that was written are refused."""

import hashlib
import json
import shutil

from bundles import SIZE
import pytest
from safetensors.numpy import save_file

from slimjax import digests
from slimjax import runtime
from slimjax.runtime import bundle
from slimjax.runtime import BundleError
from slimjax.runtime.tensors import read_tensors


def changed(path, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(path, copy)
  return copy


def rewrite(folder, **values):
  """Writes a manifest that someone made, with a hash that fits."""
  content = json.loads((folder / 'manifest.json').read_text())
  content.update(values)
  content['sha256'] = bundle._content_hash(content)
  (folder / 'manifest.json').write_text(json.dumps(content))
  return content


def truncate(folder):
  file = folder / 'weights.safetensors'
  file.write_bytes(file.read_bytes()[:-1])


def edit(folder):
  file = folder / 'programs' / 'w050.predict'
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(bytes(data))


def lose(folder):
  (folder / 'programs' / 'w025.prepare').unlink()


def edit_manifest(folder):
  file = folder / 'manifest.json'
  file.write_text(file.read_text().replace('"error": 9.0', '"error": 1.0'))


def garble(folder):
  (folder / 'manifest.json').write_text('{"format": ')


def foreign(folder):
  (folder / 'manifest.json').write_text('{"name": "a web page"}')


def future(folder):
  rewrite(folder, schema=4)


def incomplete(folder):
  content = json.loads((folder / 'manifest.json').read_text())
  del content['widths'][0]['macs']
  rewrite(folder, widths=content['widths'])


def escape(folder):
  outside = folder.parent / 'secret'
  outside.write_text('x')
  content = json.loads((folder / 'manifest.json').read_text())
  files = {**content['files'], '../secret': {'bytes': 1, 'sha256': ''}}
  rewrite(folder, files=files)


def link_out(folder):
  file = folder / 'weights.safetensors'
  file.rename(folder.parent / 'elsewhere')
  file.symlink_to(folder.parent / 'elsewhere')


def no_hash(folder):
  content = json.loads((folder / 'manifest.json').read_text())
  files = dict(content['files'])
  del files['weights.safetensors']
  rewrite(folder, files=files)


def no_program(folder):
  file = folder / 'programs' / 'w050.predict'
  file.write_bytes(b'not a program')
  content = json.loads((folder / 'manifest.json').read_text())
  files = dict(content['files'])
  digest = hashlib.sha256(b'not a program').hexdigest()
  files['programs/w050.predict'] = {'bytes': 13, 'sha256': digest}
  rewrite(folder, files=files)


def other_platform(folder):
  rewrite(folder, platforms=['tpu'])


@pytest.mark.parametrize(
  'damage, message',
  [
    (truncate, r'weights.safetensors has \d+ bytes, not the'),
    (edit, 'w050.predict has been changed'),
    (lose, 'has lost programs/w025.prepare'),
    (edit_manifest, 'manifest.json has been changed'),
    (garble, 'is not JSON'),
    (foreign, 'is not the manifest of a slimjax bundle'),
    (future, 'has the schema 4, this version of slimjax reads 1 to 3'),
    (incomplete, r'is not what schema 3 says: widths\[0\].macs is missing'),
    (escape, "must lead to a file of the bundle, got '../secret'"),
    (link_out, 'names a file outside of itself'),
    (no_hash, 'has no hash of weights.safetensors'),
    (no_program, 'w050.predict cannot be run: '),
    (other_platform, 'was exported for tpu, not for cpu'),
  ],
)
def test_what_is_not_the_bundle_that_was_written(
  path, tmp_path, damage, message
):
  copy = changed(path, tmp_path)
  damage(copy)
  with pytest.raises(ValueError, match=message):
    runtime.load(copy)


def test_cloud_storage_is_refused_not_written_to_a_folder_of_that_name(
  model, variables, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='gs://b/x: bundles are local folders'):
    runtime.export(model, variables, 'gs://b/x', image_size=SIZE)
  with pytest.raises(ValueError, match='copy it here first'):
    runtime.load('gs://b/x')
  assert not list(tmp_path.iterdir())


def test_folders_that_are_no_bundle(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no folder'):
    runtime.load(tmp_path / 'none')
  with pytest.raises(BundleError, match='is not a bundle'):
    runtime.load(tmp_path)


def test_verify_finds_other_weights(path, tmp_path):
  copy = changed(path, tmp_path)
  tensors = read_tensors(copy / bundle.WEIGHTS)
  name = next(n for n in tensors if n.endswith('stem/conv/kernel'))
  save_file({**tensors, name: tensors[name] * 1.1}, copy / bundle.WEIGHTS)
  content = json.loads((copy / 'manifest.json').read_text())
  files = digests.of_folder(copy)
  rewrite(copy, files={name: files[name] for name in content['files']})
  net = runtime.load(copy, prepare='use')
  with pytest.raises(BundleError, match='does not give the outputs'):
    net.verify()
