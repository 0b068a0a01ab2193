"""The training loop: the only one, whatever is trained at whichever widths.

`train_and_evaluate` is a list of phases: what the configuration names is built,
a run of the workdir is found and restored, steps are taken, the end is told.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import time
from typing import Any

from etils import epath
import jax
import numpy as np
import optax

from slimjax import configuration
from slimjax.data.batches import Corrupt
from slimjax.data.batches import Share
from slimjax.data.dataset import Dataset
from slimjax.data.prefetch import Prefetched
from slimjax.models.net import SlimNet
from slimjax.tasks import Task
from slimjax.training import processes
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.checkpoint import set_damaged_aside
from slimjax.training.evaluator import Evaluator
from slimjax.training.log import MetricsWriter
from slimjax.training.log import NonFiniteError
from slimjax.training.log import TrainLog
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.plans import WidthPlan
from slimjax.training.progress import Clock
from slimjax.training.progress import Progress
from slimjax.training.progress import say_plan
from slimjax.training.progress import Trace
from slimjax.training.results import plot_results
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.training.results import results_of
from slimjax.training.results import Scores
from slimjax.training.results import write_results
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_model
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task
from slimjax.training.runs import CONFIG
from slimjax.training.runs import defaults
from slimjax.training.runs import read_config
from slimjax.training.state import TrainState
from slimjax.training.steps import AXIS
from slimjax.training.steps import data_mesh
from slimjax.training.steps import make_train_step
from slimjax.training.steps import replicate
from slimjax.training.steps import shard
from slimjax.training.steps import TrainStep
from slimjax.variables import init
from slimjax.variables import Variables
from slimjax.widths import label
from slimjax.widths import Width

Initial = Callable[[SlimNet, Variables], Variables]


def train_and_evaluate(
  config: Mapping[str, Any],
  workdir: epath.PathLike,
  *,
  profile_steps: int = 0,
  initial: Initial | None = None,
  last: optax.GradientTransformation | None = None,
  on_metrics: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Result] | None:
  """Trains to the end of the configuration, evaluating on the way.

  A run that was stopped resumes from its last whole checkpoint, and ends as if
  it had not been stopped. Every process calls this; process 0 writes.

  Args:
    config: a configuration such as configs/digits.py gives.
    workdir: folder for config.json, checkpoints/, metrics.jsonl, tensorboard/,
      results.json and error_vs_macs.png; on storage that all hosts share.
    profile_steps: number of steps to trace into WORKDIR/profile; 0 traces none.
    initial: (model, variables as drawn) -> those to begin with, such as another
      run's. Give the same when the run resumes.
    last: transforms the optimiser's updates, such as to freeze some.
    on_metrics: called in process 0 with every record that is written to
      metrics.jsonl, to feed an experiment tracker.

  Returns:
    The rows of the table, thinnest width first; None if SIGTERM came.

  Raises:
    ValueError: the configuration has errors, or is not that of the run in
      `workdir`, or another run is at work there.
    NonFiniteError: the training diverged.
  """
  start = time.perf_counter()
  run = configuration.parse(config)
  workdir = epath.Path(workdir)
  keep_compiled(run.compilation_cache_dir)
  setup = _set_up(run, last)
  if processes.is_primary():
    say_plan(run, setup.dataset, setup.model, setup.plan, setup.steps_per_epoch)
  state = _new_state(setup, initial)
  with contextlib.ExitStack() as stack:
    session = _open(stack, setup, workdir, config, state, on_metrics)
    evaluator = Evaluator(
      setup.model,
      setup.task,
      setup.mesh,
      setup.dataset,
      widths=setup.model.ordered_widths,
      batch_size=run.eval_batch_size,
      say=session.progress.say,
    )
    scores = clock = None
    if session.first_step < setup.total_steps:
      trainer = _Trainer(setup, session, evaluator, start, profile_steps)
      if not trainer.train(stack):
        return None
      scores, clock = trainer.scores, trainer.clock
    session.checkpoints.wait()
    if scores is None:  # the run was over before
      scores = evaluator(session.state.variables)
    return _finish(setup, session, scores, clock)


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


def _set_up(
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


def _new_state(setup: Setup, initial: Initial | None) -> TrainState:
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


@dataclasses.dataclass
class Session:
  """A run's open files, and where it stands.

  Attributes:
    workdir: of the run.
    checkpoints: of the run.
    writer: of its metrics.
    progress: what it shows.
    state: the newest; a step donates it.
    first_step: optimiser steps done before.
    best: the least validation error so far.
    sums: training metrics not yet written; see `TrainLog.state`.
  """

  workdir: epath.Path
  checkpoints: Checkpoints
  writer: MetricsWriter
  progress: Progress
  state: TrainState
  first_step: int = 0
  best: float = math.inf
  sums: Mapping[str, Any] | None = None

  def write(self, records: list[dict[str, Any]]) -> None:
    """Writes and shows records, those of a step together."""
    for _, group in itertools.groupby(records, lambda r: r['step']):
      lines = list(group)
      self.writer.write(lines)
      self.progress.line(lines)


def _open(
  stack: contextlib.ExitStack,
  setup: Setup,
  workdir: epath.Path,
  config: Mapping[str, Any],
  state: TrainState,
  on_metrics: Callable[[dict[str, Any]], Any] | None,
) -> Session:
  """Claims the workdir, and restores the run that is in it."""
  primary = processes.is_primary()
  if primary:
    lock = processes.exclusive(workdir)
    processes.together(lambda: stack.enter_context(lock))
  else:
    processes.together(lambda: None)
  changes = claim(workdir, config)
  damaged = processes.together(lambda: set_aside(workdir))
  checkpoints = stack.enter_context(Checkpoints(workdir / 'checkpoints'))
  first_step, best, sums = 0, math.inf, None
  if checkpoints.latest is not None:
    first_step = checkpoints.latest
    state, position = checkpoints.restore(first_step, state)
    sums = position['window']
    best = math.inf if position['best'] is None else position['best']
  writer = stack.enter_context(
    MetricsWriter(
      workdir, first_step=first_step, enabled=primary, on_metrics=on_metrics
    )
  )
  progress = stack.enter_context(
    Progress(
      setup.total_steps,
      first_step,
      headline=setup.task.metrics[0],
      enabled=primary,
    )
  )
  for line in damaged:
    progress.say(line)
  if first_step:
    progress.say(f'resuming from the checkpoint of step {first_step}')
    for line in changes:
      progress.say(f'changed from here on: {line}')
  return Session(
    workdir, checkpoints, writer, progress, state, first_step, best, sums
  )


class _Trainer:
  """Takes the steps of a session.

  Attributes:
    scores: of the last evaluation; None before the first.
    clock: of the time the steps took.
  """

  def __init__(
    self,
    setup: Setup,
    session: Session,
    evaluator: Evaluator,
    start: float,
    profile_steps: int,
  ):
    self._setup = setup
    self._session = session
    self._evaluator = evaluator
    self._start = start
    self._trace = Trace(
      session.workdir / 'profile', session.first_step, profile_steps
    )
    self._corrupt = Corrupt(setup.dataset.max_corrupt)
    self.scores: Scores | None = None
    self.clock: Clock

  def train(self, stack: contextlib.ExitStack) -> bool:
    """Trains to the last step; returns False if SIGTERM came before."""
    setup, session = self._setup, self._session
    batches = self._read(stack)
    self.clock = Clock(session.first_step, lambda: batches.waited)
    log = self._make_log()
    stop = stack.enter_context(processes.Stop())
    step_fn = None
    for step in range(session.first_step + 1, setup.total_steps + 1):
      batch = next(batches)
      if step_fn is None:
        step_fn = self._compile(batch)
      self._trace.before(step, wait=lambda: session.write(log.read()))
      widths = setup.plan(step - 1)
      session.state, metrics = step_fn(session.state, batch, widths)
      session.write(log.add(step, metrics))
      session.progress.step(step)
      stopping = stop.after(step) or step == setup.total_steps
      if self._evaluates(step) or stopping:
        session.write(log.read())  # only what is finite is scored and saved
        with self.clock.paused():
          self._corrupt.check(processes.gather)
          self._save(step, log)
      if stopping and step < setup.total_steps:
        session.checkpoints.wait()
        session.progress.say(
          f'SIGTERM: saved step {step}; the same command resumes'
        )
        return False
    self._trace.end()
    return True

  def _read(self, stack: contextlib.ExitStack) -> Prefetched:
    setup = self._setup
    return stack.enter_context(
      Prefetched(
        setup.dataset.train_batches(
          setup.run.batch_size,
          seed=setup.run.seed,
          steps=range(self._session.first_step, setup.total_steps),
          share=Share(jax.process_index(), jax.process_count()),
          corrupt=self._corrupt,
        ),
        functools.partial(shard, mesh=setup.mesh),
      )
    )

  def _make_log(self) -> TrainLog:
    setup, run, session = self._setup, self._setup.run, self._session

    def record(step: int) -> dict[str, Any] | None:
      if step % run.log_every_steps and step != setup.total_steps:
        return None
      epoch = step / setup.steps_per_epoch
      return {'epoch': epoch, **self.clock.read(step, run.batch_size)}

    widths = setup.plan.widths[::-1]
    return TrainLog(
      setup.task,
      {setup.model.switch(width): width for width in widths},
      record=record,
      last_good=session.checkpoints.wait,
      state=session.sums,
    )

  def _compile(self, batch: Any) -> TrainStep:
    setup, say = self._setup, self._session.progress.say
    before = time.perf_counter()
    step = make_train_step(
      setup.model,
      setup.task,
      setup.optimizer,
      setup.schedule,
      setup.mesh,
      widths=setup.plan.widths,
      seed=setup.run.seed,
      augment=setup.dataset.augment,
    ).compile(self._session.state, batch, say)
    now = time.perf_counter()
    say(
      f'the first step starts after {now - self._start:.1f} s, of which'
      f' {now - before:.1f} s compiled it'
    )
    self.clock.start()
    return step

  def _evaluates(self, step: int) -> bool:
    setup = self._setup
    every = setup.run.eval_every_epochs * setup.steps_per_epoch
    return step % every == 0 or step == setup.total_steps

  def _save(self, step: int, log: TrainLog) -> None:
    """Scores the state if it is time to, and saves it."""
    setup, session = self._setup, self._session
    error = None
    if self._evaluates(step):
      self.scores = self._evaluator(session.state.variables)
      epoch = step / setup.steps_per_epoch
      session.write(validation_records(self.scores, step, epoch))
      error = mean_error(setup.task, self.scores)
      session.best = min(session.best, error)
    position = {
      'window': log.state(),
      'best': session.best if math.isfinite(session.best) else None,
    }
    session.checkpoints.save(step, session.state, position, error)


def _finish(
  setup: Setup, session: Session, scores: Scores, clock: Clock | None
) -> list[Result]:
  """Tells the end of a run, and returns its table."""
  run, task = setup.run, setup.task
  results = results_of(setup.model, task, scores, setup.dataset.image_size)
  if clock is not None:
    macs = sum(result.profile.macs for result in results)
    devices = list(setup.mesh.devices.flat)
    for line in clock.summary(run.batch_size, macs, devices):
      session.progress.say(line)
  if processes.is_primary():
    name = run.model['name']
    write_results(results, session.workdir)
    plot_results(
      results,
      task.metrics[0],
      session.workdir / 'error_vs_macs.png',
      f'{name}, one set of weights, on {setup.dataset.name}',
    )
    session.progress.close()
    print_results(results, task.metrics, f'{name} on {setup.dataset.name}')
  return results


def keep_compiled(folder: str | None) -> None:
  """Keeps compiled programs in a folder, unless jax keeps them already."""
  kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if folder and kept is None:
    path = epath.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))


def claim(workdir: epath.Path, config: Mapping[str, Any]) -> list[str]:
  """Writes the configuration; refuses a workdir that holds another run.

  Returns:
    A line for each value that is allowed to change and did.
  """
  path = workdir / CONFIG
  new = configuration.as_plain(config)

  def check() -> list[str]:
    old = read_config(workdir)
    if old is None or not has_checkpoints(workdir):
      return []
    found = configuration.differences(old, new, defaults(new))
    if found.refused:
      raise ValueError(
        f'{workdir} holds a run with another configuration, which cannot resume'
        ' with this one:\n  '
        + '\n  '.join(found.refused)
        + '\nTake another --workdir, or the configuration as it was.'
      )
    return found.said

  def write() -> None:
    if processes.is_primary():
      configuration.write(new, path)

  def shared() -> None:
    if not path.exists() or json.loads(path.read_text()) != new:
      raise ValueError(
        f'{workdir} is not the folder that process 0 wrote to: the workdir must'
        ' be on storage that all hosts share, such as gs:// or NFS'
      )

  changes = processes.together(check)
  for phase in (write, shared):
    processes.together(phase)
  return changes


def has_checkpoints(workdir: epath.Path) -> bool:
  """Returns whether a run saved anything."""
  folder = workdir / 'checkpoints'
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def set_aside(workdir: epath.Path) -> list[str]:
  """Returns what process 0 says of damaged checkpoints."""
  if not processes.is_primary():
    return []
  return set_damaged_aside(workdir / 'checkpoints')


def mean_error(task: Task, scores: Scores) -> float:
  """Returns what decides the best checkpoint: the mean over the widths."""
  headline = task.metrics[0]
  errors = [headline.error(s[headline.name]) for s in scores.values()]
  return float(np.mean(errors))


def validation_records(
  scores: Mapping[Width, Mapping[str, float]], step: int, epoch: float
) -> list[dict[str, Any]]:
  """Returns one record per width, thinnest first.

  Raises:
    NonFiniteError: a score is infinite or not a number.
  """
  for width, of_width in scores.items():
    for name, value in of_width.items():
      if not math.isfinite(value):
        raise NonFiniteError(
          f'step {step}: the validation {name} of width {label(width)} is'
          f' {value}'
        )
  return [
    {
      'split': 'validation',
      'step': step,
      'epoch': epoch,
      'width': width,
      **of_width,
    }
    for width, of_width in scores.items()
  ]
