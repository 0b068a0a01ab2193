"""Every script of experiments/ begins; those on speed build all they time."""

import argparse
import importlib.util
import sys

from flax import linen as nn
import jax.numpy as jnp
import numpy as np
from places import ROOT
import pytest

EXPERIMENTS = ROOT / 'experiments'
# fault_injection has tests of its own.
SCRIPTS = sorted(
  str(path.relative_to(EXPERIMENTS))
  for path in EXPERIMENTS.rglob('*.py')
  if '__main__' in path.read_text() and 'fault_injection' not in path.parts
)
SIDE = 32


@pytest.fixture
def load(monkeypatch):
  """Returns what loads a script as a module: 'folder/file.py' -> module.

  Modules that it finds beside itself are forgotten afterwards: others may have
  the same names.
  """
  before = set(sys.modules)

  def load(script):
    path = EXPERIMENTS / script
    monkeypatch.setattr(
      sys, 'path', [str(path.parent), str(EXPERIMENTS), *sys.path]
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, made)
    spec.loader.exec_module(made)
    return made

  yield load
  for name in set(sys.modules) - before:
    file = getattr(sys.modules[name], '__file__', None) or ''
    if file.startswith(str(EXPERIMENTS)):
      del sys.modules[name]


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_says_what_it_takes(script, load, monkeypatch, capsys):
  text = (EXPERIMENTS / script).read_text()
  try:
    main = load(script).main
  except ModuleNotFoundError as error:
    if error.name not in ('torch', 'torchvision', 'onnxruntime'):
      raise
    pytest.skip(str(error))
  if 'argparse' not in text and 'Experiment.parse' not in text:
    return
  monkeypatch.setattr(sys, 'argv', [script, '--help'])
  with pytest.raises(SystemExit) as ended:
    main()
  assert ended.value.code == 0
  assert 'usage' in capsys.readouterr().out


def test_the_parts_of_a_training_step(load):
  sides = load('cpu_training_speed/sides.py')
  cell = sides.Cell('resnet14', SIDE, batch_size=2, widths=(0.125, 0.25))
  parts = sides.jax_parts(cell)
  assert list(parts) == [
    'step', 'forward', 'gradient 0.25', 'gradient 0.125', 'update',
  ]  # fmt: skip
  for part in parts.values():
    part.run(*part.before())


def test_the_parts_in_pytorch_train_the_same_weights(load):
  torch = pytest.importorskip('torch')
  sides = load('cpu_training_speed/sides.py')
  from speed import torch_networks
  from speed.task import make_batch

  import slimjax

  cell = sides.Cell('mobilenet_v1', SIDE, batch_size=2, widths=(0.25, 0.5))
  parts = sides.torch_parts(cell)
  assert set(parts) == {
    'step', 'forward', 'gradient 0.5', 'gradient 0.25', 'update',
  }  # fmt: skip
  for part in parts.values():
    part.run(*part.before())
  net = torch_networks.create_net(cell.name, (0.25,)).eval()
  state = {k: v.numpy(force=True) for k, v in net.state_dict().items()}
  batch = make_batch(2, SIDE)
  model = slimjax.create_model(cell.name, num_classes=1000, widths=(0.25,))
  expected = slimjax.apply(
    model, slimjax.load_torch(model, state), batch['image'], width=0.25
  )
  images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2)
  for same in (net, torch_networks.fold_norms(net)):
    found = same(images, 0).numpy(force=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.complete
def test_the_sides_of_a_latency(load, monkeypatch, tmp_path):
  measure = load('switch_latency/measure.py')
  monkeypatch.setattr(measure, 'FAMILIES', {'mobilenet_v1': (0.25,)})
  measure.bundle('mobilenet_v1', tmp_path, SIDE)
  given = argparse.Namespace(image_size=SIDE, batch_sizes=(1, 2))
  sides = measure.sides_of('mobilenet_v1', tmp_path, given)
  assert set(sides) == {'auto', 'XLA', 'ONNX Runtime', 'alone', 'PyTorch'}
  if importlib.util.find_spec('torch') is None:
    del sides['PyTorch']
  for factory, arguments in sides.values():
    parts = factory(*arguments)  # compares the answers
    assert list(parts) == ['0.25, 1', '0.25, 2']
    assert parts['0.25, 2'].run().shape == (2, 1000)


class Plain(nn.Module):
  """A network to take the place of a large one."""

  dtype: jnp.dtype

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(8, (3, 3), dtype=self.dtype)(images)
    x = nn.BatchNorm(use_running_average=False)(x)
    return nn.Dense(1000, dtype=self.dtype)(x.mean((1, 2)))


@pytest.mark.complete
def test_the_steps_of_the_throughput(load, monkeypatch):
  measure = load('training_throughput/measure.py')
  monkeypatch.setattr(measure, 'WIDTHS', (0.125,))
  monkeypatch.setattr(measure.plain_flax, 'NETS', {'resnet14': Plain})
  given = argparse.Namespace(
    batch_size=2, image_size=SIDE, dtype='float32', torch=False, rounds=1,
    seconds=0.0,
  )  # fmt: skip
  rows = measure.measure('resnet14', given)['rows']
  assert list(rows) == ['four', '0.125', 'flax']
  assert rows['four']['gigabytes_moved'] > 0
  assert rows['four']['temporary_megabytes'] > 0


@pytest.mark.complete
def test_the_cost_of_some_widths(load):
  measure = load('width_count/measure.py')
  assert measure.widths_of(1) == (1.0,)
  assert measure.widths_of(4) == (0.25, 0.5, 0.75, 1.0)
  trainer, row = measure.build('resnet14', 1, measure.make_batch(2, SIDE))
  assert row['programs'] == 3  # a gradient, the batch, the update
  assert row['macs'] == 1
  (times,) = measure.time_steps([trainer], rounds=2)
  assert len(times) == 2


@pytest.mark.complete
def test_the_phases_of_a_start(load, tmp_path):
  startup = load('startup/measure.py')
  phases = startup.follow(
    startup.command(
      tmp_path / 'run',
      tmp_path / 'cache',
      ('--config.model.name=resnet14', '--config.model.widths=(0.125,)'),
    ),
    startup.environment(),
  )
  assert all(seconds >= 0 for seconds in phases.values())
  assert phases['to the first step'] <= phases['in all']
