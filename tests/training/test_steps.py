"""Training steps against the same computation written out plainly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from step_net import add_noise
from step_net import BATCH
from step_net import make_batch
from step_net import make_model
from step_net import RATE
from step_net import schedule
from step_net import SIZE

from slimjax.tasks.classification import Classification
from slimjax.tasks.classification import top_k_correct
from slimjax.tasks.losses import cross_entropy
from slimjax.tasks.losses import soft_cross_entropy
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.mesh import shard
from slimjax.training.optim import sgd
from slimjax.training.state import trained
from slimjax.training.state import TrainState
from slimjax.training.steps import make_train_step
from slimjax.variables import init
from slimjax.variables import select

SEED = 3
COLLECTIVE = re.compile(
  r' (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)'
  r'(?:-start)?\('
)


def _variables(model, dtype):
  variables = init(model, jax.random.key(0), image_size=SIZE)
  rng = np.random.RandomState(0)
  # Not the fresh norms and classifier, at which much would go unnoticed.
  draw = lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape)
  return jax.tree.map(lambda x: jnp.asarray(draw(x).astype(dtype)), variables)


def _norm(tree):
  return np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(tree)))


def _assert_close(found, expected, rtol=1e-9):
  """Asserts that every array is within `rtol` of its largest entry."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  expected, _ = jax.tree.flatten_with_path(expected)
  for (path, e), f in zip(expected, jax.tree.leaves(found), strict=True):
    np.testing.assert_allclose(
      np.asarray(f),
      np.asarray(e),
      rtol=0,
      atol=rtol * max(np.abs(e).max(), 1e-3),
      err_msg=jax.tree_util.keystr(path),
    )


def _by_hand(
  model, optimizer, state, batch, *, shards, label_smoothing, distil
):
  """Takes a step as the published recipe has it: by shards, by widths."""
  key = jax.random.fold_in(jax.random.key(SEED), state.step)
  images = add_noise(key, {'image': jnp.asarray(batch['image'])})['image']
  images = np.split(np.asarray(images), shards)
  labels = np.split(batch['label'], shards)

  def loss_fn(trainable, stats, images, labels, teacher, width):
    logits, new = model.apply(
      {**trainable, 'batch_stats': stats},
      images,
      width=width,
      train=True,
      mutable=['batch_stats'],
    )
    if teacher is None:
      losses = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    else:
      losses = soft_cross_entropy(logits, teacher)
    return losses.mean(), (logits, new['batch_stats'])

  differentiate = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True), static_argnames='width'
  )
  average = lambda trees: jax.tree.map(
    lambda *x: np.mean(np.stack(x), axis=0), *trees
  )
  params = jax.tree.map(lambda x: np.zeros(x.shape), state.variables['params'])
  norm, batch_stats, metrics, teachers = {}, {}, {}, [None] * shards
  for width in model.ordered_widths[::-1]:
    switch = model.switch(width)
    chosen = select(state.variables, switch)
    trainable = {'params': chosen['params'], 'norm': chosen['norm']}
    results = [
      differentiate(trainable, chosen['batch_stats'], *of_shard, width=width)
      for of_shard in zip(images, labels, teachers, strict=True)
    ]
    gradient = average([gradient for _, gradient in results])
    params = jax.tree.map(np.add, params, gradient['params'])
    norm[switch] = gradient['norm']
    batch_stats[switch] = average([stats for (_, (_, stats)), _ in results])
    metrics[switch] = {
      'loss': BATCH / shards * sum(loss for (loss, _), _ in results),
      'top1': sum(
        top_k_correct(logits, label, 1).sum()
        for ((_, (logits, _)), _), label in zip(results, labels, strict=True)
      ),
    }
    if distil and width == model.ordered_widths[-1]:
      # Numbers, so that nothing can flow back to the widest.
      teachers = [
        np.asarray(jax.nn.softmax(logits)) for (_, (logits, _)), _ in results
      ]
  gradients = {'params': params, 'norm': norm}
  trainable = trained(state.variables)
  updates, opt_state = jax.jit(optimizer.update)(
    gradients, state.opt_state, trainable
  )
  new = jax.tree.map(lambda x, u: x + np.asarray(u), trainable, updates)
  state = TrainState(
    step=state.step + 1,
    variables={**new, 'batch_stats': batch_stats},
    opt_state=opt_state,
  )
  return state, metrics, _norm(gradients)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('distil', [False, True])
def test_a_step_is_the_computation_by_hand_on_every_shard(distil):
  model = make_model((0.25, 0.125, 0.5), dtype='float64')
  optimizer = sgd(schedule, weight_decay=1e-2, clip_norm=0.2)
  mesh = data_mesh()
  assert mesh.size == 4
  step = make_train_step(
    model,
    Classification(label_smoothing=0.1, inplace_distillation=distil),
    optimizer,
    schedule,
    mesh,
    seed=SEED,
    augment=add_noise,
  )
  expected = TrainState.create(_variables(model, np.float64), optimizer)
  state = replicate(expected, mesh)
  batch = make_batch(np.float64)
  step = step.compile(state, shard(batch, mesh))
  assert list(step.gradient) == ['w050', 'w025', 'w0125']

  # Two, so that momentum and the fold of the step into the key count.
  for i in range(2):
    expected, metrics, norm = _by_hand(
      model,
      optimizer,
      expected,
      batch,
      shards=4,
      label_smoothing=0.1,
      distil=distil,
    )
    state, found = step(state, shard(batch, mesh))
    _assert_close(state, expected)
    for switch, sums in metrics.items():
      of_switch = found['widths'][switch]
      np.testing.assert_allclose(of_switch['loss'], (sums['loss'], BATCH))
      assert [float(x) for x in of_switch['top1']] == [sums['top1'], BATCH]
    assert norm > 0.2  # it is clipped
    np.testing.assert_allclose(found['gradient_norm'], norm)
    np.testing.assert_allclose(found['learning_rate'], RATE / (1 + i))
  # The devices hold the same bits: nothing drifts apart.
  for leaf in jax.tree.leaves(state):
    first, *others = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(others) == 3
    assert all((first == other).all() for other in others)

  # Nothing left a device before all widths were done.
  for program in (step.prepare, *step.gradient.values()):
    assert COLLECTIVE.findall(program.as_text()) == []


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('widths', [(0.25,), (0.125, 0.25)])
def test_on_one_device_it_is_the_ordinary_step_on_the_summed_loss(widths):
  model = make_model(widths, dtype='float64')
  optimizer = sgd(schedule)
  mesh = data_mesh(jax.devices()[:1])
  step = make_train_step(model, Classification(), optimizer, schedule, mesh)
  batch = make_batch(np.float64)

  def loss_fn(trainable, batch_stats):
    total, new = 0.0, {}
    for width in widths:
      switch = model.switch(width)
      logits, updated = model.apply(
        {
          'params': trainable['params'],
          'norm': trainable['norm'][switch],
          'batch_stats': batch_stats[switch],
        },
        batch['image'],
        width=width,
        train=True,
        mutable=['batch_stats'],
      )
      total += optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['label']
      ).mean()
      new[switch] = updated['batch_stats']
    return total, new

  @jax.jit
  def ordinary_step(state):
    trainable = trained(state.variables)
    (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
      trainable, state.variables['batch_stats']
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
    return loss, TrainState(
      step=state.step + 1,
      variables={
        **optax.apply_updates(trainable, updates),
        'batch_stats': batch_stats,
      },
      opt_state=opt_state,
    )

  expected = TrainState.create(_variables(model, np.float64), optimizer)
  state = replicate(expected, mesh)
  for _ in range(2):
    loss, expected = ordinary_step(expected)
    state, metrics = step(state, shard(batch, mesh))
    _assert_close(state, expected)
    sums = [float(m['loss'][0]) for m in metrics['widths'].values()]
    np.testing.assert_allclose(sum(sums) / BATCH, loss)


@pytest.mark.usefixtures('x64')
def test_synchronised_norms_on_four_devices_are_those_of_one():
  optimizer = sgd(schedule)
  batch = make_batch(np.float64)
  states, texts = [], []
  for devices, axis_name in ((1, None), (4, AXIS), (4, None)):
    model = make_model((0.125, 0.25), dtype='float64', axis_name=axis_name)
    mesh = data_mesh(jax.devices()[:devices])
    step = make_train_step(model, Classification(), optimizer, schedule, mesh)
    state = TrainState.create(_variables(model, np.float64), optimizer)
    state = replicate(state, mesh)
    step = step.compile(state, shard(batch, mesh))
    state, _ = step(state, shard(batch, mesh))
    states.append(jax.tree.map(np.asarray, state))
    texts.append(step.gradient['w025'].as_text())
  whole, synchronised, private = states
  _assert_close(synchronised, whole)
  # Without it they differ, and only with it do devices talk before `update`.
  with pytest.raises(AssertionError):
    _assert_close(
      private.variables['batch_stats'],
      whole.variables['batch_stats'],
      rtol=1e-3,
    )
  assert COLLECTIVE.findall(texts[1])
  assert not COLLECTIVE.findall(texts[2])
