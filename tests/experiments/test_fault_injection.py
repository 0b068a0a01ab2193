"""The generator of damages: each of them, and the same for the same seed."""

import importlib
import random
import sys

from places import ROOT
import pytest

FOLDER = ROOT / 'experiments' / 'fault_injection'


@pytest.fixture(scope='module')
def mutate():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(FOLDER))
    yield importlib.import_module('mutate')
  for name in ('mutate', 'inject', 'children', 'traced'):
    del sys.modules[name]


def _write(folder):
  for step in (2, 4):
    for name in ('state/d/array', 'position/metadata', 'digests.json'):
      path = folder / str(step) / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(bytes(range(1, 200)) + name.encode() + bytes([step]))


def _look(folder):
  """Returns kind, rights and content of everything in a folder."""
  return {
    str(path.relative_to(folder)): (
      path.stat().st_mode,
      path.is_file() and path.stat().st_mode & 0o400 and path.read_bytes(),
    )
    for path in sorted(folder.rglob('*'))
  }


def test_every_mutation_changes_something_and_follows_its_seed(
  mutate, tmp_path
):
  for number, kind in enumerate(mutate.MUTATIONS):
    looks, said = [], []
    for copy in ('one', 'two'):
      folder = tmp_path / copy / str(number) / 'checkpoints'
      _write(folder)
      before = _look(folder)
      said.append(mutate.mutate(folder, kind, random.Random(number)))
      looks.append(_look(folder))
      assert looks[-1] != before, kind
    assert looks[0] == looks[1]
    assert said[0] == said[1]
