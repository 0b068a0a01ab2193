"""Builds what a run is made of: everything a configuration names."""

from collections.abc import Callable
import dataclasses

import jax
import optax

from slimjax import configuration
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.tasks import Task
from slimjax.tasks.base import image_size
from slimjax.training import processes
from slimjax.training.initial import create_init
from slimjax.training.initial import Init
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.parts import find_parts
from slimjax.training.parts import partly
from slimjax.training.parts import Parts
from slimjax.training.plans import check_random
from slimjax.training.plans import WidthPlan
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_model
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task
from slimjax.training.runs import with_classes
from slimjax.training.state import TrainState
from slimjax.training.weights import begin
from slimjax.variables import init
from slimjax.variables import Variables
from slimjax.variables.fitting import Taken
from slimjax.widths import label

# (model, variables as drawn) -> those to begin with
Initial = Callable[[SlimNet, Variables], Variables]


@dataclasses.dataclass(frozen=True)
class Setup:
  """What the configuration names, built.

  Attributes:
    run: the configuration.
    mesh: mesh of all devices.
    dataset: data set to train on.
    model: network to train.
    task: task that it is trained for.
    plan: plan that gives each step its widths.
    optimizer: optimiser, with the schedule in it.
    schedule: learning rate by step.
    steps_per_epoch: number of whole batches of the training split.
    init: the section `init`, which says where the run begins.
    parts: parts of the network that are frozen or have a rate of their own.
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
  init: Init
  parts: Parts

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
  run = with_classes(run, dataset)
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
  section = configuration.call(create_init, 'config.init', run.init)
  parts = find_parts(model, section.freeze, section.rate_factors)
  plan = build_plan(run, model)
  if getattr(plan, 'random', 0):
    check_random(model, parts.frozen)
  optimizer = configuration.call(
    sgd, 'config.optimizer', run.optimizer, schedule=schedule
  )
  optimizer = partly(optimizer, parts)
  return Setup(
    run=run,
    mesh=mesh,
    dataset=dataset,
    model=model,
    task=task,
    plan=plan,
    optimizer=optimizer if last is None else optax.chain(optimizer, last),
    schedule=schedule,
    steps_per_epoch=steps_per_epoch,
    init=section,
    parts=parts,
  )


def new_state(
  setup: Setup,
  initial: Initial | None,
  say: Callable[[str], None],
  *,
  resumes: bool = False,
) -> TrainState:
  """Returns the state before the first step, on every device.

  Args:
    setup: objects that the configuration of the run names.
    initial: see `train_and_evaluate`.
    say: function that is told what was taken from where.
    resumes: whether a checkpoint takes its place, so that neither the source
      nor `initial` is asked; default: no.
  """
  variables: Variables = init(
    setup.model,
    jax.random.key(setup.run.seed),
    image_size=image_size(setup.task, setup.dataset),
  )
  if not resumes and setup.init.source is not None:
    variables = processes.together(lambda: _begun(setup, variables, say))
  if not resumes and initial is not None:
    variables = initial(setup.model, variables)
  return replicate(TrainState.create(variables, setup.optimizer), setup.mesh)


def _begun(
  setup: Setup, drawn: Variables, say: Callable[[str], None]
) -> Variables:
  """Returns the variables with the weights of the source."""

  def tell(taken: Taken) -> None:
    say(str(taken))
    frozen = {path[1] for path in setup.parts.frozen if path[0] == 'norm'}
    held = [w for w in taken.norms if setup.model.switch(w) in frozen]
    if held:
      say(
        f'the frozen norms of {", ".join(map(label, held))} are of a wider'
        ' width, whose statistics do not fit: do not freeze them, or begin with'
        ' what slimjax.make_slimmable gives with batches'
      )

  return begin(
    setup.model,
    setup.init.source,
    drawn,
    sort=setup.init.sort,
    epsilon=setup.init.epsilon,
    report=tell,
  )
