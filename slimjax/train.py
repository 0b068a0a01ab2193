"""Trains a slimmable network, or goes on with a run that was stopped.

python -m slimjax.train --config=configs/digits.py --workdir=runs/digits
"""

import collections
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import itertools
import json
import math
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import jax
from ml_collections import config_flags
import numpy as np
import optax

from slimjax import configuration
from slimjax.training import processes
from slimjax.training import log as reporting
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.checkpoint import set_damaged_aside
from slimjax.data import create_dataset
from slimjax.data.batches import Share
from slimjax.data.prefetch import Prefetched
from slimjax.evaluate import Evaluator
from slimjax.evaluate import rows
from slimjax.tasks.metrics import summarise
from slimjax.models import create_model
from slimjax.models.net import SlimNet
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.steps import data_mesh
from slimjax.training.steps import make_train_step
from slimjax.training.steps import replicate
from slimjax.training.steps import shard
from slimjax.training.state import TrainState
from slimjax.variables.format import init
from slimjax.variables.format import Variables


class NonFiniteError(RuntimeError):
  """A loss or a gradient is not a number, or infinite."""


class TrainLog:
  """Training metrics since the last line of the log.

  They are read some steps late (`processes.run_ahead`), when the device is done
  with them, so that the loop does not wait. The sums survive in a checkpoint's
  position.
  """

  def __init__(
    self,
    model: SlimNet,
    *,
    record: Callable[[int], dict[str, Any] | None],
    last_good: Callable[[], int | None],
    state: Mapping[str, Any] | None = None,
  ):
    """
    Args:
      model: whose widths are trained.
      record: step -> what a line of that step says of time, or None where no
        line is due.
      last_good: waits for the last checkpoint, and returns its step.
      state: of a run that goes on.
    """
    self._widths = {model.switch(w): w for w in model.ordered_widths}
    self._record = record
    self._last_good = last_good
    self._sums = {s: dict(m) for s, m in (state or {}).items()}
    self._pending: collections.deque[tuple[int, Any]] = collections.deque()

  def add(self, step: int, metrics: Any) -> list[dict[str, Any]]:
    """Takes the metrics of a step; returns the lines that are due.

    Raises:
      NonFiniteError: an earlier step's are not finite.
    """
    for array in jax.tree.leaves(metrics):
      array.copy_to_host_async()
    self._pending.append((step, metrics))
    return self.read(leave=processes.run_ahead())

  def read(self, *, leave: int = 0) -> list[dict[str, Any]]:
    """Waits for all steps but the last few; returns the lines that are due."""
    lines: list[dict[str, Any]] = []
    while len(self._pending) > leave:
      step, metrics = self._pending.popleft()
      lines += self._read(step, jax.tree.map(float, metrics))
    return lines

  def state(self) -> dict[str, Any]:
    """The sums of the steps read, as JSON."""
    return {switch: dict(sums) for switch, sums in self._sums.items()}

  def _read(self, step: int, metrics: Any) -> list[dict[str, Any]]:
    self._check(step, metrics)
    for switch, sums in metrics['widths'].items():
      total = self._sums.setdefault(switch, {})
      for name, (value, count) in sums.items():
        old = total.get(name, (0.0, 0.0))
        total[name] = (old[0] + value, old[1] + count)
    record = self._record(step)
    if record is None:
      return []
    lines = [
      {
        'split': 'train',
        'step': step,
        'width': width,
        **summarise(self._sums[switch]),
        'learning_rate': metrics['learning_rate'],
        'gradient_norm': metrics['gradient_norm'],
        **record,
      }
      for switch, width in self._widths.items()
    ]
    self._sums = {}
    return lines

  def _check(self, step: int, metrics: Any) -> None:
    bad = [
      f'the loss of width {self._widths[switch]} is {sums["loss"][0]}'
      for switch, sums in metrics['widths'].items()
      if not math.isfinite(sums['loss'][0])
    ]
    if not bad and not math.isfinite(metrics['gradient_norm']):
      bad = [f'the gradient norm is {metrics["gradient_norm"]}']
    if bad:
      raise NonFiniteError(
        f'step {step}: {", ".join(bad)}; the last good checkpoint is of step'
        f' {self._last_good()}. Lower the learning rate, or clip the gradient'
        ' (config.optimizer.clip_norm)'
      )


def train_and_evaluate(
  config: Mapping[str, Any],
  workdir: epath.PathLike,
  *,
  profile_steps: int = 0,
  initial: Callable[[SlimNet, Variables], Variables] | None = None,
  last: optax.GradientTransformation | None = None,
) -> list[reporting.Row] | None:
  """Trains to the end of the configuration, evaluating on the way.

  A run that was stopped goes on from its last whole checkpoint, and ends as if
  it had not been stopped. Every process calls this; process 0 writes.

  Args:
    config: a configuration such as configs/digits.py gives.
    workdir: where config.json, checkpoints/, metrics.jsonl, tensorboard/,
      results.json and error_vs_macs.png go; on storage that all hosts share.
    profile_steps: how many steps to trace, into WORKDIR/profile; 0 traces none.
    initial: (model, variables as drawn) -> those to begin with, such as of
      another run. Give the same when the run goes on.
    last: transforms the optimiser's updates, such as to freeze some.

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

  # mesh
  mesh = data_mesh()
  if run.batch_size % mesh.size:
    raise ValueError(
      f'config.batch_size {run.batch_size} does not divide among {mesh.size}'
      f' devices; try {-(-run.batch_size // mesh.size) * mesh.size}'
    )

  # data
  dataset = processes.together(lambda: create_dataset(run.data))
  share = Share(jax.process_index(), jax.process_count())
  steps_per_epoch = len(dataset.splits['train']) // run.batch_size
  if not steps_per_epoch:
    raise ValueError(
      f'config.batch_size {run.batch_size} must be between 1 and the'
      f' {len(dataset.splits["train"])} training examples'
    )
  total_steps = run.epochs * steps_per_epoch

  # model
  model = configuration.call(create_model, 'config.model', run.model)
  if model.num_classes != dataset.num_classes:
    raise ValueError(
      f'config.model.num_classes is {model.num_classes}, but'
      f' {dataset.name} has {dataset.num_classes} classes'
    )

  # state
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
  variables: Variables = init(
    model, jax.random.key(run.seed), image_size=dataset.image_size
  )
  if initial is not None:
    variables = initial(model, variables)
  if last is not None:
    optimizer = optax.chain(optimizer, last)
  state = replicate(TrainState.create(variables, optimizer), mesh)

  # steps
  step_fn = configuration.call(
    make_train_step,
    'config.loss',
    run.loss,
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    mesh=mesh,
    seed=run.seed,
    preprocess=dataset.augment,
  )
  evaluator = Evaluator(
    model,
    mesh,
    dataset,
    widths=model.ordered_widths,
    batch_size=run.eval_batch_size,
  )

  with contextlib.ExitStack() as stack:
    # restore
    if processes.is_primary():
      lock = processes.exclusive(workdir)
      processes.together(lambda: stack.enter_context(lock))
    else:
      processes.together(lambda: None)
    claim(workdir, config)
    damaged = processes.together(lambda: set_aside(workdir))
    checkpoints = stack.enter_context(Checkpoints(workdir / 'checkpoints'))
    first_step, sums, best = 0, None, math.inf
    if checkpoints.latest is not None:
      first_step = checkpoints.latest
      state, position = checkpoints.restore(first_step, state)
      sums = position['window']
      best = position['best'] if position['best'] is not None else math.inf

    writer = stack.enter_context(
      reporting.MetricsWriter(
        workdir, first_step=first_step, enabled=processes.is_primary()
      )
    )
    progress = stack.enter_context(
      reporting.Progress(
        total_steps, first_step, enabled=processes.is_primary()
      )
    )
    for line in damaged:
      progress.say(line)
    if first_step:
      progress.say(f'going on from the checkpoint of step {first_step}')

    # loop
    results = clock = None
    if first_step < total_steps:
      steps = range(first_step, total_steps)
      batches = stack.enter_context(
        Prefetched(
          dataset.train_batches(
            run.batch_size, seed=run.seed, steps=steps, share=share
          ),
          functools.partial(shard, mesh=mesh),
        )
      )
      clock = reporting.Clock(first_step, lambda: batches.waited)
      log = TrainLog(
        model,
        record=lambda step: (
          {'epoch': step / steps_per_epoch, **clock.read(step, run.batch_size)}
          if step % run.log_every_steps == 0 or step == total_steps
          else None
        ),
        last_good=checkpoints.wait,
        state=sums,
      )

      def write(records: list[dict[str, Any]]) -> None:
        for _, group in itertools.groupby(records, lambda r: r['step']):
          lines = list(group)
          writer.write(lines)
          progress.line(lines)

      trace = reporting.Trace(workdir / 'profile', first_step, profile_steps)
      stop = stack.enter_context(processes.Stop())
      for step in range(first_step + 1, total_steps + 1):
        batch = next(batches)
        if step == first_step + 1:
          before = time.perf_counter()
          step_fn = step_fn.compile(state, batch)
          now = time.perf_counter()
          progress.say(
            f'the first step starts after {now - start:.1f} s, of which'
            f' {now - before:.1f} s compiled it'
          )
          clock.start()
        trace.before(step, wait=lambda: write(log.read()))
        state, metrics = step_fn(state, batch)
        write(log.add(step, metrics))
        progress.step(step)
        stopping = stop.after(step) or step == total_steps
        evaluating = (
          step % (run.eval_every_epochs * steps_per_epoch) == 0
          or step == total_steps
        )
        if not evaluating and not stopping:
          continue
        write(log.read())  # only what is finite is scored and saved
        with clock.paused():
          error = None
          if evaluating:
            results = evaluator(state.variables)
            epoch = step / steps_per_epoch
            records = validation_records(results, step, epoch)
            write(records)
            error = float(np.mean([r['top1_error'] for r in records]))
            best = min(best, error)
          position = {
            'window': log.state(),
            'best': best if math.isfinite(best) else None,
          }
          checkpoints.save(step, state, position, error)
        if stopping and step < total_steps:
          checkpoints.wait()
          progress.say(f'SIGTERM: saved step {step}; the same command goes on')
          return None
      trace.end()
    checkpoints.wait()

    if results is None:  # the run was over before
      results = evaluator(state.variables)
    table = rows(model, results, dataset.image_size)
    if clock is not None:
      macs = sum(row.profile.macs for row in table)
      for line in clock.summary(run.batch_size, macs, list(mesh.devices.flat)):
        progress.say(line)
    if processes.is_primary():
      title = f'{run.model["name"]} on {dataset.name}'
      write_results(table, workdir)
      reporting.plot_errors(
        table,
        workdir / 'error_vs_macs.png',
        title.replace(' on ', ', one set of weights, on '),
      )
      progress.close()
      reporting.print_table(table, title)
    return table


def keep_compiled(folder: str | None) -> None:
  """Keeps compiled programs in a folder, unless jax keeps them already."""
  kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if folder and kept is None:
    path = epath.Path(folder).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(path))


def claim(workdir: epath.Path, config: Mapping[str, Any]) -> None:
  """Writes the configuration; refuses a workdir that holds another run."""
  path = workdir / 'config.json'
  new = configuration.as_plain(config)

  def check() -> None:
    if not path.exists() or not has_checkpoints(workdir):
      return
    lines = configuration.differences(json.loads(path.read_text()), new)
    if lines:
      raise ValueError(
        f'{workdir} holds a run with another configuration, which can not go'
        ' on with this one:\n  '
        + '\n  '.join(lines)
        + '\nTake another --workdir, or the configuration as it was.'
      )

  def write() -> None:
    if processes.is_primary():
      configuration.write(new, path)

  def shared() -> None:
    if not path.exists() or json.loads(path.read_text()) != new:
      raise ValueError(
        f'{workdir} is not the folder that process 0 wrote to: the workdir must'
        ' be on storage that all hosts share, such as gs:// or NFS'
      )

  for phase in (check, write, shared):
    processes.together(phase)


def has_checkpoints(workdir: epath.Path) -> bool:
  folder = workdir / 'checkpoints'
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def set_aside(workdir: epath.Path) -> list[str]:
  """What process 0 says of damaged checkpoints."""
  if not processes.is_primary():
    return []
  return set_damaged_aside(workdir / 'checkpoints')


def validation_records(results, step: int, epoch: float) -> list[dict]:
  """One record a width, thinnest first.

  Raises:
    NonFiniteError: a loss is not a number, or infinite.
  """
  for width, result in results.items():
    if not math.isfinite(result['loss']):
      raise NonFiniteError(
        f'step {step}: the validation loss of width {width} is {result["loss"]}'
      )
  return [
    {
      'split': 'validation',
      'step': step,
      'epoch': epoch,
      'width': width,
      **result,
    }
    for width, result in results.items()
  ]


def write_results(table: Sequence[reporting.Row], workdir: epath.Path) -> None:
  """WORKDIR/results.json: the table at the end."""
  path = workdir / 'results.json'
  draft = path.with_name('results.json.draft')
  records = [
    {
      'width': row.width,
      'top1_error': row.top1_error,
      'top5_error': row.top5_error,
      'examples': row.examples,
      'macs': row.profile.macs,
      'params': row.profile.params,
    }
    for row in table
  ]
  draft.write_text(json.dumps(records, indent=2) + '\n')
  draft.replace(path)


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with processes.joined():
    train_and_evaluate(
      _CONFIG.value, _WORKDIR.value, profile_steps=_PROFILE_STEPS.value
    )


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the configuration.', lock_config=True
  )
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.', required=True)
  _PROFILE_STEPS = flags.DEFINE_integer(
    'profile_steps', 0, 'Steps to trace into WORKDIR/profile.', lower_bound=0
  )
  flags.mark_flag_as_required('config')
  processes.define_flags()
  app.run(main)
