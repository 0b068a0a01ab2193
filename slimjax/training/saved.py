"""Finds the whole checkpoints of a folder, and reads them.

Everything that reads a run goes through here: training that resumes, and what
evaluates, exports or predicts. A checkpoint is compared with its digests first.
Only what proves damage counts as damage: a digest that differs, a missing file,
bytes that cannot be decoded. Trouble that passes, such as a lost permission or
full memory, stops the program and changes nothing.
"""

from collections.abc import Callable
from collections.abc import Sequence
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from slimjax import digests
from slimjax import files
from slimjax.digests import DamageError

# What decoding raises when bytes are not those that were written.
_UNDECODABLE = (ValueError, TypeError, LookupError, AttributeError)
_METADATA = '_CHECKPOINT_METADATA'
# Without a rename, cloud storage has this file to say that a folder is whole.
_COMMITTED = 'commit_success.txt'
_NOT_VARIABLES = ('step', 'opt_state')


def absolute(folder: epath.PathLike) -> epath.Path:
  """Returns the folder as orbax wants every path, though it does not say so."""
  return epath.Path(folder).resolve()


def steps_in(folder: epath.Path) -> list[int]:
  """Returns the steps of the checkpoints in a folder, oldest first.

  A draft's name is no number, and that of one set aside is neither.
  """
  try:
    with files.reading(folder):
      found = [p for p in folder.iterdir() if _is_step(p.name)]
      if '://' in str(folder):
        found = [p for p in found if (p / _COMMITTED).exists()]
  except FileNotFoundError:
    return []
  return sorted(int(path.name) for path in found)


def _is_step(name: str) -> bool:
  return name.isascii() and name.isdecimal() and name == str(int(name))


def check(path: epath.Path) -> bool:
  """Raises unless a checkpoint is whole; returns whether digests say so.

  One without digests, by older code, is read as if it were restored.

  Raises:
    DamageError: it is not whole.
    ReadError: it cannot be read now, which says nothing about it.
  """
  if not path.is_dir():
    raise DamageError('it is no folder')
  if (path / _METADATA).exists():
    _read_object(path, _METADATA)  # orbax writes it last, behind the digests
  if digests.check(path, step=int(path.name)):
    return True
  digests.of_folder(path)  # trouble with reading shows itself here
  read_state(path)
  read_position(path)
  error_of(path)
  return False


def read_state(path: epath.Path) -> dict[str, Any]:
  """Returns the state of a checkpoint as numpy arrays, whatever wrote them.

  Raises:
    DamageError: it cannot be decoded.
    ReadError: there is not enough memory, or the disk fails.
  """
  try:
    with files.reading(path), reader() as orbax:
      described = orbax.metadata(path / 'state').item_metadata
      if described is None:
        raise DamageError('its metadata cannot be read')
      as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described.tree
      )
      return orbax.restore(
        path / 'state', args=ocp.args.PyTreeRestore(restore_args=as_numpy)
      )
  except FileNotFoundError as error:
    raise DamageError(f'a file is missing: {short(error)}') from error
  except _UNDECODABLE as error:
    raise DamageError(f'its arrays cannot be read: {short(error)}') from error


def variables_of(state: dict[str, Any]) -> dict[str, Any]:
  """Returns the variables of a state as `read_state` gives it."""
  return {k: v for k, v in state.items() if k not in _NOT_VARIABLES}


def reader() -> ocp.Checkpointer:
  """Returns what reads a tree in this process alone, to be closed."""
  hush()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(),
    active_processes={jax.process_index()},
    barrier_sync_key_prefix='alone',
  )
  return ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
    multiprocessing_options=alone,
  )


def read_position(path: epath.Path) -> dict[str, Any]:
  """Returns the position of a checkpoint; raises as `read_state` does."""
  return _read_object(path, 'position/metadata')


def error_of(path: epath.Path) -> float | None:
  """Returns the validation error of a checkpoint, or None if it was not scored.

  Raises:
    DamageError, ReadError: see `read_state`.
  """
  if not (path / 'metrics').exists():
    return None
  error = _read_object(path, 'metrics/metrics').get('error')
  if not isinstance(error, int | float):
    raise DamageError(f'metrics/metrics has the error {error!r}')
  return float(error)


def _read_object(path: epath.Path, name: str) -> dict[str, Any]:
  try:
    value = json.loads(files.read_bytes(path / name))
  except FileNotFoundError as error:
    raise DamageError(f'{name} is missing') from error
  except (ValueError, RecursionError) as error:
    raise DamageError(f'{name} is not JSON') from error
  if not isinstance(value, dict):
    raise DamageError(f'{name} is not what was written')
  return value


def read_variables(
  folder: epath.PathLike, say: Callable[[str], Any], *, best: bool = False
) -> tuple[dict[str, Any], int]:
  """Returns the variables and the step of the last whole checkpoint.

  Args:
    folder: folder of the checkpoints, of which nothing is changed.
    say: function that is told of each checkpoint that is passed over.
    best: whether to take the one with the least validation error instead.

  Raises:
    FileNotFoundError: there is no checkpoint.
    DamageError: there are some, and none is whole.
    ReadError: one cannot be read now, which says nothing about it.
  """
  folder = absolute(folder)
  steps = steps_in(folder)[::-1]
  if not steps:
    raise FileNotFoundError(f'{folder.parent} has no whole checkpoint yet')
  damaged: dict[int, str] = {}
  for step in _by_error(folder, steps, damaged) if best else steps:
    try:
      if not check(folder / str(step)):
        say(_without_digests([step]))
      state = read_state(folder / str(step))
    except DamageError as error:
      damaged[step] = str(error)
      continue
    for other, why in damaged.items():
      say(f'the checkpoint of step {other} is damaged ({why}); using {step}')
    return variables_of(state), step
  raise DamageError(_none_whole(folder, damaged))


def _by_error(
  folder: epath.Path, steps: Sequence[int], damaged: dict[int, str]
) -> list[int]:
  """Returns the scored steps, best first; of equal ones, the latest."""
  errors = {}
  for step in steps:
    try:
      errors[step] = error_of(folder / str(step))
    except DamageError as error:
      damaged[step] = str(error)
  scored = {step: error for step, error in errors.items() if error is not None}
  if not scored and not damaged:
    raise FileNotFoundError(f'{folder.parent} has no scored checkpoint yet')
  return sorted(scored, key=lambda step: (scored[step], -step))


def _without_digests(steps: Sequence[int]) -> str:
  return (
    f'not compared with digests, as older code wrote none: step'
    f' {", ".join(map(str, steps))}'
  )


def set_damaged_aside(folder: epath.PathLike) -> list[str]:
  """Renames the checkpoints that are damaged; returns a line for each.

  A kill leaves only whole checkpoints, but disks fail, and people delete files.
  One process calls this, before any process opens the folder.

  Raises:
    DamageError: no checkpoint is whole, though there were some. Nothing is
      renamed: a run never begins again by itself.
    ReadError: one cannot be read now. Nothing is renamed.
  """
  folder = absolute(folder)
  steps, bare = steps_in(folder), []
  damaged: dict[int, str] = {}
  for step in steps:
    try:
      if not check(folder / str(step)):
        bare.append(step)
    except DamageError as error:
      damaged[step] = str(error)
  if damaged.keys() == set(steps) and was_there(folder):
    raise DamageError(_none_whole(folder, damaged))
  said = [_without_digests(bare)] if bare else []
  for step, why in damaged.items():
    new = files.rename(folder / str(step), f'damaged-{step}')
    said.append(
      f'the checkpoint of step {step} is damaged ({why}); it was renamed to'
      f' {new.name}'
    )
  return said


def was_there(folder: epath.Path) -> bool:
  """Returns whether a run saved anything, be it whole or damaged."""
  if steps_in(folder):
    return True
  try:
    with files.reading(folder):
      return any(p.name.startswith('damaged-') for p in folder.iterdir())
  except FileNotFoundError:
    return False


def _none_whole(folder: epath.Path, damaged: dict[int, str]) -> str:
  lines = [f'\n  step {step}: {why}' for step, why in list(damaged.items())[:3]]
  return (
    f'no checkpoint in {folder} is whole:'
    + (''.join(lines) or ' what it has was set aside as damaged')
    + '\nNothing was changed. Put one back from a copy, or move that folder'
    ' away to train from the beginning'
  )


def short(error: BaseException) -> str:
  """Returns the text without its middle, which is paths: the reason is last."""
  text = ' '.join((str(error) or type(error).__name__).split())
  return text if len(text) <= 300 else f'{text[:100]} ... {text[-200:]}'


def _not_of_orbax(record: logging.LogRecord) -> bool:
  """Returns False for a record of orbax that is left out of the log.

  Orbax logs every save of every item, which hides the run's own lines, and for
  a save that fails one traceback per thread and array, beside `SaveError`.
  """
  if record.name == 'absl' and 'orbax' in record.pathname:
    return record.levelno >= logging.ERROR and not record.exc_info
  trace = record.exc_info[2] if record.exc_info else None
  while trace is not None:
    if 'orbax' in trace.tb_frame.f_code.co_filename:
      return False
    trace = trace.tb_next
  return True


def hush() -> None:
  """Keeps orbax's records out of the log; a second call changes nothing."""
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).addFilter(_not_of_orbax)
