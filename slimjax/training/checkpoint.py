"""Keeps checkpoints of a run: the last two and the best, each of them whole."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import copy
from typing import Any

from etils import epath
import jax
import optax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy
from orbax.checkpoint.checkpoint_managers import BestN
from orbax.checkpoint.checkpoint_managers import LatestN

from slimjax import digests
from slimjax import files
from slimjax.training import saved
from slimjax.training.state import TrainState

_PATIENCE_SECONDS = 30 * 24 * 3600


class SaveError(RuntimeError):
  """A checkpoint could not be written."""


class RestoreError(RuntimeError):
  """A whole checkpoint cannot be restored."""


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
  """The checkpoints in a folder, to write.

  A checkpoint holds the state (arrays) and the position (JSON: the place in the
  data, the best so far, metrics not yet written), saved as one. Saving is
  asynchronous: a step's checkpoint gets its name only when it is whole. Before
  that its files are read back for their digests, on local disks from the
  system's memory; cloud storage sends them once again.
  """

  def __init__(self, folder: epath.PathLike):
    """Opens a folder, in which `saved.set_damaged_aside` left what is whole."""
    saved.hush()
    self._folder = saved.absolute(folder)
    self._saving: tuple[int, list[str]] | None = None  # step, folders in it
    with files.writing(self._folder, 'What is in it is unchanged'):
      self._manager = ocp.CheckpointManager(
        self._folder,
        # The names let us ask what a checkpoint holds before it is read.
        item_handlers={
          'state': ocp.StandardCheckpointHandler(),
          'position': ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
          create=True,
          cleanup_tmp_directories=True,
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
          async_options=ocp.AsyncOptions(
            # Orbax measures its timeout with the wall clock, which may jump by
            # hours; the heartbeats detect lost processes.
            timeout_secs=_PATIENCE_SECONDS,
            # All processes have written, and nothing has its name yet.
            post_finalization_callback=self._write_digests,
          ),
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
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
      hint = files.mend(error)
      if jax.process_count() > 1:
        hint += ', or see what became of the other processes'
      # The manager counts the failed one; only whole ones have their names.
      whole = saved.steps_in(self._folder)
      last = (
        f'The last whole one is of step {whole[-1]}'
        if whole
        else 'There is no whole one yet'
      )
      why = 'there is not enough memory'
      if not isinstance(error, MemoryError):
        why = saved.short(error)
      raise SaveError(
        f'a checkpoint could not be saved in {self._folder}: {why}\n{last}.'
        f' {hint}; the same command resumes there'
      ) from error

  def _write_digests(self) -> None:
    """Writes the digests of what is being saved, in its thread."""
    assert self._saving is not None
    step, parts = self._saving
    # It stands in a draft; cloud storage has none, but a file that ends it.
    drafts = [
      path
      for path in self._folder.iterdir()
      if path.name.partition('.')[0] == str(step)
    ]
    if len(drafts) != 1:
      raise ValueError(
        f'{len(drafts)} drafts of step {step} where one is written: is another'
        ' run at work in this folder?'
      )
    digests.write(drafts[0], parts, step=step)

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
      self._manager.wait_until_finished()
      metrics = [] if error is None else ['metrics']
      self._saving = step, ['state', 'position', *metrics]
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

    Raises:
      RestoreError: it is of another structure, or cannot be read now.
    """
    path = self._folder / str(step)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_disk(like))
    try:
      clipped = isinstance(like, TrainState) and _has_clip(path, like.opt_state)
      if clipped:
        abstract['opt_state'] = (optax.EmptyState(), *abstract['opt_state'])
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),
      )
      position = saved.read_position(path)
    except (OSError, MemoryError) as error:
      raise RestoreError(
        f'the checkpoint {path} cannot be read now: {files.reason(error)}.'
        f' Nothing was changed. {files.mend(error)}; the same command resumes'
      ) from error
    except (ValueError, TypeError, LookupError) as error:
      raise RestoreError(
        f'the checkpoint {path} is whole, but does not fit the run:'
        f' {saved.short(error)}\nNothing was changed. Was the code of the'
        ' network, its task or its optimiser changed since? Train again with'
        ' another --workdir'
      ) from error
    tree = restored['state']
    if clipped:
      tree['opt_state'] = tree['opt_state'][1:]
    return _from_disk(tree, like), position


def _has_clip(path: epath.Path, opt_state: Any) -> bool:
  """Returns whether clipping was a link of the chain, as in old runs."""
  with saved.reader() as orbax:
    described = orbax.metadata(path / 'state').item_metadata
  links = opt_state if described is None else described.tree['opt_state']
  return isinstance(opt_state, tuple) and len(links) == len(opt_state) + 1
