"""Training steps against the same computation written out plainly."""

import logging
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slimjax.models import create_model
from slimjax.models.net import SlimNet
from slimjax.tasks.classification import Classification
from slimjax.tasks.classification import top_k_correct
from slimjax.tasks.losses import cross_entropy
from slimjax.tasks.losses import soft_cross_entropy
from slimjax.training.evaluator import make_eval_step
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.mesh import shard
from slimjax.training.optim import sgd
from slimjax.training.state import trained
from slimjax.training.state import TrainState
from slimjax.training.steps import make_train_step
from slimjax.variables import extract
from slimjax.variables import init
from slimjax.variables import select

CLASSES, BATCH, SIZE, SEED = 10, 8, 8, 3
RATE = 0.2
COLLECTIVE = re.compile(
  r' (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)'
  r'(?:-start)?\('
)


class Tiny(SlimNet):
  """One of each layer, so that what is tested is the step."""

  @nn.nowrap
  def layer_names(self):
    return [('stem', None), ('pointwise', None)]

  @nn.nowrap
  def uniform_channels(self, width):
    return [int(16 * width), int(32 * width)]

  @nn.compact
  def __call__(self, images, *, width, train=False):
    channels, full = self.channels(width), self.full_channels
    conv = self.conv_norm(nn.relu6)
    x = conv(full[0], 3, 2, name='stem')(images, channels[0], train=train)
    x = conv(full[0], 3, groups=full[0], name='depthwise')(x, train=train)
    x = conv(full[1], 1, name='pointwise')(x, channels[1], train=train)
    return self.classify(x)


def _model(widths, **options):
  return Tiny(num_classes=CLASSES, widths=widths, **options)


def _variables(model, dtype):
  variables = init(model, jax.random.key(0), image_size=SIZE)
  rng = np.random.RandomState(0)
  # Not the fresh norms and classifier, at which much would go unnoticed.
  draw = lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape)
  return jax.tree.map(lambda x: jnp.asarray(draw(x).astype(dtype)), variables)


def _batch(dtype, batch=BATCH, size=SIZE):
  rng = np.random.RandomState(1)
  return {
    'image': rng.standard_normal((batch, size, size, 3)).astype(dtype),
    'label': rng.randint(CLASSES, size=batch).astype(np.int32),
  }


def _augment(key, batch):
  images = batch['image']
  noise = 0.3 * jax.random.normal(key, images.shape, images.dtype)
  return {**batch, 'image': images + noise}


def _schedule(step):
  return RATE / (1.0 + jnp.asarray(step))


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
  images = _augment(key, {'image': jnp.asarray(batch['image'])})['image']
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
  model = _model((0.25, 0.125, 0.5), dtype='float64')
  optimizer = sgd(_schedule, weight_decay=1e-2, clip_norm=0.2)
  mesh = data_mesh()
  assert mesh.size == 4
  step = make_train_step(
    model,
    Classification(label_smoothing=0.1, inplace_distillation=distil),
    optimizer,
    _schedule,
    mesh,
    seed=SEED,
    augment=_augment,
  )
  expected = TrainState.create(_variables(model, np.float64), optimizer)
  state = replicate(expected, mesh)
  batch = _batch(np.float64)
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
  model = _model(widths, dtype='float64')
  optimizer = sgd(_schedule)
  mesh = data_mesh(jax.devices()[:1])
  step = make_train_step(model, Classification(), optimizer, _schedule, mesh)
  batch = _batch(np.float64)

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
  optimizer = sgd(_schedule)
  batch = _batch(np.float64)
  states, texts = [], []
  for devices, axis_name in ((1, None), (4, AXIS), (4, None)):
    model = _model((0.125, 0.25), dtype='float64', axis_name=axis_name)
    mesh = data_mesh(jax.devices()[:devices])
    step = make_train_step(model, Classification(), optimizer, _schedule, mesh)
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


# Compiled programs.


def _abstract(model, optimizer, mesh, batch, size):
  """Shapes of a state and a batch: nothing is allocated."""
  state = jax.eval_shape(
    lambda: TrainState.create(
      init(model, jax.random.key(0), image_size=size), optimizer
    )
  )
  batch = _batch(np.float32, batch, size)
  return _described(state, mesh), _described(batch, mesh, AXIS)


def _described(tree, mesh, *axes):
  sharding = jax.NamedSharding(mesh, jax.P(*axes))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _reductions(model):
  """Sizes in each all-reduce of `update`, and those of what it averages."""
  mesh, optimizer = data_mesh(), sgd(_schedule)
  step = make_train_step(model, Classification(), optimizer, _schedule, mesh)
  state, _ = _abstract(model, optimizer, mesh, BATCH, 32)
  number = jax.ShapeDtypeStruct((), jnp.float32)
  variables = state.variables
  shared = {'gradients': {'params': variables['params']}, 'states': {}}
  private = {
    switch: {
      'gradients': {'norm': variables['norm'][switch]},
      'states': {'batch_stats': variables['batch_stats'][switch]},
      'metrics': {k: (number, number) for k in ('loss', 'top1', 'top5')},
    }
    for switch in step.gradient
  }
  averaged = (shared, private)
  stacked = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((mesh.size, *x.shape), x.dtype), averaged
  )
  program = step.update.lower(state, *_described(stacked, mesh, AXIS))
  text = program.compile(QUICK).as_text()
  assert set(COLLECTIVE.findall(text)) == {'all-reduce'}
  shapes = [
    re.findall(r'f32\[([\d,]*)\]', line.split(' all-reduce')[0])
    for line in text.splitlines()
    if re.search(r' all-reduce(-start)?\(', line)
  ]
  found = [
    [int(np.prod([int(n) for n in shape.split(',') if n])) for shape in reduced]
    for reduced in shapes
  ]
  return found, sum(x.size for x in jax.tree.leaves(averaged))


# Only the machine code is worse, not what is compiled: half the time.
QUICK = {'xla_backend_optimization_level': 0}


def test_gradients_of_all_widths_are_reduced_once():
  for widths in ((1.0,), (0.5, 1.0), (0.25, 0.5, 0.75, 1.0)):
    found, size = _reductions(_model(widths))
    assert len(found) == 1
    assert sum(found[0]) == size


def test_gradients_of_a_published_network_are_reduced_once():
  model = create_model(
    'mobilenet_v1', num_classes=1000, widths=(0.25, 0.5, 0.75, 1.0)
  )
  found, size = _reductions(model)
  # Every number once: not one gradient of the parameters for each width.
  assert sum(sum(sizes) for sizes in found) == size
  assert len(found) == 1


def test_several_widths_take_the_memory_of_the_widest_alone():
  """Temporary memory of the largest program of a step.

  The published networks are in experiments/step_memory.

  The widest alone is what one would write without slimmable networks (one
  program of gradient and update), and our own step of that width.
  """
  mesh, optimizer = data_mesh(jax.devices()[:1]), sgd(_schedule)

  def temporary(lowered):
    return lowered.compile(QUICK).memory_analysis().temp_size_in_bytes

  def lowered(widths):
    model = create_model('resnet14', num_classes=1000, widths=widths)
    step = make_train_step(model, Classification(), optimizer, _schedule, mesh)
    arguments = _abstract(model, optimizer, mesh, 16, 64)
    return model, arguments, step.lower(*arguments)

  model, arguments, one = lowered((1.0,))
  # Those that carry the gradient on: the next is the largest of them.
  _, _, two = lowered((0.75, 1.0))

  def ordinary_step(state, batch):
    def loss_fn(trainable):
      logits, new = model.apply(
        {
          'params': trainable['params'],
          'norm': trainable['norm']['w100'],
          'batch_stats': state.variables['batch_stats']['w100'],
        },
        batch['image'],
        width=1.0,
        train=True,
        mutable=['batch_stats'],
      )
      losses = cross_entropy(logits, batch['label'])
      return losses.mean(), {'w100': new['batch_stats']}

    trainable = trained(state.variables)
    gradients, batch_stats = jax.grad(loss_fn, has_aux=True)(trainable)
    updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
    return TrainState(
      step=state.step + 1,
      variables={
        **optax.apply_updates(trainable, updates),
        'batch_stats': batch_stats,
      },
      opt_state=opt_state,
    )

  ordinary = temporary(
    jax.jit(ordinary_step, donate_argnums=0).lower(*arguments)
  )
  # The widest's program is the same however many follow it.
  code = [step['gradient/w100'].as_text() for step in (one, two)]
  assert code[0] == code[1]
  widest = temporary(two['gradient/w100'])
  next_widest = temporary(two['gradient/w075'])
  update = temporary(two['update'])
  assert max(widest, next_widest, update) <= 1.15 * ordinary
  # Beside our own program of the widest: ResNet's kernels are large beside its
  # activations here, and the next program holds their slices.
  assert max(next_widest, update) <= 1.25 * widest


def test_three_steps_and_two_evaluations_compile_each_program_once(caplog):
  widths = (0.125, 0.25)
  model, optimizer, mesh = _model(widths), sgd(_schedule), data_mesh()
  variables = init(model, jax.random.key(0), image_size=SIZE)
  state = replicate(TrainState.create(variables, optimizer), mesh)
  step = make_train_step(
    model, Classification(), optimizer, _schedule, mesh, augment=_augment
  )
  evaluate = {
    width: make_eval_step(model.clone(widths=(width,)), Classification(), mesh)
    for width in widths
  }
  batch = _batch(np.float32)

  def compiled(function):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
      function()
    names = re.findall(r'Compiling jit\((\w+)\)', caplog.text)
    ours = ('prepare', 'gradient', 'update', 'evaluate')
    return {name: names.count(name) for name in ours if name in names}

  def steps(count):
    nonlocal state
    for _ in range(count):
      state, _ = step(state, shard(batch, mesh))

  def evaluations():
    for width, program in evaluate.items():
      _, weights = extract(model, state.variables, width=width)
      masked = {**batch, 'mask': np.ones(BATCH, bool)}
      program(weights, shard(masked, mesh))

  assert compiled(lambda: steps(3)) == {
    'prepare': 1,
    'gradient': 2,
    'update': 1,
  }
  assert compiled(evaluations) == {'evaluate': 2}
  assert compiled(lambda: steps(1)) == {}
  assert compiled(evaluations) == {}


def test_the_state_is_donated_and_what_it_was_made_of_is_not():
  model, optimizer, mesh = _model((0.125,)), sgd(_schedule), data_mesh()
  variables = init(model, jax.random.key(0), image_size=SIZE)
  state = replicate(TrainState.create(variables, optimizer), mesh)
  step = make_train_step(model, Classification(), optimizer, _schedule, mesh)
  step(state, shard(_batch(np.float32), mesh))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.variables['params']))
  assert not any(x.is_deleted() for x in jax.tree.leaves(variables))
