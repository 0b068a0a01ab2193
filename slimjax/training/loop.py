"""The training loop: the only one, whatever is trained at whichever widths.

`train_and_evaluate` is a list of phases: what the configuration names is built,
a run of the workdir is found and restored, steps are taken, the end is told.
"""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import functools
import math
import time
from typing import Any

from etils import epath
import jax
import optax
import rich

from slimjax import configuration
from slimjax import files
from slimjax.data import workers
from slimjax.data.batches import Batch
from slimjax.data.batches import Corrupt
from slimjax.data.batches import Share
from slimjax.data.prefetch import Prefetched
from slimjax.training import processes
from slimjax.training.compiling import alive
from slimjax.training.compiling import quiet
from slimjax.training.evaluator import Evaluator
from slimjax.training.log import TrainLog
from slimjax.training.mesh import shapes_of
from slimjax.training.mesh import shard
from slimjax.training.parts import describe_parts
from slimjax.training.progress import Clock
from slimjax.training.progress import say_plan
from slimjax.training.progress import Trace
from slimjax.training.results import mean_error
from slimjax.training.results import plot_results
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.training.results import results_of
from slimjax.training.results import Scores
from slimjax.training.results import validation_records
from slimjax.training.results import write_details
from slimjax.training.results import write_results
from slimjax.training.session import changes_of
from slimjax.training.session import has_checkpoints
from slimjax.training.session import open_session
from slimjax.training.session import Session
from slimjax.training.setup import Initial
from slimjax.training.setup import new_state
from slimjax.training.setup import set_up
from slimjax.training.setup import Setup
from slimjax.training.steps import make_train_step
from slimjax.training.steps import TrainStep
from slimjax.widths import Width


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
      results.json, error_vs_macs.png and what the task tells (confusion.json);
      on storage that all hosts share.
    profile_steps: number of steps to trace into WORKDIR/profile; default: 0.
    initial: (model, variables) -> those to begin with, from those as drawn, or
      of `config.init.source`; not called when the run resumes. Default: none.
    last: transformation of the optimiser's updates, such as one that freezes
      some; default: none.
    on_metrics: function that process 0 calls with every record that is written
      to metrics.jsonl, to feed an experiment tracker; default: none.

  Returns:
    The rows of the table, thinnest width first; None if SIGTERM or Ctrl-C came.

  Raises:
    ValueError: the configuration has errors, or is not that of the run in
      `workdir`, or another run is at work there, or none of its checkpoints is
      whole.
    OSError: something cannot be read or written now; nothing is lost.
    SaveError: a checkpoint could not be saved; the ones before are.
    NonFiniteError: the training diverged.
  """
  workers.refuse_import()
  start = time.perf_counter()
  run = configuration.parse(config)
  workdir = files.expand(workdir, 'workdir')
  keep_compiled(run.compilation_cache_dir)
  say = functools.partial(print, flush=True)
  told = say if processes.is_primary() else quiet
  with alive(told, lambda: 'reading the data and building the network'):
    setup = set_up(run, last)
  # What was found in the data is kept as if it had been given.
  config = {**configuration.as_plain(config), 'model': setup.run.model}
  with alive(told, lambda: 'comparing with the run that is in the workdir'):
    processes.together(lambda: changes_of(workdir, config, setup.dataset))
  if processes.is_primary():
    with alive(told, lambda: 'counting what every width costs'):
      say_plan(
        run,
        setup.dataset,
        setup.task,
        setup.model,
        setup.plan,
        setup.steps_per_epoch,
      )
  for line in describe_parts(setup.model, setup.parts):
    told(line)
  told('drawing the weights')
  with alive(told, lambda: 'drawing the weights'):
    resumes = processes.together(lambda: has_checkpoints(workdir))
    state = new_state(setup, initial, told, resumes=resumes)
  with contextlib.ExitStack() as stack:
    session = open_session(stack, setup, workdir, config, state, on_metrics)
    evaluator = Evaluator(
      setup.model,
      setup.task,
      setup.mesh,
      setup.dataset,
      widths=setup.model.ordered_widths,
      batch_size=run.eval_batch_size,
      say=session.progress.say,
    )
    totals = clock = None
    if session.first_step < setup.total_steps:
      trainer = _Trainer(setup, session, evaluator, start, profile_steps)
      if not trainer.train(stack):
        return None
      totals, clock = trainer.totals, trainer.clock
    session.checkpoints.wait()
    if totals is None:  # the run was over before
      totals = evaluator.totals(session.state.variables)
    return _finish(setup, session, totals, evaluator.scores(totals), clock)


class _Trainer:
  """Takes the steps of a session.

  Attributes:
    totals: totals of the last evaluation; None before the first.
    clock: clock of the time that the steps took.
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
    self._steps: dict[Any, TrainStep] = {}  # by shapes of a batch
    self.totals: Mapping[Width, Any] | None = None
    self.clock: Clock

  def train(self, stack: contextlib.ExitStack) -> bool:
    """Trains to the last step; returns False if it was stopped before."""
    setup, session = self._setup, self._session
    batches = self._read(stack)
    self.clock = Clock(session.first_step, lambda: batches.waited)
    log = self._make_log()
    stop = stack.enter_context(processes.Stop())
    timer = processes.Timer(
      setup.run.checkpoint_every_minutes,
      every_steps=setup.run.log_every_steps,
    )
    for step in range(session.first_step + 1, setup.total_steps + 1):
      batch = next(batches)
      step_fn = self._step_of(batch)
      self._trace.before(step, wait=lambda: session.write(log.read()))
      widths = setup.plan(step - 1)
      session.state, metrics = step_fn(session.state, batch, widths)
      session.write(log.add(step, metrics))
      session.progress.step(step)
      stopping = stop.after(step) or step == setup.total_steps
      if self._evaluates(step) or stopping or timer.due(step):
        session.write(log.read())  # only what is finite is scored and saved
        with self.clock.paused():
          self._corrupt.check(processes.gather)
          self._save(step, log)
        timer.saved()
      if stopping and step < setup.total_steps:
        session.checkpoints.wait()
        session.progress.say(
          f'{stop.reason}: saved step {step}; the same command resumes'
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

  def _step_of(self, batch: Batch) -> TrainStep:
    """Returns the step of batches of these shapes, compiled the first time."""
    shapes = shapes_of(batch)
    if not self._steps:
      self._steps[shapes] = self._compile(batch)
      self.clock.start()
    elif shapes not in self._steps:
      with self.clock.paused():
        self._steps[shapes] = self._compile(batch)
    return self._steps[shapes]

  def _compile(self, batch: Batch) -> TrainStep:
    setup, say = self._setup, self._session.progress.say
    before = time.perf_counter()
    step = make_train_step(
      setup.model,
      setup.task,
      setup.optimizer,
      setup.schedule,
      setup.mesh,
      widths=setup.plan.widths,
      bounds=getattr(setup.plan, 'bounds', ()),
      random=getattr(setup.plan, 'random', 0),
      seed=setup.run.seed,
      augment=setup.dataset.augment,
      frozen=setup.parts.frozen,
    ).compile(self._session.state, batch, say)
    now = time.perf_counter()
    if self._steps:
      height, width = batch['image'].shape[1:3]
      say(f'images of {height} x {width}: compiled in {now - before:.1f} s')
    else:
      say(
        f'the first step starts after {now - self._start:.1f} s, of which'
        f' {now - before:.1f} s compiled it'
      )
    return step

  def _evaluates(self, step: int) -> bool:
    setup = self._setup
    every = setup.run.eval_every_epochs * setup.steps_per_epoch
    return step % every == 0 or step == setup.total_steps

  def _save(self, step: int, log: TrainLog) -> None:
    """Scores the state if it is time to, and saves it."""
    setup, session = self._setup, self._session
    session.require_workdir()
    error = None
    if self._evaluates(step):
      self.totals = self._evaluator.totals(session.state.variables)
      scores = self._evaluator.scores(self.totals)
      epoch = step / setup.steps_per_epoch
      session.write(validation_records(scores, step, epoch))
      error = mean_error(setup.task, scores)
      session.best = min(session.best, error)
    position = {
      'config': session.config,
      'window': log.state(),
      'best': session.best if math.isfinite(session.best) else None,
    }
    session.checkpoints.save(step, session.state, position, error)


def _finish(
  setup: Setup,
  session: Session,
  totals: Mapping[Width, Any],
  scores: Scores,
  clock: Clock | None,
) -> list[Result]:
  """Tells the end of a run, and returns its table."""
  run, task = setup.run, setup.task
  results = results_of(setup.model, task, scores, setup.dataset)
  if clock is not None:
    macs = sum(result.profile.macs for result in results)
    devices = list(setup.mesh.devices.flat)
    for line in clock.summary(run.batch_size, macs, devices):
      session.progress.say(line)
  if processes.is_primary():
    session.require_workdir()
    name = run.model['name']
    write_results(results, session.workdir)
    plot_results(
      results,
      task.metrics[0],
      session.workdir / 'error_vs_macs.png',
      f'{name}, one set of weights, on {setup.dataset.name}',
    )
    details = write_details(task, totals, setup.dataset, session.workdir)
    session.progress.close()
    print_results(results, task.metrics, f'{name} on {setup.dataset.name}')
    for detail in details:
      rich.print(detail)
  return results


def keep_compiled(folder: str | None) -> None:
  """Keeps compiled programs in a folder, unless jax keeps them already.

  Raises:
    ValueError: the folder cannot be made.
  """
  kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if folder is not None and kept is None:
    path = files.expand(folder, 'config.compilation_cache_dir')
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ValueError(
        f'config.compilation_cache_dir {folder!r} cannot be a folder:'
        f' {error.strerror or error}; name another, or None to keep nothing'
      ) from error
    jax.config.update('jax_compilation_cache_dir', str(path))
