"""A run on oblong images of a user's own, from its start to a bundle."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from tiny_net import get_config

import slimjax
from slimjax import runtime
from slimjax.analysis.figures import visualize_run
from slimjax.analysis.scoring import evaluate
from slimjax.data import digits
from slimjax.data.batches import ArraySplit
from slimjax.data.record import read_record
from slimjax.runtime.exporting import export_run
from slimjax.train import train_and_evaluate
from slimjax.training import loop

SIZE = (24, 32)
WIDTHS = (0.125, 0.25)


def create():
  """Returns some digits without their lowest rows."""

  def split(name, count):
    arrays = digits.load(name)
    return ArraySplit(
      {
        'image': arrays['image'][:count, : SIZE[0]],
        'label': arrays['label'][:count],
      }
    )

  return dataclasses.replace(
    digits.create(),
    name='oblong',
    decode=None,  # which would give the digits' own size
    image_size=SIZE,
    splits={'train': split('train', 64), 'test': split('test', 20)},
  )


def config():
  return get_config(
    data={'name': f'{__name__}:create'}, epochs=1, batch_size=32
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('oblong') / 'run'
  return workdir, train_and_evaluate(config(), workdir)


def test_costs_are_those_of_the_images(run, capsys):
  workdir, results = run
  model = slimjax.create_model(
    'tiny_net:TinyNet', num_classes=10, widths=WIDTHS
  )
  for result in results:
    profile = slimjax.profile_model(model, width=result.width, image_size=SIZE)
    square = slimjax.profile_model(model, width=result.width, image_size=32)
    assert result.profile == profile != square
  assert evaluate(workdir=workdir) == results
  assert read_record(workdir).image_size == SIZE
  assert create().describe().startswith('oblong: 10 classes, images of 24 x 32')
  assert train_and_evaluate(config(), workdir) == results  # it resumes


def test_it_is_visualized_and_served(run, tmp_path):
  workdir, _ = run
  paths = visualize_run(workdir, tmp_path / 'features', images=2)
  assert set(json.loads(paths[-1].read_text())) > {'stem'}
  images = create().splits['test'].arrays['image']
  manifest = export_run(workdir, tmp_path / 'bundle', platforms=('cpu',))
  assert manifest.image_size == SIZE
  logits = runtime.load(tmp_path / 'bundle')(images, width=0.25)
  np.testing.assert_allclose(
    slimjax.load(workdir)(images, width=0.25), logits, rtol=1e-3, atol=1e-4
  )


class ReachedError(Exception):
  """Ends a run at a place that a test asks about."""


def test_the_start_of_a_run_is_not_silent(tmp_path, monkeypatch):
  """What takes long is done where `alive` tells of it."""
  inside, seen = [], {}

  @contextlib.contextmanager
  def alive(say, doing):
    inside.append(doing())
    yield
    inside.pop()

  def watched(name, then):
    def call(*args):
      seen[name] = list(inside)
      return then(*args)

    monkeypatch.setattr(loop, name, call)

  def stop(*_):
    raise ReachedError

  monkeypatch.setattr(loop, 'alive', alive)
  watched('set_up', loop.set_up)
  watched('say_plan', stop)
  with pytest.raises(ReachedError):
    train_and_evaluate(config(), tmp_path / 'run')
  assert seen == {
    'set_up': ['reading the data and building the network'],
    'say_plan': ['counting what every width costs'],
  }
