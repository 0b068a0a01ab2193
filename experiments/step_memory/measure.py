"""Measures the memory of a training step over four widths, on any device.

    python experiments/step_memory/measure.py [--models mobilenet_v1,resnet50]

Compiles the programs and reads the compiler's own memory analysis; nothing is
run. See README.md.
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import slimjax
from slimjax.tasks import Classification
from slimjax.tasks.losses import cross_entropy
from slimjax.training import mesh as placing
from slimjax.training import optim
from slimjax.training import steps
from slimjax.training.state import trained
from slimjax.training.state import TrainState

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def shapes(model, optimizer, mesh, batch_size, image_size):
  """Returns the state and a batch, as shapes on the mesh."""
  variables = jax.eval_shape(
    lambda: slimjax.init(model, jax.random.key(0), image_size=image_size)
  )
  state = jax.eval_shape(
    lambda variables: TrainState.create(variables, optimizer), variables
  )
  images = (batch_size, image_size, image_size, 3)
  batch = {
    'image': jax.ShapeDtypeStruct(images, jnp.float32),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }

  def on(tree, spec):
    sharding = jax.sharding.NamedSharding(mesh, spec)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  split = jax.sharding.PartitionSpec(placing.AXIS)
  return on(state, jax.sharding.PartitionSpec()), on(batch, split)


def ordinary_step(model, optimizer):
  """Returns a step of the widest alone, as written for an ordinary network."""
  switch = model.switch(1.0)

  def step(state, batch):
    def loss_fn(trainable):
      logits, new = model.apply(
        {
          'params': trainable['params'],
          'norm': trainable['norm'][switch],
          'batch_stats': state.variables['batch_stats'][switch],
        },
        batch['image'],
        width=1.0,
        train=True,
        mutable=['batch_stats'],
      )
      loss = cross_entropy(logits, batch['label']).mean()
      return loss, {switch: new['batch_stats']}

    old = trained(state.variables)
    gradients, stats = jax.grad(loss_fn, has_aux=True)(old)
    updates, opt_state = optimizer.update(gradients, state.opt_state, old)
    new = optax.apply_updates(old, updates)
    return TrainState(
      step=state.step + 1,
      variables={**new, 'batch_stats': stats},
      opt_state=opt_state,
    )

  return jax.jit(step, donate_argnums=0)


def joint_gradient(model):
  """Returns the gradient of all widths in one program, for comparison."""

  def gradient(state, batch):
    def loss_fn(trainable):
      total = 0.0
      for width in WIDTHS[::-1]:
        switch = model.switch(width)
        logits, _ = model.apply(
          {
            'params': trainable['params'],
            'norm': trainable['norm'][switch],
            'batch_stats': state.variables['batch_stats'][switch],
          },
          batch['image'],
          width=width,
          train=True,
          mutable=['batch_stats'],
        )
        total += cross_entropy(logits, batch['label']).mean()
      return total

    return jax.grad(loss_fn)(trained(state.variables))

  return jax.jit(gradient)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', default='mobilenet_v1,resnet50')
  parser.add_argument('--image_size', type=int, default=64)
  parser.add_argument('--batch_size', type=int, default=16)
  arguments = parser.parse_args()
  mesh = placing.data_mesh(jax.devices()[:1])
  schedule = optax.constant_schedule(0.1)
  optimizer = optim.sgd(schedule)
  task = Classification()
  for name in arguments.models.split(','):
    size = (arguments.batch_size, arguments.image_size)
    alone = slimjax.create_model(name, num_classes=1000, widths=(1.0,))
    slim = slimjax.create_model(name, num_classes=1000, widths=WIDTHS)
    inputs = shapes(slim, optimizer, mesh, *size)
    programs = {
      'widest alone, one program': ordinary_step(alone, optimizer).lower(
        *shapes(alone, optimizer, mesh, *size)
      ),
      **{
        f'widest alone, {program}': lowered
        for program, lowered in steps.make_train_step(
          alone, task, optimizer, schedule, mesh
        )
        .lower(*shapes(alone, optimizer, mesh, *size))
        .items()
      },
      'four widths, one program': joint_gradient(slim).lower(*inputs),
      **steps.make_train_step(slim, task, optimizer, schedule, mesh).lower(
        *inputs
      ),
    }
    title = f'{name}, batch {size[0]} at {size[1]} px, {mesh.devices.flat[0]}'
    table = Table(
      'program', 'temporary, MB', 'of the widest alone', title=title
    )
    base = None
    for program, lowered in programs.items():
      memory = lowered.compile().memory_analysis().temp_size_in_bytes
      base = memory if base is None else base
      table.add_row(program, f'{memory / 1e6:.1f}', f'{memory / base:.2f}')
    Console().print(table)


if __name__ == '__main__':
  main()
