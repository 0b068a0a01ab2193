"""The program: from a supernet to the networks that are trained."""

import json
import subprocess
import sys

import pytest
import tiny_net

from slimjax.searching.command import search_run
from slimjax.train import train_and_evaluate
from slimjax.training.runs import load_run
from slimjax.variables.profile import profile_model


@pytest.fixture(scope='module')
def supernet(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  config = tiny_net.get_config(
    epochs=1,
    model__widths=(0.125, 0.25),
    model__shared=('norm',),
    plan={'name': 'sandwich', 'random': 1, 'per_layer': True},
    data__held_out=1200,
  )
  train_and_evaluate(config, folder)
  return folder


def test_a_run_is_searched(supernet, tmp_path, capsys):
  found = search_run(
    supernet,
    tmp_path,
    target_macs=(1.5e5, 1e5),
    batch_size=100,
    images=250,
  )
  _, model, _, _ = load_run(supernet)
  content = json.loads((tmp_path / 'nets.json').read_text())
  assert content['images'] == 200
  assert content['nets'] == found
  assert [net['name'] for net in found] == ['150k', '100k']
  for net, target in zip(found, (1.5e5, 1e5), strict=True):
    profile = profile_model(model, width=tuple(net['channels']), image_size=32)
    assert (net['macs'], net['params']) == (profile.macs, profile.params)
    assert net['macs'] <= target
    assert 0 <= net['error'] <= 100
  assert (tmp_path / 'error.png').stat().st_size > 1000
  said = capsys.readouterr().out
  assert '200 images of the split held_out' in said
  assert 'less of unit' in said


def test_the_program_says_what_is_wrong(tmp_path):
  command = [sys.executable, '-m', 'slimjax.search', f'--workdir={tmp_path}']
  done = subprocess.run(
    [*command, f'--out={tmp_path / "out"}', '--target_macs=150e6'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.startswith(f'error: {tmp_path} holds no run')
