"""What a step compiles: reductions, memory, donation."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from step_net import add_noise
from step_net import BATCH
from step_net import make_batch
from step_net import make_model
from step_net import schedule
from step_net import SIZE

from slimjax.models import create_model
from slimjax.tasks.classification import Classification
from slimjax.tasks.losses import cross_entropy
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

COLLECTIVE = re.compile(
  r' (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)'
  r'(?:-start)?\('
)


def _abstract(model, optimizer, mesh, batch, size):
  """Shapes of a state and a batch: nothing is allocated."""
  state = jax.eval_shape(
    lambda: TrainState.create(
      init(model, jax.random.key(0), image_size=size), optimizer
    )
  )
  batch = make_batch(np.float32, batch, size)
  return _described(state, mesh), _described(batch, mesh, AXIS)


def _described(tree, mesh, *axes):
  sharding = jax.NamedSharding(mesh, jax.P(*axes))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _reductions(model):
  """Sizes in each all-reduce of `update`, and those of what it averages."""
  mesh, optimizer = data_mesh(), sgd(schedule)
  step = make_train_step(model, Classification(), optimizer, schedule, mesh)
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
    found, size = _reductions(make_model(widths))
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
  mesh, optimizer = data_mesh(jax.devices()[:1]), sgd(schedule)

  def temporary(lowered):
    return lowered.compile(QUICK).memory_analysis().temp_size_in_bytes

  def lowered(widths):
    model = create_model('resnet14', num_classes=1000, widths=widths)
    step = make_train_step(model, Classification(), optimizer, schedule, mesh)
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
  model, optimizer, mesh = make_model(widths), sgd(schedule), data_mesh()
  variables = init(model, jax.random.key(0), image_size=SIZE)
  state = replicate(TrainState.create(variables, optimizer), mesh)
  step = make_train_step(
    model, Classification(), optimizer, schedule, mesh, augment=add_noise
  )
  evaluate = {
    width: make_eval_step(model.clone(widths=(width,)), Classification(), mesh)
    for width in widths
  }
  batch = make_batch(np.float32)

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
  model, optimizer, mesh = make_model((0.125,)), sgd(schedule), data_mesh()
  variables = init(model, jax.random.key(0), image_size=SIZE)
  state = replicate(TrainState.create(variables, optimizer), mesh)
  step = make_train_step(model, Classification(), optimizer, schedule, mesh)
  step(state, shard(make_batch(np.float32), mesh))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.variables['params']))
  assert not any(x.is_deleted() for x in jax.tree.leaves(variables))


def test_a_state_is_drawn_by_few_programs():
  """Not by one for the shape of every leaf, of every width."""
  jax.clear_caches()
  model = create_model('resnet14', num_classes=3, widths=(0.0625, 0.125))
  optimizer = sgd(schedule, weight_decay=0.1)
  compiled = []

  def listen(event, *_, **__):
    compiled.append(event.endswith('backend_compile_duration'))

  jax.monitoring.register_event_duration_secs_listener(listen)
  variables = init(model, jax.random.key(0), image_size=32)
  replicate(TrainState.create(variables, optimizer), data_mesh())
  jax.monitoring.unregister_event_duration_listener(listen)
  assert 0 < sum(compiled) <= 8
