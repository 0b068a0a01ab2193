"""A run at work in its folder: claimed, restored, its files open."""

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import itertools
import math
from typing import Any

from etils import epath

from slimjax import configuration
from slimjax import files
from slimjax.data.dataset import Dataset
from slimjax.data.record import RECORD
from slimjax.data.record import record_of
from slimjax.data.record import write_record
from slimjax.training import processes
from slimjax.training import saved
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.compiling import quiet
from slimjax.training.log import MetricsWriter
from slimjax.training.progress import Progress
from slimjax.training.runs import check_data
from slimjax.training.runs import CONFIG
from slimjax.training.runs import data_differences
from slimjax.training.runs import defaults
from slimjax.training.runs import read_config
from slimjax.training.setup import Setup
from slimjax.training.state import TrainState


@dataclasses.dataclass
class Session:
  """A run's open files, and where it stands.

  Attributes:
    workdir: folder of the run.
    config: configuration of the run, as JSON has it.
    checkpoints: checkpoints of the run.
    writer: writer of its metrics.
    progress: bar or lines that it shows.
    state: the newest state; a step donates it.
    first_step: number of optimiser steps done before; default: 0.
    best: the least validation error so far; default: infinity.
    sums: training metrics not yet written, see `TrainLog.state`; default: none.
  """

  workdir: epath.Path
  config: Mapping[str, Any]
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

  def require_workdir(self) -> None:
    """Raises unless the folder is still that of this run.

    Without this, saving would make a new one, which looks like a run.
    """
    if processes.is_primary() and not (self.workdir / CONFIG).exists():
      raise files.WriteError(
        f'{self.workdir} was deleted, moved or unmounted while the run was at'
        f' work in it (no {CONFIG}), so that nothing more can be saved there.'
        ' Put it back, and the same command resumes from what it holds'
      )


def open_session(
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
  said: list[str] = []
  tell = said.append if primary else quiet
  changes = claim(workdir, config, setup.dataset, tell)
  said += processes.together(lambda: set_aside(workdir))
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
  for line in said + writer.said:
    progress.say(line)
  if first_step:
    progress.say(f'resuming from the checkpoint of step {first_step}')
    for line in changes:
      progress.say(f'changed from here on: {line}')
  return Session(
    workdir,
    configuration.as_plain(config),
    checkpoints,
    writer,
    progress,
    state,
    first_step,
    best,
    sums,
  )


def changes_of(
  workdir: epath.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  say: Callable[[str], Any] = quiet,
) -> list[str]:
  """Compares a run's configuration and data with those in its folder.

  Args:
    workdir: folder of the run.
    config: configuration now.
    dataset: data set now.
    say: function that is told if config.json is lost; default: none.

  Returns:
    A line for each value that is allowed to change and did.

  Raises:
    ValueError: the workdir holds another run, or one on other data.
  """
  new = configuration.as_plain(config)
  if not has_checkpoints(workdir):
    return []
  old = read_config(workdir, say)
  if old is None:
    return []
  found = configuration.differences(old, new, defaults(new))
  if found.refused:
    lines = [*found.refused, *data_differences(workdir, dataset)]
    raise ValueError(
      f'{workdir} holds a run with another configuration, which cannot resume'
      ' with this one:\n  '
      + '\n  '.join(lines)
      + '\nTake another --workdir, or the configuration as it was. To begin'
      ' with its weights:\n  python -m slimjax.train --config=...'
      f' --workdir=ANOTHER --config.init.source={workdir}'
    )
  check_data(workdir, dataset)
  return found.said


def claim(
  workdir: epath.Path,
  config: Mapping[str, Any],
  dataset: Dataset,
  say: Callable[[str], Any] = quiet,
) -> list[str]:
  """Writes the configuration and the record of the data; see `changes_of`.

  Returns:
    A line for each value that is allowed to change and did.

  Raises:
    ValueError: the workdir holds another run, or one on other data.
  """
  path = workdir / CONFIG
  new = configuration.as_plain(config)

  def write() -> None:
    if not processes.is_primary():
      return
    configuration.write(new, path)
    # A run of older code has checkpoints and no record.
    if not has_checkpoints(workdir) or not (workdir / RECORD).exists():
      write_record(workdir, record_of(dataset))

  def shared() -> None:
    if not path.exists() or files.read_json(path, 'Start again') != new:
      raise ValueError(
        f'{workdir} is not the folder that process 0 wrote to: the workdir must'
        ' be on storage that all hosts share, such as gs:// or NFS'
      )

  changes = processes.together(lambda: changes_of(workdir, new, dataset, say))
  for phase in (write, shared):
    processes.together(phase)
  return changes


def has_checkpoints(workdir: epath.Path) -> bool:
  """Returns whether a run saved anything, be it damaged by now."""
  return saved.was_there(saved.absolute(workdir / 'checkpoints'))


def set_aside(workdir: epath.Path) -> list[str]:
  """Returns what process 0 says of damaged checkpoints."""
  if not processes.is_primary():
    return []
  return saved.set_damaged_aside(workdir / 'checkpoints')
