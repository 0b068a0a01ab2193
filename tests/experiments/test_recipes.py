"""Every block of experiments/recipes runs, in its order and in one folder."""

import re
import shlex
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from places import ROOT
from places import TESTS
import programs
import pytest
import tiny_net

PAGE = ROOT / 'experiments' / 'recipes' / 'README.md'
BLOCK = re.compile(r'```(sh|python)(?: file=(\S+)| (notest))?\n(.*?)```', re.S)
# What keeps the runs short; flags that the page itself gives stay as they are.
SHORT = {
  'config.epochs': '1',
  'config.model.widths': '(0.25, 1.0)',
  'config.model.name': tiny_net.NAME,
}
SMALL = {'config.data.workers': '0', 'config.data.image_size': '32'}


def blocks():
  """(kind, name of the file to write, code) of every block that is to run."""
  return [
    (kind, file, code)
    for kind, file, notest, code in BLOCK.findall(PAGE.read_text())
    if not notest
  ]


def commands(code):
  """Yields the program and the arguments of each command, shortened."""
  for line in code.strip().splitlines():
    python, flag, module, *arguments = shlex.split(line)
    assert (python, flag) == ('python', '-m'), line
    if module == 'slimjax.train':
      given = {word[2:].partition('=')[0] for word in arguments}
      short = SHORT if '--config=digits' in arguments else SHORT | SMALL
      arguments += [f'--{k}={v}' for k, v in short.items() if k not in given]
    yield module, arguments


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Holds photos of three classes, a new one, and a file of torchvision's."""
  random = np.random.default_rng(0)
  for i, name in enumerate(('apple', 'pear', 'plum')):
    (tmp_path / 'photos' / name).mkdir(parents=True)
    for j in range(20):
      picture = random.integers(0, 120, (40, 36, 3), np.uint8)
      picture[..., i] += 120
      cv2.imwrite(str(tmp_path / 'photos' / name / f'{j}.jpg'), picture)
  shutil.copy(tmp_path / 'photos' / 'pear' / '3.jpg', tmp_path / 'new.jpg')
  monkeypatch.syspath_prepend(TESTS / 'variables')
  import plain_nets

  weights = plain_nets.Weights()
  jax.eval_shape(
    lambda x: plain_nets.mobilenet_v2(weights, x, plain_nets.TORCHVISION_NAMES),
    jax.ShapeDtypeStruct((1, 3, 64, 64), jnp.float32),
  )
  np.savez(tmp_path / 'mobilenet_v2.npz', **weights)
  return tmp_path


def test_the_page(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(folder)  # as `python -m` has it
  said, names = [], {}
  for kind, file, code in blocks():
    code = code.replace('.pth', '.npz')  # which is read without torch
    if file:
      (folder / file).write_text(code)
    elif kind == 'python':
      names |= run(code)
    else:
      for module, arguments in commands(code):
        done = programs.call(module, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        said.append(done.stdout)
  trained, predicted, tuned, own, exported, measured = said
  assert '3 classes' in trained
  assert 'pear' in predicted
  assert 'rate times 10' in tuned
  assert 'Net' in own
  assert 'bundles/photos' in exported
  assert '0.25' in measured
  assert names['variables']['norm'].keys() == {'w025', 'w060', 'w100'}
  assert names['logits'].shape == (32, 3)


def run(code):
  names = {}
  exec(code, names)
  return names
