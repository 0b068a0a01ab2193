"""A run that diverges stops, and says where."""

import math

import ends
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_net import get_config
from tiny_net import STEPS

from slimjax.tasks import Classification
from slimjax.train import NonFiniteError
from slimjax.train import train_and_evaluate
from slimjax.training.log import read_metrics
from slimjax.training.log import TrainLog


def test_divergence_stops_with_step_width_and_checkpoint(tmp_path):
  config = get_config(log_every_steps=5)
  workdir = tmp_path / 'run'
  # The rate is absurd from the second epoch on.
  absurd = optax.scale_by_schedule(
    lambda step: jnp.where(step < STEPS, 1.0, 1e30)
  )
  with pytest.raises(NonFiniteError) as error:
    train_and_evaluate(config, workdir, last=absurd)
  text = str(error.value)
  step = int(text.split()[1].rstrip(':'))
  assert STEPS < step <= STEPS + 5
  assert 'the loss of width 0.25 is' in text
  assert f'the last good checkpoint is of step {STEPS}' in text
  assert ends.saved(workdir) == [STEPS]
  variables = ends.variables(workdir, STEPS)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(variables))
  # No line of the log is from after it went wrong.
  assert all(math.isfinite(r['loss']) for r in read_metrics(workdir))
  assert not (workdir / 'results.json').exists()


def test_non_finite_steps_are_named_before_they_are_summed():
  def metrics(thin=1.0, wide=1.0, norm=1.0):
    sums = lambda loss: {
      name: (jnp.float32(loss), jnp.float32(8)) for name in ('loss', 'top1')
    }
    return {
      'widths': {'w025': sums(thin), 'w050': sums(wide)},
      'gradient_norm': jnp.float32(norm),
      'learning_rate': jnp.float32(0.1),
    }

  for bad, says in (
    ({'thin': np.nan}, 'step 7: the loss of width 0.25 is nan; .* of step 4'),
    ({'wide': np.inf}, 'step 7: the loss of width 0.5 is inf'),
    ({'norm': np.nan}, 'step 7: the gradient norm is nan'),
  ):
    log = TrainLog(
      Classification(),
      {'w025': 0.25, 'w050': 0.5},
      record=lambda step: None,
      last_good=lambda: 4,
    )
    log.add(6, metrics())
    log.add(7, metrics(**bad))  # not read yet
    with pytest.raises(NonFiniteError, match=says):
      log.read()
