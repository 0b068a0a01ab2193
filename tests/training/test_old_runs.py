"""Runs and bundles of version 0.1 are still good.

tests/golden/run_0.1.tar.xz holds what slimjax 0.1 wrote on one CPU device:

- run/: configs/few_digits.py with --config.epochs=4
  --config.eval_every_epochs=1 --config.log_every_steps=2
  --config.batch_size=32 --config.model.widths=(0.03,0.06), stopped after step 9
  of 12; its metrics.jsonl goes to step 12;
- bundle/: the width 0.03 of another such run, for cpu.
"""

import shutil
import tarfile

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from places import TESTS
import pytest
from safetensors.numpy import load_file

import slimjax
from slimjax import runtime
from slimjax.configs import few_digits
from slimjax.data import digits
from slimjax.train import train_and_evaluate
from slimjax.training import setup
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.log import read_metrics
from slimjax.training.mesh import data_mesh
from slimjax.training.optim import decay_mask
from slimjax.training.optim import sgd
from slimjax.training.runs import load_run
from slimjax.training.state import TrainState

ARCHIVE = TESTS / 'golden' / 'run_0.1.tar.xz'
STOPPED, END = 9, 12


@pytest.fixture(scope='module')
def old(tmp_path_factory):
  """Returns the unpacked archive."""
  folder = tmp_path_factory.mktemp('old')
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder, filter='data')
  return folder


def _config():
  config = few_digits.get_config()
  config.epochs = 4
  config.eval_every_epochs = 1
  config.log_every_steps = 2
  config.batch_size = 32
  config.model.widths = (0.03, 0.06)
  return config


def test_a_stopped_run_resumes_to_its_end(old, tmp_path, monkeypatch, capsys):
  workdir = shutil.copytree(old / 'run', tmp_path / 'run')
  before = read_metrics(workdir)
  mesh = data_mesh(jax.devices()[:1])
  monkeypatch.setattr(setup, 'data_mesh', lambda: mesh)
  table = train_and_evaluate(_config(), workdir)
  said = capsys.readouterr().out
  assert f'resuming from the checkpoint of step {STOPPED}' in said
  assert 'changed' not in said
  after = read_metrics(workdir)
  assert [r for r in after if r['step'] <= STOPPED] == [
    r for r in before if r['step'] <= STOPPED
  ]
  # The first step compares the forward pass; from there on rounding grows,
  # which differs with the flags that the suite compiles with.
  for one, other in zip(after, before, strict=True):
    assert one.keys() == other.keys()
    for name in ('split', 'step', 'epoch', 'width'):
      assert one[name] == other[name]
    validation = other['split'] == 'validation'
    rel = 1e-6 if other['step'] <= STOPPED + 1 else 1e-4 if validation else 1e-2
    assert one['loss'] == pytest.approx(other['loss'], rel=rel)
    if validation:
      assert one['examples'] == other['examples'] == 1697
      assert one['top1_error'] == pytest.approx(other['top1_error'], abs=1)
    else:
      assert one['learning_rate'] == other['learning_rate']
      if other['step'] <= STOPPED + 1:
        norms = one['gradient_norm'], other['gradient_norm']
        assert norms[0] == pytest.approx(norms[1], rel=1e-2)
  assert [row.scores['top1_error'] for row in table] == [
    record['top1_error'] for record in after[-2:]
  ]


def test_a_run_loads(old):
  run, model, variables, step = load_run(old / 'run')
  assert step == STOPPED
  assert run.task == {'name': 'classification'}
  assert model.widths == (0.03, 0.06)
  assert set(variables) == {'params', 'norm', 'batch_stats'}


def test_old_weights_are_a_beginning(old):
  """A run's, and a bundle's, which holds one of the run's two widths."""
  model = slimjax.create_model(
    'mobilenet_v1', num_classes=5, widths=(0.02, 0.06)
  )
  reports = []
  variables = slimjax.load_weights(model, old / 'run', report=reports.append)
  _, _, before, _ = load_run(old / 'run')
  kernel = lambda v: v['params']['unit13']['pointwise']['conv']['kernel']
  np.testing.assert_array_equal(kernel(variables), kernel(before))
  assert '(mobilenet_v1, step 9); new: the classifier, 10 -> 5' in str(*reports)
  thin = model.clone(widths=(0.02, 0.03))
  bundle = old / 'bundle'
  variables = slimjax.load_weights(thin, bundle, report=reports.append)
  assert reports[1].norms == {0.02: 0.03}
  flat = load_file(bundle / 'weights.safetensors')
  wide = kernel(traverse_util.unflatten_dict(flat, sep='/'))
  rows, columns = kernel(variables).shape[2:]
  assert (rows, columns) < wide.shape[2:]
  np.testing.assert_array_equal(kernel(variables), wide[..., :rows, :columns])
  with pytest.raises(ValueError, match='no width with the channels'):
    slimjax.load_weights(model, bundle)


def test_a_bundle_loads_and_verifies(old):
  net = runtime.load(old / 'bundle')
  assert net.widths == (0.03,)
  assert net.verify()[0.03] < 1e-4


@pytest.mark.parametrize('name', ['run', 'bundle'])
def test_they_answer_images(old, name):
  """The run reads its data anew; the bundle's outputs were always logits."""
  predictor = slimjax.load(old / name)
  image = digits.load('test')['image'][0]
  (guesses,) = predictor.predict(image, width=0.03, top=10)
  assert sorted(guess.name for guess in guesses) == list('0123456789')
  logits = np.asarray(predictor(image[None], width=0.03))[0]
  assert [guess.index for guess in guesses] == [*np.argsort(-logits)]
  with pytest.raises(ValueError, match='give uint8 images'):
    predictor(image[None].astype(np.float32), width=0.03)


@pytest.mark.parametrize('clip_norm', [None, 0.5])
def test_clipping_was_a_link_of_the_chain_once(tmp_path, clip_norm):
  """Such a checkpoint fits whether or not the run still clips."""
  schedule = optax.constant_schedule(0.1)
  variables = {'params': {'layer': {'kernel': jnp.ones((3, 4))}}}
  chain = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.add_decayed_weights(1e-4, decay_mask),
    optax.sgd(schedule, momentum=0.9, nesterov=True),
  )
  was = TrainState.create(variables, chain)
  moved = jax.tree.map(lambda x: x + 1, was.opt_state)
  like = TrainState.create(variables, sgd(schedule, clip_norm=clip_norm))
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    checkpoints.save(3, was.replace(opt_state=moved), {}, None)
    checkpoints.wait()
    state, _ = checkpoints.restore(3, like)
  assert jax.tree.structure(state) == jax.tree.structure(like)
  for found, expected in zip(
    jax.tree.leaves(state.opt_state), jax.tree.leaves(moved), strict=True
  ):
    np.testing.assert_array_equal(found, expected)
