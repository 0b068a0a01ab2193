"""Scores a split at several widths."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import operator
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from slimjax.data.batches import Corrupt
from slimjax.data.batches import Share
from slimjax.data.dataset import Dataset
from slimjax.data.prefetch import Prefetched
from slimjax.models.net import SlimNet
from slimjax.tasks.base import Task
from slimjax.training import processes
from slimjax.training.compiling import compile_all
from slimjax.training.compiling import quiet
from slimjax.training.gradient import KEPT
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import shapes_of
from slimjax.training.mesh import shard
from slimjax.variables import extract
from slimjax.variables import select
from slimjax.variables import Variables
from slimjax.variables.slicing import narrow
from slimjax.widths import label
from slimjax.widths import Width


class Evaluator:
  """Scores every example of a split once, at each of some widths.

  The weights of a width are taken out of the shared ones first: its compiled
  function takes no slices. It is compiled once and called as often as wanted.
  """

  def __init__(
    self,
    model: SlimNet,
    task: Task,
    mesh: jax.sharding.Mesh,
    dataset: Dataset,
    *,
    widths: Sequence[Width],
    batch_size: int,
    split: str = 'test',
    say: Callable[[str], None] = quiet,
  ):
    """Prepares the evaluation; nothing is compiled yet.

    Args:
      model: the slimmable network.
      task: task that says what is measured, and how it is scored.
      mesh: mesh of the devices to use.
      dataset: data set that has the split.
      widths: widths to evaluate.
      batch_size: examples in a batch, rounded up to a multiple of the devices.
      split: name of the split to score; default: test.
      say: function that is told what is compiled; default: none.
    """
    self._model = model
    self._task = task
    self._mesh = mesh
    self._dataset = dataset
    self._split = split
    self._say = say
    self._batch_size = -(-batch_size // mesh.size) * mesh.size
    self._steps: dict[Width, Any] = {
      width: make_eval_step(
        narrow(model, width), task, mesh, dataset.preprocess
      )
      for width in widths
    }
    self._compiled: dict[Any, dict[Width, Any]] = {}  # by shapes of a batch

  def __call__(self, variables: Variables) -> dict[Width, dict[str, float]]:
    """Returns the task's scores of each width."""
    return self.scores(self.totals(variables))

  def scores(
    self, totals: Mapping[Width, Any]
  ) -> dict[Width, dict[str, float]]:
    """Returns the task's scores of what `totals` returned."""
    split = self._dataset.splits[self._split]
    return {
      width: self._task.score(total, split) for width, total in totals.items()
    }

  def totals(self, variables: Variables) -> dict[Width, Any]:
    """Returns what the task accumulates over a split, for each width.

    Every example is read once for all widths; nothing is waited for until all
    are on their way. What cannot be decoded is not among the examples.
    """
    weights = {
      width: extract(self._model, variables, width=width)[1]
      for width in self._steps
    }
    totals: dict[Width, Any] = dict.fromkeys(self._steps)
    pending: list[dict[Width, Any]] = []

    def add(measured: dict[Width, Any]) -> None:
      for width, arrays in measured.items():
        arrays = jax.tree.map(np.asarray, arrays)
        for device in range(self._mesh.size):
          part = jax.tree.map(operator.itemgetter(device), arrays)
          totals[width] = self._task.accumulate(totals[width], part)

    corrupt = Corrupt(self._dataset.max_corrupt)
    with Prefetched(
      self._dataset.eval_batches(
        self._split,
        self._batch_size,
        share=Share(jax.process_index(), jax.process_count()),
        corrupt=corrupt,
      ),
      functools.partial(shard, mesh=self._mesh),
    ) as batches:
      for batch in batches:
        steps = self._compile(weights, batch)
        pending.append(
          {w: step(weights[w], batch) for w, step in steps.items()}
        )
        if len(pending) > processes.run_ahead():
          add(pending.pop(0))
    for measured in pending:
      add(measured)
    corrupt.check(processes.gather)
    return totals

  def _compile(self, weights, batch) -> dict[Width, Any]:
    """Returns compiled steps; compiles them side by side for a new shape."""
    shapes = shapes_of(batch)
    if shapes not in self._compiled:
      programs = compile_all(
        {
          f'the evaluation of {label(w)}': functools.partial(
            step.lower, weights[w], batch
          )
          for w, step in self._steps.items()
        },
        self._say,
      )
      self._compiled[shapes] = dict(
        zip(self._steps, programs.values(), strict=True)
      )
    return self._compiled[shapes]


@functools.lru_cache(maxsize=KEPT)
def make_eval_step(
  model: SlimNet,
  task: Task,
  mesh: jax.sharding.Mesh,
  preprocess: Callable | None = None,
) -> Callable:
  """Returns `measured = step(variables, batch)` of a model's one width.

  Args:
    model: a model of `slimjax.extract`; its weights are an argument, so that no
      slice is taken inside the compiled function.
    task: task that says what is measured.
    mesh: mesh with the axis `data`, over which the batch is split.
    preprocess: images -> floating images; by default they are used as they are.

  Returns:
    A jitted function of the model's variables and a batch with `mask` (False
    for padding). It returns what `task.measure` does of each device's part of
    the batch, stacked: devices are the first axis of every array.
  """
  (width,) = model.widths
  switch = model.switch(width)

  def evaluate(variables, batch):
    if preprocess is not None:
      batch = {**batch, 'image': preprocess(batch['image'])}
    selected = select(variables, switch)
    forward = functools.partial(model.apply, selected, width=width)
    return jax.tree.map(lambda x: x[None], task.measure(forward, batch))

  # Left to automatic partitioning, loops and sorts would communicate.
  parts = jax.shard_map(
    evaluate, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS)
  )
  return jax.jit(parts, out_shardings=NamedSharding(mesh, P()))
