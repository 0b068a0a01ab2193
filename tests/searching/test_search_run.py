"""The program: from a supernet to the networks that are trained."""

import functools
import json
import subprocess
import sys

import programs
import pytest
import tiny_net

from slimjax.searching import latency
from slimjax.searching.command import search_run
from slimjax.searching.grids import Grid
from slimjax.searching.latency import LatencyTable
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


def test_a_table_of_latencies_may_be_carried_here(supernet, tmp_path, capsys):
  _, model, _, _ = load_run(supernet)
  every = Grid((8, 64), (8, 64), ((1.0, 4.0), (2.0, 8.0)))
  table = LatencyTable(
    model='TinyNet',
    layers=3,
    image_size=(32, 32),
    batch_size=2,
    device='a telephone',
    measured='',
    versions={},
    grids=(every,),
    blocks=((0, (0, 1), (1, 1)), (0, (1, 1), (2, 1))),
    launch_ms=0.5,
    check={'networks': 5, 'mean_error': 0.07, 'worst_error': 0.21},
  )
  table.save(tmp_path / 'table.json')
  target = 0.7 * float(table([model.full_channels])[0])
  (found,) = search_run(
    supernet,
    tmp_path / 'out',
    target_ms=(target,),
    device_table=tmp_path / 'table.json',
    batch_size=100,
    images=100,
  )
  assert found['predicted_ms'] == pytest.approx(
    float(table([found['channels']])[0])
  )
  assert found['predicted_ms'] <= target
  assert found['measured_ms'] > 0  # of this device, by the whole network
  assert (
    'latencies of a telephone, batch 2: wrong by 7 % on the mean, 21 % at'
    ' most, on 5 networks'
  ) in capsys.readouterr().out


def test_a_device_is_measured_without_the_data(supernet, tmp_path, monkeypatch):
  quick = functools.partial(latency.measure, grid=2, nets=4, rounds=1)
  monkeypatch.setattr(latency, 'measure', quick)
  done = programs.call(
    'slimjax.benchmark', supernet, '--blocks', f'--out={tmp_path / "here"}'
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert 'its latencies are wrong by' in done.stdout
  table = LatencyTable.load(tmp_path / 'here.device_table.json')
  table.check_model(load_run(supernet)[1], (32, 32))


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
