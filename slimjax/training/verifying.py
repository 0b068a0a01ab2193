"""Checks everything that a run has written, and says what is whole."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
from typing import Any

from etils import epath

from slimjax import configuration
from slimjax import files
from slimjax.data.record import read_record
from slimjax.data.record import RECORD
from slimjax.digests import DamageError
from slimjax.training import saved
from slimjax.training.calibrated import read_calibrated
from slimjax.training.log import METRICS
from slimjax.training.log import read_metrics
from slimjax.training.results import RESULTS
from slimjax.training.runs import CONFIG
from slimjax.training.runs import read_config


@dataclasses.dataclass(frozen=True)
class Finding:
  """A part of a run, and what is known of it.

  Attributes:
    name: name of the part, such as 'checkpoints/44'.
    said: its state, in words.
    whole: whether nothing is wrong with it.
  """

  name: str
  said: str
  whole: bool


def verify_run(workdir: epath.PathLike) -> Iterator[Finding]:
  """Yields what is known of each part of a run; nothing is changed.

  Args:
    workdir: folder of the run.
  """
  workdir = files.expand(workdir, 'workdir')
  yield _examine(CONFIG, lambda: _check_config(workdir))
  yield _examine(RECORD, lambda: _present(read_record(workdir) is not None))
  yield _examine(METRICS, lambda: _check_metrics(workdir))
  yield _examine(RESULTS, lambda: _check_results(workdir))
  folder = saved.absolute(workdir / 'checkpoints')
  steps: list[int] = []
  try:
    steps = saved.steps_in(folder)
    if not steps:
      yield Finding(
        'checkpoints', 'there are none', not saved.was_there(folder)
      )
  except OSError as error:
    yield Finding('checkpoints', str(error), False)
  for step in steps:
    check = lambda step=step: _check_checkpoint(workdir, folder / str(step))
    yield _examine(f'checkpoints/{step}', check)


def _examine(name: str, check: Callable[[], str]) -> Finding:
  try:
    return Finding(name, check(), True)
  except DamageError as error:
    return Finding(name, f'DAMAGED: {error}', False)
  except (OSError, ValueError) as error:
    return Finding(name, str(error), False)


def _present(there: bool) -> str:
  return 'whole' if there else 'not there'


def _check_config(workdir: epath.Path) -> str:
  troubles: list[str] = []
  config = read_config(workdir, troubles.append)
  if troubles:
    raise DamageError(troubles[0])
  if config is not None:
    configuration.parse(config)
  return _present(config is not None)


def _check_metrics(workdir: epath.Path) -> str:
  troubles: list[Any] = []
  records = read_metrics(workdir, troubles.append)
  if troubles:
    raise DamageError('; '.join(troubles))
  return f'whole, {len(records)} records' if records else 'not there'


def _check_results(workdir: epath.Path) -> str:
  try:
    files.read_json(
      workdir / RESULTS, 'The command that trains writes it again'
    )
  except FileNotFoundError:
    return 'not there: the run is not finished'
  return 'whole'


def _check_checkpoint(workdir: epath.Path, path: epath.Path) -> str:
  compared = saved.check(path)
  read_calibrated(workdir, int(path.name))
  if compared:
    return 'whole, as its digests say'
  return 'readable; it has no digests, as older code wrote none'
