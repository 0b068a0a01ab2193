"""A candidate's score is that of its own network; devices share the work."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax.searching.costs import macs_of
from slimjax.searching.scoring import Scorer
from slimjax.tasks import Classification
from slimjax.tasks.losses import cross_entropy
from slimjax.training.mesh import data_mesh
from slimjax.variables import select
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width

NETS = [(16, 32, 64), (8, 24, 40), (16, 8, 48), (8, 16, 8), (12, 20, 28)]


@functools.cache
def network():
  model = tiny_net.TinyNet(
    num_classes=7, widths=(0.125, 0.25), shared=('norm',)
  )
  variables = slimjax.init(model, jax.random.key(0))
  keys = iter(jax.random.split(jax.random.key(1), 100))
  variables['norm'] = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape, x.dtype),
    variables['norm'],
  )
  random = np.random.default_rng(0)
  batches = [
    {
      'image': random.standard_normal((16, 32, 32, 3), dtype=np.float32),
      'label': random.integers(0, 7, 16).astype(np.int32),
    }
    for _ in range(2)
  ]
  return model, variables, batches, macs_of(model, 32)


def scorer(devices, **options):
  model, variables, batches, macs = network()
  mesh = data_mesh(jax.devices()[:devices])
  return Scorer(
    model,
    variables,
    batches,
    task=Classification(),
    macs=macs,
    mesh=mesh,
    **options,
  )


def sliced(channels):
  """Returns loss and error of a network that is cut out."""
  model, variables, batches, _ = network()
  small = narrow(model, channels)
  weights = take_width(model, select(variables, 'w025'), width=channels)
  losses, wrong = [], []
  for batch in batches:
    logits, _ = small.apply(
      weights,
      batch['image'],
      width=channels,
      train=True,
      mutable=['batch_stats'],
    )
    losses.append(cross_entropy(logits, jnp.asarray(batch['label'])))
    wrong.append(jnp.argmax(logits, axis=-1) != batch['label'])
  return float(jnp.mean(jnp.stack(losses))), 100 * float(
    jnp.mean(jnp.stack(wrong))
  )


def test_scores_are_those_of_sliced_networks():
  expected = [sliced(channels) for channels in NETS[:3]]
  told = scorer(1).summaries(NETS[:3])
  np.testing.assert_allclose(
    [(one['loss'], one['top1_error']) for one in told], expected, rtol=1e-5
  )


def test_devices_and_neighbours_change_nothing():
  alone = scorer(1)(NETS)
  np.testing.assert_array_equal(scorer(4)(NETS), alone)
  np.testing.assert_array_equal(scorer(1)(NETS[::-1]), alone[::-1])
  together = scorer(2, together=2)(NETS)
  np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_the_bound_follows_the_search():
  _, _, _, macs = network()
  one = scorer(1)
  one.follow(NETS[0])
  full = one([NETS[3]])
  one.follow((16, 32, 56))  # little less: the program stays
  assert one.bound == NETS[0]
  one.follow(NETS[1])
  assert macs([NETS[1]])[0] < 0.7 * macs([NETS[0]])[0]
  assert one.bound == NETS[1]
  np.testing.assert_allclose(one([NETS[3]]), full, rtol=1e-5)


def test_what_cannot_be_scored_is_refused():
  _, variables, batches, macs = network()
  with pytest.raises(ValueError, match="'loss' or 'error', got 'top1'"):
    scorer(1, score='top1')
  shuffle = slimjax.create_model('shufflenet', num_classes=5, widths=(0.5, 1.0))
  with pytest.raises(ValueError, match='do not divide into 3 groups'):
    Scorer(shuffle, variables, batches, task=Classification(), macs=macs)


def test_images_at_hand_are_searched(tmp_path):
  model, variables, batches, macs = network()
  (batch, *_), whole = batches, int(macs([NETS[0]])[0])
  images = jnp.asarray(batch['image']), batch['label']
  path = tmp_path / 'trace.jsonl'
  search = functools.partial(
    slimjax.search, model, variables, *images, target_macs=[whole // 2]
  )
  (found,) = search(trace=path)
  assert macs([found.channels])[0] <= whole // 2
  told = path.read_bytes()
  lines = told.splitlines(keepends=True)
  path.write_bytes(b''.join(lines[: len(lines) // 2]))
  assert search(trace=path) == [found]
  assert path.read_bytes() == told  # also across a change of the bound
  with pytest.raises(ValueError, match='images: .* before'):
    slimjax.search(
      model,
      variables,
      images[0] + 1,
      images[1],
      target_macs=[whole // 2],
      trace=path,
    )
