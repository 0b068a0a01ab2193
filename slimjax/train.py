"""Trains a slimmable network, or goes on with a run that was stopped.

python -m slimjax.train --config=configs/digits.py --workdir=runs/digits
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import json
import math
import signal
import threading
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import jax
from ml_collections import config_flags
import numpy as np

from slimjax import configuration
from slimjax import reporting
from slimjax.checkpoint import Checkpoints
from slimjax.data import DATASETS
from slimjax.data.arrays import TrainBatches
from slimjax.evaluate import Evaluator
from slimjax.evaluate import rows
from slimjax.metrics import summarise
from slimjax.models import create_model
from slimjax.models.common import SlimNet
from slimjax.optim import create_schedule
from slimjax.optim import sgd
from slimjax.steps import data_mesh
from slimjax.steps import make_train_step
from slimjax.steps import replicate
from slimjax.steps import shard
from slimjax.train_state import TrainState
from slimjax.variables import init


class NonFiniteError(RuntimeError):
  """A loss or a gradient is not a number, or infinite."""


class Window:
  """Training metrics since the last line of the log.

  Steps are added as arrays on the device and read when asked for, so that the
  loop does not wait. The sums survive in a checkpoint's position.
  """

  def __init__(self, model: SlimNet, state: Mapping[str, Any] | None = None):
    self._widths = {model.switch(w): w for w in model.ordered_widths}
    state = state or {'sums': {}, 'last': {}}
    self._sums = {s: dict(m) for s, m in state['sums'].items()}
    self._last = dict(state['last'])
    self._pending: list[tuple[int, Any]] = []

  def add(self, step: int, metrics: Any) -> None:
    self._pending.append((step, metrics))

  def read(self, last_good: Callable[[], int | None]) -> dict[str, Any]:
    """Waits for the steps added and returns the sums, as JSON.

    Raises:
      NonFiniteError: naming the first bad step, its widths, and what
        `last_good` returns, the step of the last checkpoint.
    """
    for step, metrics in self._pending:
      metrics = jax.tree.map(float, metrics)
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
          f' {last_good()}. Lower the learning rate, or clip the gradient'
          ' (config.optimizer.clip_norm)'
        )
      for switch, sums in metrics['widths'].items():
        total = self._sums.setdefault(switch, {})
        for name, (value, count) in sums.items():
          old = total.get(name, (0.0, 0.0))
          total[name] = (old[0] + value, old[1] + count)
      self._last = {
        name: metrics[name] for name in ('learning_rate', 'gradient_norm')
      }
    self._pending.clear()
    return {'sums': self._sums, 'last': self._last}

  def flush(self, step: int, epoch: float, seconds: float, batch: int):
    """One record a width, thinnest first, of the sums, which start anew."""
    records = [
      {
        'split': 'train',
        'step': step,
        'epoch': epoch,
        'width': width,
        **summarise(self._sums[switch]),
        **self._last,
        'images_per_second': batch / seconds,
        'step_ms': 1000.0 * seconds,
      }
      for switch, width in self._widths.items()
    ]
    self._sums = {}
    return records


class StopOnSignal:
  """Within it SIGTERM is remembered, not obeyed."""

  def __init__(self):
    self.asked = False

  def __enter__(self) -> 'StopOnSignal':
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:  # elsewhere Python has no handlers
      self._old = signal.signal(signal.SIGTERM, self._remember)
    return self

  def _remember(self, *_: Any) -> None:
    self.asked = True

  def __exit__(self, *_: Any) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._old)


def train_and_evaluate(
  config: Mapping[str, Any], workdir: epath.PathLike
) -> list[reporting.Row] | None:
  """Trains to the end of the configuration, evaluating on the way.

  A run that was stopped goes on from its last whole checkpoint, and ends as if
  it had not been stopped.

  Args:
    config: a configuration such as configs/digits.py gives.
    workdir: where config.json, checkpoints/, metrics.jsonl, tensorboard/,
      results.json and error_vs_macs.png go.

  Returns:
    The rows of the table, thinnest width first; None if SIGTERM came.

  Raises:
    ValueError: the configuration has errors, or is not that of the run in
      `workdir`.
    NonFiniteError: the training diverged.
  """
  run = configuration.parse(config)
  workdir = epath.Path(workdir)

  # mesh
  mesh = data_mesh()
  if run.batch_size % mesh.size:
    raise ValueError(
      f'config.batch_size {run.batch_size} does not divide among {mesh.size}'
      f' devices; try {-(-run.batch_size // mesh.size) * mesh.size}'
    )

  # data
  dataset, augment = load_dataset(run)
  batches = TrainBatches(
    dataset.load('train'),
    run.batch_size,
    seed=run.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  steps_per_epoch = batches.batches_per_epoch
  total_steps = run.epochs * steps_per_epoch

  # model
  model = configuration.call(create_model, 'config.model', run.model)
  if model.num_classes != dataset.NUM_CLASSES:
    raise ValueError(
      f'config.model.num_classes is {model.num_classes}, but'
      f' {run.data["name"]} has {dataset.NUM_CLASSES} classes'
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
  variables = init(
    model, jax.random.key(run.seed), image_size=dataset.IMAGE_SIZE
  )
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
    preprocess=augment,
  )
  evaluator = Evaluator(
    model,
    mesh,
    dataset.load('test'),
    widths=model.ordered_widths,
    batch_size=run.eval_batch_size,
    preprocess=dataset.preprocess,
  )

  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    # restore
    claim(workdir, config, checkpoints)
    first_step, window, best = 0, Window(model), math.inf
    if checkpoints.latest is not None:
      first_step = checkpoints.latest
      state, position = checkpoints.restore(first_step, state)
      batches.set_state(position['data'])
      window = Window(model, position['window'])
      best = position['best'] if position['best'] is not None else math.inf

    writer = reporting.MetricsWriter(workdir, first_step=first_step)
    progress = reporting.Progress(total_steps, first_step)
    if first_step:
      progress.say(f'going on from the checkpoint of step {first_step}')

    # loop
    results = None
    clock = reporting.Clock(first_step)
    try:
      with StopOnSignal() as stop:
        for step in range(first_step + 1, total_steps + 1):
          batch = shard(next(batches), mesh)
          if step == first_step + 1:
            step_fn = step_fn.compile(state, batch)
            clock.skip()
          state, metrics = step_fn(state, batch)
          window.add(step, metrics)
          progress.step(step)
          epoch = step / steps_per_epoch
          if step % run.log_every_steps == 0 or step == total_steps:
            window.read(checkpoints.wait)
            records = window.flush(
              step, epoch, clock.read(step), run.batch_size
            )
            writer.write(records)
            progress.line(records)
          error = None
          if (
            step % (run.eval_every_epochs * steps_per_epoch) == 0
            or step == total_steps
          ):
            window.read(checkpoints.wait)  # only what is finite is scored
            results = evaluator(state.variables)
            records = validation_records(results, step, epoch)
            writer.write(records)
            progress.line(records)
            error = float(np.mean([r['top1_error'] for r in records]))
            best = min(best, error)
          if error is not None or stop.asked:
            position = {
              'data': batches.get_state(),
              'window': window.read(checkpoints.wait),
              'best': best if math.isfinite(best) else None,
            }
            checkpoints.save(step, state, position, error)
            clock.skip()
          if stop.asked and step < total_steps:
            checkpoints.wait()
            progress.say(
              f'SIGTERM: saved step {step}; the same command goes on'
            )
            return None
      checkpoints.wait()
    finally:
      writer.close()
      progress.close()

  if results is None:  # the run was over before
    results = evaluator(state.variables)
  table = rows(model, results, dataset.IMAGE_SIZE)
  write_results(table, workdir)
  reporting.print_table(table, f'{run.model["name"]} on {run.data["name"]}')
  title = f'{run.model["name"]}, one set of weights, on {run.data["name"]}'
  reporting.plot_errors(table, workdir / 'error_vs_macs.png', title)
  return table


def load_dataset(run: configuration.Run):
  """The data set's module, and its augmentation with the run's arguments."""
  arguments = dict(run.data)
  name = arguments.pop('name', None)
  if name not in DATASETS:
    raise ValueError(
      f'config.data.name {name!r} is not a data set; there are'
      f' {", ".join(DATASETS)}'
    )
  dataset = DATASETS[name]
  configuration.check_arguments(
    dataset.augment, 'config.data', arguments, ('key', 'images')
  )
  return dataset, functools.partial(dataset.augment, **arguments)


def claim(
  workdir: epath.Path, config: Mapping[str, Any], checkpoints: Checkpoints
) -> None:
  """Writes the configuration; refuses a workdir that holds another run."""
  path = workdir / 'config.json'
  new = configuration.as_plain(config)
  if path.exists() and checkpoints.latest is not None:
    old = json.loads(path.read_text())
    lines = configuration.differences(old, new)
    if lines:
      raise ValueError(
        f'{workdir} holds a run with another configuration, which can not go'
        ' on with this one:\n  '
        + '\n  '.join(lines)
        + '\nTake another --workdir, or the configuration as it was.'
      )
    return
  workdir.mkdir(parents=True, exist_ok=True)
  configuration.write(new, path)


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
  train_and_evaluate(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'File of the configuration.', lock_config=True
  )
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.', required=True)
  flags.mark_flag_as_required('config')
  app.run(main)
