"""Files of weights as people have them, and what is no file of weights."""

import gzip
import io
import json
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from slimjax.variables import reading
from slimjax.variables.reading import read_file
from slimjax.variables.state_dicts import state_dict

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def bfloat16_file(array):
  """Returns a safetensors file by the definition of its format."""
  data = np.asarray(array, jnp.bfloat16).tobytes()
  header = json.dumps(
    {'a': {'dtype': 'BF16', 'shape': [2, 3], 'data_offsets': [0, len(data)]}}
  ).encode()
  return len(header).to_bytes(8, 'little') + header + data


def test_half_precision_becomes_float32(tmp_path):
  """A rate of 1e-5 would change nothing in float16."""
  files = {
    'half.npz': None,
    'half.safetensors': save({'a': WEIGHT.astype(np.float16)}),
    'bfloat.safetensors': bfloat16_file(WEIGHT),
    'whole.safetensors': save({'a': WEIGHT}),
  }
  for name, data in files.items():
    path = tmp_path / name
    if data is None:
      np.savez(path, a=WEIGHT.astype(np.float16))
    else:
      path.write_bytes(data)
    array = state_dict(read_file(path), name).arrays['a']
    assert array.dtype == np.float32, name
    np.testing.assert_array_equal(array, WEIGHT)
  np.savez(tmp_path / 'double.npz', a=WEIGHT.astype(np.float64))
  double = state_dict(read_file(tmp_path / 'double.npz'), 'double').arrays['a']
  assert double.dtype == np.float64


def test_tensors_of_pytorch_of_half_precision(tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'weights.anything'  # the name says nothing
  for dtype in (torch.float16, torch.bfloat16, torch.float32):
    torch.save({'a': torch.from_numpy(WEIGHT).to(dtype)}, path)
    array = state_dict(read_file(path), 'it').arrays['a']
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, WEIGHT)
  torch.save({'a': torch.from_numpy(WEIGHT).double()}, path)
  assert state_dict(read_file(path), 'it').arrays['a'].dtype == np.float64


def test_quantised_and_sparse_tensors_are_refused_by_name():
  torch = pytest.importorskip('torch')
  with pytest.raises(ValueError, match='it: a is quantised or sparse'):
    state_dict({'a': torch.zeros(2).to_sparse()}, 'it')


def test_bfloat16_of_numpy_is_refused_by_name(tmp_path):
  """Numpy writes it as two bytes of nothing."""
  np.savez(tmp_path / 'a.npz', kernel=WEIGHT.astype(jnp.bfloat16))
  with pytest.raises(ValueError, match=r'it: kernel is of type .*V2.*float32'):
    state_dict(read_file(tmp_path / 'a.npz'), 'it')


# What is no file of weights.


def archive(*names):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as members:
    for name in names:
      members.writestr(name, b'content')
  return file.getvalue()


def array_archive():
  file = io.BytesIO()
  np.savez(file, a=WEIGHT)
  return file.getvalue()


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'is empty; the download or the copy of it failed'),
    (b'\n<!DOCTYPE html><html>', 'is a web page, not a file of weights'),
    (b'version https://git-lfs.github.com/spec/v1', 'with: git lfs pull'),
    (b'\x89HDF\r\n\x1a\n', 'is an HDF5 file, as Keras writes'),
    (gzip.compress(b'weights', mtime=0), 'is packed by gzip; unpack it first'),
    (b'{"a": 1}', 'is JSON, which holds no weights'),
    (b'\x93NUMPY\x01\x00', r'with np\.savez'),
    (b'abcdefgh' * 9, r"it begins with b'abcdefgh'; files of PyTorch"),
    (archive('a/weights.bin'), 'is a zip archive of a/weights.bin, neither'),
    (archive('net/data.pkl', 'net/constants.pkl'), 'a TorchScript archive'),
    (array_archive()[:-40], 'is damaged or cut off, it has .* bytes'),
    (save({'a': WEIGHT})[:-4], 'is damaged or cut off, it has .* bytes'),
  ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
  path = tmp_path / 'weights.pt'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read_file(path)
  assert str(path) in str(error.value)
  assert len(str(error.value).splitlines()) == 1


def test_missing_files_and_folders(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)  # it is not asked for
  (tmp_path / 'weights.pth').write_bytes(b'')
  with pytest.raises(
    FileNotFoundError, match=r'no weight\.pth in .*is it weig'
  ):
    read_file(tmp_path / 'weight.pth')
  with pytest.raises(FileNotFoundError, match='nor such a folder'):
    read_file(tmp_path / 'nowhere' / 'weights.pth')
  with pytest.raises(
    IsADirectoryError, match=r'give one of its files: weights'
  ):
    read_file(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  with pytest.raises(ValueError, match=f'{tmp_path}/weights.pth is empty'):
    read_file('~/weights.pth')


def test_what_claims_too_much_is_not_unpacked(tmp_path, monkeypatch):
  """Ones that are packed well, and a header that promises more."""
  path = tmp_path / 'bomb.npz'
  np.savez_compressed(path, a=np.zeros(1_000_000, np.float32))
  assert path.stat().st_size < 10_000
  monkeypatch.setattr(reading, 'LIMIT_BYTES', 100_000)
  with pytest.raises(ValueError, match='unpacks to 4,000,.* than the 100,000'):
    read_file(path)
  (tmp_path / 'big.pt').write_bytes(b'\x80' * 100_001)
  with pytest.raises(ValueError, match='has 100,001 bytes, more than the'):
    read_file(tmp_path / 'big.pt')
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<f4', 'fortran_order': False, 'shape': (10**12,)}
  )
  with zipfile.ZipFile(path, 'w') as members:
    members.writestr('a.npy', header.getvalue())
  with pytest.raises(ValueError, match='it claims 4,000,000,000,000 bytes'):
    read_file(path)


def test_a_view_that_claims_too_much(tmp_path, monkeypatch):
  """One number, said to be repeated: it is small until it is an array."""
  torch = pytest.importorskip('torch')
  path = tmp_path / 'view.pt'
  torch.save({'model': {'a': torch.zeros(1).expand(1000, 1000)}}, path)
  assert path.stat().st_size < 10_000
  monkeypatch.setattr(reading, 'LIMIT_BYTES', 100_000)
  with pytest.raises(ValueError, match='unpacks to 4,000,000 bytes'):
    read_file(path)


class Meter:
  """What scripts of training keep beside the weights."""


def test_objects_beside_the_weights_are_never_unpickled(tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'training.pt'
  torch.save({'model': {'a': torch.zeros(1)}, 'meter': Meter()}, path)
  with pytest.raises(ValueError, match='objects besides tensors') as error:
    read_file(path)
  assert 'Meter' in str(error.value)
  assert "torch.save(model.state_dict(), 'weights.pt')" in str(error.value)
  torch.save(torch.zeros(3), path)
  with pytest.raises(ValueError, match='is a single tensor'):
    read_file(path)
  torch.save([torch.zeros(3)], path)
  with pytest.raises(ValueError, match='holds a list, no tensors by name'):
    read_file(path)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match='is damaged or cut off'):
    read_file(path)


def test_a_training_checkpoint_of_plain_values(tmp_path):
  """The state of its optimiser holds tensors, and is left alone."""
  torch = pytest.importorskip('torch')
  net = torch.nn.Linear(3, 2)
  optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
  net(torch.ones(1, 3)).sum().backward()
  optimizer.step()
  path = tmp_path / 'training.pt'
  torch.save(
    {
      'epoch': 3,
      'optimizer': optimizer.state_dict(),
      'state_dict': net.state_dict(),
      'best': 0.5,
    },
    path,
  )
  arrays = state_dict(read_file(path), 'it').arrays
  assert set(arrays) == {'weight', 'bias'}
  np.testing.assert_array_equal(arrays['bias'], net.bias.detach().numpy())


# What lies around the tensors.


@pytest.mark.parametrize(
  'wrapper', ['', 'state_dict', 'model_state_dict', 'model']
)
@pytest.mark.parametrize(
  'prefix',
  [
    '',
    'module.',
    '_orig_mod.',
    '_orig_mod.module.',
    'module._orig_mod.module.',
    'model.',
    'module.model._orig_mod.',
  ],
)
def test_wrappers_and_prefixes(wrapper, prefix):
  tensors = {
    f'{prefix}layer1.0.conv1.weight': WEIGHT,
    f'{prefix}fc.bias': WEIGHT,
    f'{prefix}layer1.0.bn1.num_batches_tracked': np.int64(3),
  }
  content = {wrapper: tensors, 'epoch': 3, 'args': None} if wrapper else tensors
  found = state_dict(content, 'it')
  assert list(found.arrays) == ['layer1.0.conv1.weight', 'fc.bias']
  assert found.averages == ()


def test_wrappers_inside_one_another():
  content = {'model': {'state_dict': {'module.a': WEIGHT}, 'epoch': 1}}
  assert list(state_dict(content, 'it').arrays) == ['a']


def test_only_what_all_names_share_is_a_prefix():
  """A network may well have a part of this name."""
  names = ['model.weight', 'head.weight', 'block._orig_mod.conv.weight']
  arrays = state_dict({name: WEIGHT for name in names}, 'it').arrays
  assert list(arrays) == ['model.weight', 'head.weight', 'block.conv.weight']


def test_an_average_beside_the_model_is_left_aside_and_said():
  content = {'model': {'a': WEIGHT}, 'model_ema': {'module.a': WEIGHT + 1}}
  found = state_dict(content, 'it')
  np.testing.assert_array_equal(found.arrays['a'], WEIGHT)
  assert found.averages == ('model_ema',)
  # Alone it is what is meant, as the module that averages saves it too.
  alone = state_dict({'epoch': 1, 'ema': {'module.a': WEIGHT + 1}}, 'it')
  np.testing.assert_array_equal(alone.arrays['a'], WEIGHT + 1)
  swa = {'n_averaged': np.int64(5), 'module.a': WEIGHT}
  assert list(state_dict(swa, 'it').arrays) == ['a']


@pytest.mark.parametrize(
  'content, message',
  [
    ({'module.a': WEIGHT, 'a': WEIGHT}, r'two tensors for a: module\.a and a'),
    (
      {'epoch': 3, 'args': {}},
      "no arrays by name; its keys are 'epoch', 'args'",
    ),
    ({'a.bias': np.full(3, np.nan)}, 'it: a.bias hold NaN or infinite'),
    (
      {f'{i}.running_var': WEIGHT - 1 for i in range(5)},
      r'it: 0\.running_var, .* and 2 more hold negative variances',
    ),
  ],
)
def test_weights_that_are_refused(content, message):
  with pytest.raises(ValueError, match=message):
    state_dict(content, 'it')
