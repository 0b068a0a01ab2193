"""PyTorch checkpoints: there and back, and what is refused.

Those of all published networks go there and back in test_goldens.
"""

import functools
import importlib
import os
import re
import sys
import zipfile

from absl import app
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax
from slimjax import configuration
from slimjax import files
from slimjax.analysis.scoring import check_choice
from slimjax.analysis.scoring import evaluate
from slimjax.analysis.scoring import published_errors
from slimjax.data import digits
from slimjax.evaluate import load_published
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

# MobileNet v2's last norm, one for all switches in the published code.
SHARED = 'features.18.1.'


def network(name):
  return slimjax.create_model(
    name, num_classes=1000, widths=goldens.widths(name)
  )


def small(name='mobilenet_v1', widths=(0.25, 0.5)):
  return slimjax.create_model(name, num_classes=10, widths=widths)


@functools.cache
def small_variables(name='mobilenet_v1'):
  """Variables no two entries of which are alike."""
  shapes = jax.eval_shape(
    lambda: slimjax.init(small(name), jax.random.key(0), image_size=32)
  )
  rng = np.random.RandomState(0)

  def draw(path, like):
    values = jnp.float32(rng.standard_normal(like.shape))
    return jnp.abs(values) if path[-1].key == 'var' else values

  return jax.tree_util.tree_map_with_path(draw, shapes)


def assert_equal_trees(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_layouts():
  model, variables = small(), small_variables()
  arrays = save_torch(model, variables)
  params = variables['params']
  np.testing.assert_array_equal(
    arrays['features.0.0.weight'][5, 2, 0, 1],
    params['stem']['conv']['kernel'][0, 1, 2, 5],
  )
  np.testing.assert_array_equal(
    arrays['classifier.0.weight'], params['classifier']['kernel'].T
  )
  # Switches are numbered from the thinnest on, whatever order they are in.
  backwards = slimjax.create_model(
    'mobilenet_v1', num_classes=10, widths=(0.5, 0.25)
  )
  other = save_torch(backwards, variables)
  assert list(other) == list(arrays)
  for tensor, array in arrays.items():
    np.testing.assert_array_equal(other[tensor], array)
  stem = variables['norm']['w025']['stem']['norm']['scale']
  np.testing.assert_array_equal(arrays['features.0.1.bn.0.weight'], stem)


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('nested', [False, True])
def test_checkpoints_as_they_are_found(prefix, nested):
  model, variables = small(), small_variables()
  arrays = save_torch(model, variables)
  arrays = {prefix + name: array for name, array in arrays.items()}
  arrays[prefix + 'features.0.1.bn.0.num_batches_tracked'] = np.int64(7)
  checkpoint = {'model': arrays, 'epoch': 3} if nested else arrays
  assert_equal_trees(load_torch(model, checkpoint), variables)


@pytest.mark.parametrize('ending', ['.npz', '.safetensors', '.pt', '.pth'])
def test_files_round_trip(tmp_path, ending):
  if ending in ('.pt', '.pth'):
    pytest.importorskip('torch')
  model, variables = small(), small_variables()
  path = tmp_path / f'checkpoint{ending}'
  arrays = save_torch(model, variables, path)
  assert_equal_trees(load_torch(model, path), variables)
  assert_equal_trees(load_torch(model, str(path)), variables)
  assert os.listdir(tmp_path) == [path.name]
  assert set(arrays) == set(save_torch(model, variables))
  # Where it cannot be written again, it stays.
  before = path.read_bytes()
  (tmp_path / f'{path.name}.draft').mkdir()
  with pytest.raises(files.WriteError, match='was there before is unchanged'):
    save_torch(model, variables, path)
  assert path.read_bytes() == before


def test_a_published_network_comes_back_from_a_file_of_pytorch(tmp_path):
  """As the authors' training saves it, from several devices: `module.`."""
  name = 'mobilenet_v2'  # the one with a norm that is saved once
  torch = pytest.importorskip('torch')
  weights = goldens.weights(name)
  tensors = {f'module.{n}': torch.from_numpy(a) for n, a in weights.items()}
  path = tmp_path / 'authors.pt'
  torch.save({'model': tensors, 'epoch': 480}, path)
  model = network(name)
  back = tmp_path / 'back.pt'
  save_torch(model, load_torch(model, path), back)
  loaded = torch.load(back, weights_only=True)['model']
  assert list(loaded) == list(weights)
  for tensor, array in weights.items():
    assert torch.equal(loaded[tensor], torch.from_numpy(array)), tensor


def test_tensors_of_pytorch_are_taken():
  torch = pytest.importorskip('torch')
  model, variables = small(), small_variables()
  tensors = {
    name: torch.nn.Parameter(torch.from_numpy(array.copy()))
    for name, array in save_torch(model, variables).items()
  }
  assert_equal_trees(load_torch(model, tensors), variables)


def test_a_name_that_says_no_format_is_refused(tmp_path):
  path = tmp_path / 'checkpoint.bin'
  with pytest.raises(ValueError, match=r'must end with \.npz'):
    save_torch(small(), small_variables(), path)
  assert not path.exists()


def test_what_is_wrong_with_a_checkpoint_is_counted_and_shown():
  model = small()
  arrays = save_torch(model, small_variables())
  del arrays['features.3.body.0.weight']
  del arrays['features.0.1.bn.1.running_var']
  arrays['features.14.body.0.weight'] = np.zeros(3)
  arrays['extra'] = np.zeros(3)
  arrays['classifier.0.weight'] = np.zeros((1000, 512))
  arrays['features.0.0.weight'] = np.zeros((32, 3, 3, 3))
  with pytest.raises(ValueError, match='MobileNetV1') as error:
    load_torch(model, arrays)
  lines = [line.strip() for line in str(error.value).splitlines()[1:]]
  total = len(save_torch(model, small_variables()))
  assert lines == [
    f'2 missing, of {total}:',
    'features.0.1.bn.1.running_var',
    'features.3.body.0.weight',
    '2 not expected:',
    'features.14.body.0.weight',
    'extra',
    '2 misshaped:',
    'features.0.0.weight: [32, 3, 3, 3], expected [16, 3, 3, 3]',
    'classifier.0.weight: [1000, 512], expected [10, 512]',
  ]
  assert '(0.25, 0.5)' in str(error.value)
  assert '10 classes' in str(error.value)


def test_another_architecture_is_refused_in_a_few_lines():
  arrays = save_torch(small(), small_variables())
  with pytest.raises(ValueError, match='MobileNetV2 with widths') as error:
    load_torch(small('mobilenet_v2'), arrays)
  assert len(str(error.value).splitlines()) <= 15
  assert "looks like one of the slimmable networks' authors" in str(error.value)
  # The same architecture with other switches.
  with pytest.raises(ValueError, match=r'not expected:\n.*bn\.1\.'):
    load_torch(small(widths=(0.5,)), arrays)


def test_variables_of_some_widths_only_are_not_saved():
  model, variables = small(), small_variables()
  alone = slimjax.extract(model, variables, width=0.25)[1]
  with pytest.raises(ValueError, match='the variables have no norm/w050/'):
    save_torch(model, alone)


# Files that run code.


class Malice:
  """Unpickling it makes a folder."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(tmp_path):
  torch = pytest.importorskip('torch')
  proof, path = tmp_path / 'proof', tmp_path / 'checkpoint.pt'
  torch.save({'model': {}, 'extra': Malice(proof)}, path)
  with pytest.raises(ValueError, match='objects besides tensors') as error:
    load_torch(small(), path)
  assert "torch.save(model.state_dict(), 'weights.pt')" in str(error.value)
  assert not proof.exists()


def test_objects_in_an_npz_are_not_unpickled(tmp_path):
  proof, path = tmp_path / 'proof', tmp_path / 'checkpoint.npz'
  np.savez(path, extra=np.array([Malice(proof)], dtype=object))
  with pytest.raises(ValueError, match='allow_pickle=False'):
    load_torch(small(), path)
  assert not proof.exists()


# The norm that the switches of MobileNet v2 share.


def test_a_shared_norm_is_copied_to_each_switch():
  name = 'mobilenet_v2'
  model, weights = network(name), goldens.weights(name)
  variables = load_torch(model, weights)
  ours = {
    'weight': ('norm', 'scale'),
    'bias': ('norm', 'bias'),
    'running_mean': ('batch_stats', 'mean'),
    'running_var': ('batch_stats', 'var'),
  }
  for theirs, (collection, leaf) in ours.items():
    for width in model.widths:
      tree = variables[collection][model.switch(width)]
      np.testing.assert_array_equal(
        tree['last']['norm'][leaf], weights[SHARED + theirs]
      )


def test_norms_that_differ_are_saved_apart():
  model = small('mobilenet_v2')
  variables = small_variables('mobilenet_v2')
  arrays = save_torch(model, variables)
  of_last = [name for name in arrays if name.startswith(SHARED)]
  leaves = ('weight', 'bias', 'running_mean', 'running_var')
  assert of_last == [
    f'{SHARED}bn.{i}.{leaf}' for i in range(2) for leaf in leaves
  ]
  assert_equal_trees(load_torch(model, arrays), variables)
  # One entry is enough to tell two norms apart.
  variables = load_torch(model, {**arrays, **alike(arrays)})
  shared = save_torch(model, variables)
  assert [n for n in shared if n.startswith(SHARED)] == [
    SHARED + leaf for leaf in leaves
  ]
  assert_equal_trees(load_torch(model, shared), variables)
  apart = {**arrays, **alike(arrays)}
  apart[f'{SHARED}bn.1.running_var'] = (
    arrays[f'{SHARED}bn.0.running_var'] + np.eye(1, 1280, 1279, np.float32)[0]
  )
  variables = load_torch(model, apart)
  assert_equal_trees(load_torch(model, save_torch(model, variables)), variables)


def alike(arrays):
  return {
    name.replace('bn.0.', 'bn.1.'): array
    for name, array in arrays.items()
    if name.startswith(f'{SHARED}bn.0.')
  }


# Optional packages.


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  saved = tmp_path / 'checkpoint.pt'
  with zipfile.ZipFile(saved, 'w') as archive:
    archive.writestr('checkpoint/data.pkl', b'')
  with pytest.raises(ImportError, match=r"pip install 'slimjax\[torch\]'"):
    load_torch(small(), saved)
  # Nothing else needs it.
  path = tmp_path / 'checkpoint.npz'
  save_torch(small(), small_variables(), path)
  assert_equal_trees(load_torch(small(), path), small_variables())


def test_a_checkpoint_is_evaluated(tmp_path, capsys):
  """Its error is that of the network that was saved."""
  widths, width = (0.125, 0.25), 0.25
  model = small(widths=widths)
  variables = slimjax.init(model, jax.random.key(0), image_size=32)
  path = tmp_path / 'authors.npz'
  save_torch(model, variables, path)
  config = importlib.import_module('slimjax.configs.digits').get_config()
  config.model.widths = widths
  evaluate(config=config, checkpoint=str(path), widths=[str(width)])
  said = capsys.readouterr().out
  test = digits.load('test')
  images = digits.preprocess(jnp.asarray(test['image']))
  logits = slimjax.apply(model, variables, images, width=width)
  error = 100 * np.mean(np.argmax(logits, axis=-1) != test['label'])
  assert re.search(rf'│ +{width} │ +{error:.2f} %', said), said
  assert ' 0.125 ' not in said
  assert '360 examples' in said
  assert 'published' not in said  # digits are not ImageNet


def test_a_checkpoint_that_is_not_there():
  config = importlib.import_module('slimjax.configs.digits').get_config()
  with pytest.raises(FileNotFoundError, match='no checkpoint nowhere.pt'):
    load_published(config, 'nowhere.pt')


@pytest.mark.parametrize(
  'workdir, config, checkpoint, message',
  [
    (None, None, 'latest', 'give --workdir of a run, or --config'),
    ('runs', {}, 'a.pt', 'give --workdir of a run, or --config'),
    ('runs', None, 'a.pt', 'to load a file give --config'),
    (None, {'seed': 0}, 'best', '--config needs --checkpoint=FILE'),
  ],
)
def test_flags_that_do_not_fit(workdir, config, checkpoint, message):
  with pytest.raises(app.UsageError, match=message):
    check_choice(workdir, config, checkpoint)


def test_the_published_error_stands_beside():
  config = importlib.import_module('slimjax.configs.mobilenet_v2').get_config()
  run = configuration.parse(config)
  line = published_errors(run, (0.35, 1.0), 'test')
  assert line is not None
  assert 'S-MobileNet v2, 40.3 % at 0.35, 29.5 % at 1.0' in line
  assert published_errors(run, (0.35, 1.0), 'train') is None
  config.data.image_size = 160
  assert published_errors(configuration.parse(config), (1.0,), 'test') is None
