"""What a run is made of: everything a configuration names, built."""

from collections.abc import Callable
import dataclasses

import jax
import optax

from slimjax import configuration
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.tasks import Task
from slimjax.training import processes
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.plans import WidthPlan
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_model
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task
from slimjax.training.state import TrainState
from slimjax.variables import init
from slimjax.variables import Variables

Initial = Callable[[SlimNet, Variables], Variables]


@dataclasses.dataclass(frozen=True)
class Setup:
  """What the configuration names, built.

  Attributes:
    run: the configuration.
    mesh: of all devices.
    dataset: to train on.
    model: to train.
    task: what it is trained for.
    plan: which widths each step has.
    optimizer: with the schedule in it.
    schedule: learning rate by step.
    steps_per_epoch: whole batches of the training split.
  """

  run: configuration.Run
  mesh: jax.sharding.Mesh
  dataset: Dataset
  model: SlimNet
  task: Task
  plan: WidthPlan
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  steps_per_epoch: int

  @property
  def total_steps(self) -> int:
    return self.run.epochs * self.steps_per_epoch


def set_up(
  run: configuration.Run, last: optax.GradientTransformation | None
) -> Setup:
  """Builds everything; errors come before anything is written."""
  mesh = data_mesh()
  if run.batch_size % mesh.size:
    raise ValueError(
      f'config.batch_size {run.batch_size} does not divide among {mesh.size}'
      f' devices; try {-(-run.batch_size // mesh.size) * mesh.size}'
    )
  dataset = processes.together(lambda: build_dataset(run))
  examples = len(dataset.splits['train'])
  steps_per_epoch = examples // run.batch_size
  if not steps_per_epoch:
    raise ValueError(
      f'config.batch_size {run.batch_size} must be between 1 and the'
      f' {examples} training examples'
    )
  model = build_model(run)
  if model.axis_name not in (None, AXIS):
    raise ValueError(
      f'config.model.axis_name must be {AXIS!r} (synchronised batch norm) or'
      f' None, got {model.axis_name!r}'
    )
  task = build_task(run)
  task.check(model, dataset)
  schedule = configuration.call(
    create_schedule,
    'config.schedule',
    run.schedule,
    total_epochs=run.epochs,
    steps_per_epoch=steps_per_epoch,
  )
  optimizer = configuration.call(
    sgd, 'config.optimizer', run.optimizer, schedule=schedule
  )
  return Setup(
    run=run,
    mesh=mesh,
    dataset=dataset,
    model=model,
    task=task,
    plan=build_plan(run, model),
    optimizer=optimizer if last is None else optax.chain(optimizer, last),
    schedule=schedule,
    steps_per_epoch=steps_per_epoch,
  )


def new_state(setup: Setup, initial: Initial | None) -> TrainState:
  """Returns the state before the first step, on every device."""
  image = setup.task.example(setup.dataset)['image']
  variables: Variables = init(
    setup.model,
    jax.random.key(setup.run.seed),
    image_size=tuple(image.shape[1:3]),
  )
  if initial is not None:
    variables = initial(setup.model, variables)
  return replicate(TrainState.create(variables, setup.optimizer), setup.mesh)
