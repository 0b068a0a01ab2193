"""Keeps checkpoints of a run: the last two and the best, each of them whole."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import copy
import json
import logging
from typing import Any

from etils import epath
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy
from orbax.checkpoint.checkpoint_managers import BestN
from orbax.checkpoint.checkpoint_managers import LatestN

from slimjax.training.state import TrainState

_PATIENCE_SECONDS = 30 * 24 * 3600
# What reading a checkpoint raises that lost or changed bytes; all else is
# trouble of another kind, which passes without harm to the checkpoints.
_DAMAGE = (ValueError, KeyError, FileNotFoundError, NotADirectoryError)


class SaveError(RuntimeError):
  """A checkpoint could not be written."""


def _absolute(folder: epath.PathLike) -> epath.Path:
  """Returns the folder as orbax wants every path, though it does not say so."""
  return epath.Path(folder).resolve()


def set_damaged_aside(folder: epath.Path) -> list[str]:
  """Renames the latest checkpoints until one can be read; returns a line each.

  A kill leaves only whole checkpoints, but disks fail, and people delete files.
  One process calls this, before any process opens the folder.
  """
  said: list[str] = []
  folder = _absolute(folder)
  if not folder.is_dir():
    return said
  _hush()
  steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
  for step in reversed(steps):
    try:
      _read_whole(folder / str(step))
      break
    except _DAMAGE as error:
      damaged = folder / f'damaged-{step}'
      number = 1
      while damaged.exists():
        number += 1
        damaged = folder / f'damaged-{step}-{number}'
      (folder / str(step)).rename(damaged)
      text = str(error).splitlines()[0][:200] if str(error) else ''
      said.append(
        f'the checkpoint of step {step} is damaged ({type(error).__name__}:'
        f' {text}); it was renamed to {damaged.name}'
      )
    except (OSError, MemoryError) as error:
      raise OSError(
        f'the checkpoint of step {step} in {folder} cannot be read now'
        f' ({type(error).__name__}: {_short(error)}). Nothing was changed; once'
        ' the cause is gone, the same command resumes'
      ) from error
  return said


def _read_whole(path: epath.Path) -> None:
  """Raises if anything of a checkpoint cannot be read."""
  json.loads((path / 'position' / 'metadata').read_text())
  alone = ocp.options.MultiprocessingOptions(
    primary_host=jax.process_index(),
    active_processes={jax.process_index()},
    barrier_sync_key_prefix='read_whole',
  )
  with ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
    multiprocessing_options=alone,
  ) as reader:
    metadata = reader.metadata(path / 'state').item_metadata
    if metadata is None:
      raise ValueError('its metadata cannot be read')
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
    )
    reader.restore(
      path / 'state', args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )


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


def _short(error: BaseException) -> str:
  """Returns the text without its middle, which is paths: the reason is last."""
  text = str(error)
  return text if len(text) <= 300 else f'{text[:100]} ... {text[-200:]}'


def _hush() -> None:
  """Keeps orbax's records out of the log; a second call changes nothing."""
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).addFilter(_not_of_orbax)


# A run's state on disk: its collections stand beside `step` and `opt_state`.


def _to_disk(state: Any) -> Any:
  if not isinstance(state, TrainState):
    return state
  return {
    'step': state.step,
    **state.variables,
    'opt_state': state.opt_state,
  }


def _from_disk(tree: Any, like: Any) -> Any:
  if not isinstance(like, TrainState):
    return tree
  return TrainState(
    step=tree['step'],
    variables={name: tree[name] for name in like.variables},
    opt_state=tree['opt_state'],
  )


class Checkpoints:
  """The checkpoints in a folder.

  A checkpoint holds the state (arrays) and the position (JSON: the place in the
  data, the best so far, metrics not yet written), saved as one. Saving is
  asynchronous: a step's checkpoint gets its name only when it is whole.
  """

  def __init__(self, folder: epath.PathLike, *, read_only: bool = False):
    _hush()
    self._manager = ocp.CheckpointManager(
      _absolute(folder),
      # The names let us ask what a checkpoint holds before it is read.
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'position': ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
        preservation_policy=AnyPreservationPolicy(
          [
            LatestN(2),  # two, in case one is damaged
            BestN(
              get_metric_fn=lambda metrics: metrics['error'],
              reverse=True,
              n=1,
              keep_checkpoints_without_metrics=False,
            ),
          ]
        ),
        # Orbax measures its timeout with the wall clock, which may jump by
        # hours; the heartbeats detect lost processes.
        async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE_SECONDS),
        best_fn=lambda metrics: metrics['error'],
        best_mode='min',
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    if kind is not None and jax.process_count() > 1:
      return  # closing waits for the others, which may be gone
    with self._explained():
      self._manager.close()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Turns an error of a save into one that says what to do."""
    try:
      yield
    except (OSError, RuntimeError, ValueError) as error:
      folder = self._manager.directory
      hint = 'Make room on the disk'
      if jax.process_count() > 1:
        hint += ', or see what became of the other processes'
      # The manager counts the failed one; only whole ones have their names.
      whole = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
      raise SaveError(
        f'a checkpoint could not be saved in {folder}: {_short(error)}\nThe'
        f' last whole one is of step {max(whole, default=None)}. {hint}; the'
        ' same command resumes there'
      ) from error

  def save(
    self,
    step: int,
    state: Any,
    position: Mapping[str, Any],
    error: float | None,
  ) -> None:
    """Starts a save; errors of the save before are raised here.

    Args:
      step: optimiser steps done; a step that is saved already is left alone.
      state: tree of arrays, which may be donated once this returns.
      position: values that JSON can hold.
      error: the number to minimise, the headline metric's mean over the widths;
        None if this state was not evaluated.
    """
    if step in self._manager.all_steps():
      return
    with self._explained():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(_to_disk(state)),
          # The copy is written later, when the caller's sums have changed.
          position=ocp.args.JsonSave(copy.deepcopy(dict(position))),
        ),
        metrics=None if error is None else {'error': error},
        force=True,
      )

  def wait(self) -> int | None:
    """Waits until the last save is whole, and returns the latest step.

    Raises:
      SaveError: the save failed.
    """
    with self._explained():
      self._manager.wait_until_finished()
    return self.latest

  @property
  def latest(self) -> int | None:
    """Returns the step of the latest whole checkpoint, or None."""
    return self._manager.latest_step()

  @property
  def best(self) -> int | None:
    """Returns the step of the checkpoint with the least validation error."""
    return self._manager.best_step()

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the state and the position of a checkpoint.

    Args:
      step: step of a whole checkpoint.
      like: a state of the same structure, with the shapes and shardings to use.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_disk(like))
    clipped = isinstance(like, TrainState) and self._has_clip(
      step, like.opt_state
    )
    if clipped:
      abstract['opt_state'] = (optax.EmptyState(), *abstract['opt_state'])
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract),
        position=ocp.args.JsonRestore(),
      ),
    )
    tree = restored['state']
    if clipped:
      tree['opt_state'] = tree['opt_state'][1:]
    return _from_disk(tree, like), restored['position']

  def _has_clip(self, step: int, opt_state: Any) -> bool:
    """Returns whether clipping was a link of the chain, as in old runs."""
    saved = self._manager.item_metadata(step)['state']
    links = saved['opt_state'] if saved is not None else opt_state
    return isinstance(opt_state, tuple) and len(links) == len(opt_state) + 1

  def restore_variables(self, step: int) -> dict[str, Any]:
    """Returns the variables alone, as numpy arrays, whatever wrote them."""
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
    )
    rest = ('step', 'opt_state')
    return {k: v for k, v in restored['state'].items() if k not in rest}
