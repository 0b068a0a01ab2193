"""A US-Net is trained: both ends of a range, and random widths between them."""

import jax
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax import configuration
from slimjax.training import processes
from slimjax.training.log import read_metrics
from slimjax.training.loop import train_and_evaluate
from slimjax.training.plans import sandwich
from slimjax.training.runs import build_model
from slimjax.training.runs import build_plan
from slimjax.training.runs import load_run

RANGE = (0.125, 0.5)


def config(**overrides):
  config = tiny_net.get_config(
    model__widths=RANGE, epochs=1, log_every_steps=4, **overrides
  )
  with config.unlocked():
    config.model.shared = ('norm',)
    config.plan = {'name': 'sandwich', 'bounds': 2}
    config.loss = {'inplace_distillation': True}
  return config


def test_widths_are_those_of_seed_and_step():
  run = configuration.parse(config())
  plan = build_plan(run, build_model(run))
  assert plan.widths == RANGE[::-1]
  assert plan.bounds == (0.3125, 0.5)
  steps = [plan(step) for step in range(200)]
  assert all((w[0], w[-1]) == RANGE[::-1] for w in steps)
  assert steps == [plan(step) for step in range(200)]
  drawn = np.array([w[1:-1] for w in steps])
  assert drawn.shape == (200, 2)
  assert np.all((RANGE[0] <= drawn) & (drawn <= RANGE[1]))
  # Widest first, as far as channels tell.
  channels = build_model(run).uniform_channels
  assert all(sum(channels(a)) >= sum(channels(b)) for a, b in drawn)
  # Uniform: each quarter of the range has a quarter of the draws.
  counts, _ = np.histogram(drawn, bins=4, range=RANGE)
  assert np.all(np.abs(counts - 100) < 40)
  other = configuration.parse(config(seed=5))
  assert build_plan(other, build_model(other))(0) != steps[0]


def test_every_layer_may_draw_for_itself():
  model = slimjax.create_model('resnet14', num_classes=2, widths=(0.25, 1.0))
  plan = sandwich(model, (1.0, 0.25), 0, per_layer=True)
  assert plan.bounds == (1.0,)
  low, high = map(np.array, map(model.channels, (0.25, 1.0)))
  for step in range(20):
    for width in plan(step)[1:-1]:
      channels = np.array(model.channels(width))  # ties are kept, or it raises
      assert np.all((low <= channels) & (channels <= high))
      shares = channels / high
      assert shares.max() - shares.min() > 0.2


@pytest.mark.parametrize(
  'widths, options, says',
  [
    ((1.0, 0.5, 0.25), {}, 'the two ends of the range'),
    ((1.0, 0.5), {'bounds': 0}, 'bounds must be .* 1 to 64, got 0'),
  ],
)
def test_what_is_wrong_is_said(widths, options, says):
  model = slimjax.create_model('resnet14', num_classes=2, widths=widths)
  with pytest.raises(ValueError, match=says):
    sandwich(model, widths, 0, **options)


def test_norms_of_their_own_are_refused(tmp_path):
  wrong = config()
  with wrong.unlocked():
    wrong.model.shared = ()
  with pytest.raises(ValueError, match=r"config.model.shared = \('norm',\)"):
    train_and_evaluate(wrong, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_it_learns_and_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
  whole = train_and_evaluate(config(), tmp_path / 'whole')
  assert [result.width for result in whole] == [*RANGE]
  said = capsys.readouterr().out
  assert 'compiling random widths to 0.3125 (4 of 6)' in said
  records = read_metrics(tmp_path / 'whole')
  random = [r['random_loss'] for r in records if 'random_loss' in r]
  assert len(random) == len([r for r in records if r['split'] == 'train']) / 2
  assert random[-1] < random[0]
  with monkeypatch.context() as patch:
    patch.setattr(processes.Stop, 'after', lambda self, step: step == 9)
    assert train_and_evaluate(config(), tmp_path / 'stopped') is None
  assert train_and_evaluate(config(), tmp_path / 'stopped') == whole
  states = [load_run(tmp_path / name)[2] for name in ('whole', 'stopped')]
  jax.tree.map(np.testing.assert_array_equal, *states)
