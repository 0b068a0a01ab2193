"""Greedy slimming of the published US-Nets, against an independent oracle.

Ten steps in float64 at 32 pixels. `python tests/searching/search_goldens.py`
checks MobileNet v1 and v2; the suite checks the first, which compiles faster.
"""

import pathlib
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import goldens
import jax
import jax.numpy as jnp
import numpy as np

import slimjax
from slimjax.searching.costs import macs_of
from slimjax.searching.greedy import greedy
from slimjax.searching.problem import make_problem
from slimjax.searching.scoring import Scorer
from slimjax.searching.trace import Trace
from slimjax.tasks import Classification
from slimjax.training.mesh import data_mesh

RANGES = {'mobilenet_v1': (0.25, 1.0), 'mobilenet_v2': (0.35, 1.0)}
IMAGE_SIZE = 32


def golden(name):
  """Returns the arrays of a trace."""
  with np.load(goldens.FOLDER / f'autoslim_greedy_{name}.npz') as file:
    return dict(file)


def us_net(name):
  """Returns a US-Net and its golden weights, in float64."""
  model = slimjax.create_model(
    name,
    num_classes=1000,
    widths=RANGES[name],
    shared=('norm',),
    dtype=jnp.float64,
  )
  return model, goldens.us_net(model, f'us_{name}')


def images():
  """Returns the 16 images that the oracle scored with."""
  random = np.random.RandomState(zlib.crc32(b'scoring'))
  shape = (16, 3, IMAGE_SIZE, IMAGE_SIZE)
  drawn = random.standard_normal(shape).astype(np.float32)
  return drawn.transpose(0, 2, 3, 1).astype(np.float64)


def check(name):
  """Asserts that every decision, loss and number of MACs is the oracle's."""
  told = golden(name)
  model, variables = us_net(name)
  macs = macs_of(model, IMAGE_SIZE)
  batch = {'image': images(), 'label': told['labels'].astype(np.int32)}
  scorer = Scorer(
    model,
    variables,
    [batch],
    task=Classification(),
    macs=macs,
    mesh=data_mesh(jax.devices()[:1]),
  )
  problem = make_problem(model, macs, [told['macs'][-1]])
  np.testing.assert_array_equal(problem.start, told['full'])
  np.testing.assert_array_equal(problem.steps, told['step'])
  units = [','.join(map(str, places)) for places in problem.units]
  assert units == told['units'].tolist()
  steps = []
  (found,) = greedy(
    problem, scorer, Trace(None, {}), follow=scorer.follow, on_step=steps.append
  )
  channels = [step['channels'] for step in steps]
  np.testing.assert_array_equal(channels, told['channels'])
  assert [step['cost'] for step in steps] == told['macs'].tolist()
  chosen = [problem.names.index(step['chosen']) for step in steps[1:]]
  assert chosen == told['chosen'].tolist()
  losses = [step['score'] for step in steps]
  np.testing.assert_allclose(losses, told['loss'], rtol=1e-12)
  candidates = [
    [np.inf if score is None else score for score in step['scores']]
    for step in steps[1:]
  ]
  np.testing.assert_allclose(candidates, told['candidate_loss'], rtol=1e-12)
  assert found.channels == tuple(told['channels'][-1])


if __name__ == '__main__':
  jax.config.update('jax_enable_x64', True)
  for name in RANGES:
    check(name)
    print(f'{name}: ten steps are those of the oracle')
