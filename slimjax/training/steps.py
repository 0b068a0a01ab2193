"""The training step: the only code that trains several widths.

One training step is a few compiled programs:

1. `prepare`: augments the batch and does what else a task does once for all
   widths;
2. `gradient[switch]`, widest first: loss and gradient of one width, added to
   what the wider ones left. Nothing leaves a device. A width that has no
   program of its own, as it was drawn for this step, runs in `masked[bound]`;
3. `update`: averages the gradients, states and metrics of all widths over the
   devices at once, then steps the optimiser.

A width's program takes its part of the shared parameters first (see
`slimjax.variables.slicing`), differentiates the small tree, and adds that to
the same part of the sum, in place.

One program for all widths would hold the activations of several at a time, as
its scheduler is free to interleave them. Programs run one after another, so the
largest bounds the memory on every backend, and each compiles apart. On CPU they
are scheduled for memory: its default would keep every layer's gradient until
the end.

Between programs an array private to a device has a leading axis of devices.

The programs of the last networks are kept: to train one again in the same
process, from another seed, traces and compiles none of them again.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.flatten_util
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from slimjax.data.batches import Batch
from slimjax.models.net import SlimNet
from slimjax.tasks.base import Task
from slimjax.training.compiling import compile_all
from slimjax.training.compiling import quiet
from slimjax.training.gradient import gradient_program
from slimjax.training.gradient import KEPT
from slimjax.training.mesh import AXIS
from slimjax.training.parts import Paths
from slimjax.training.plans import check_random
from slimjax.training.state import TrainState
from slimjax.training.update import update_program
from slimjax.variables import select
from slimjax.variables.masking import counts_of
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width

# (key, batch) -> batch, for all widths at once; see `slimjax.data.dataset`.
Augment = Callable[[jax.Array, Batch], Batch]


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """`state, metrics = step(state, batch)`; see the module's docstring.

  The state is donated: use the one returned.

  The metrics are {'widths': {switch: {name: (sum, count)}}, 'gradient_norm': of
  the sum over widths, 'learning_rate'}; the names are the task's.

  Attributes:
    widths: {switch: width}, all that can be trained, widest first.
    prepare: (batch, key, step) -> batch, key of the step.
    gradient: {switch: (variables, batch, key, carry) -> carry, private}. The
      first of a step takes an empty carry; the carry is the sum so far of the
      gradients of what is shared, the states that are, and what the widths
      before teach.
    update: (state, shared, private by switch) -> state, metrics.
    key: random key of the run.
  """

  model: SlimNet
  widths: Mapping[str, Width]
  prepare: Any
  gradient: Mapping[str, Any]
  update: Any
  key: jax.Array
  masked: Mapping[Width, Any] = dataclasses.field(default_factory=dict)
  random: int = 0

  def __call__(
    self, state: TrainState, batch: Batch, widths: Sequence[Width] = ()
  ):
    """Takes one optimiser step.

    Args:
      state: the state before, which is donated.
      batch: the batch over all devices, as `shard` places it.
      widths: widths of this step, widest first; default: all.
    """
    chosen = self._chosen(widths)
    batch, key = self.prepare(batch, self.key, state.step)
    carry: Any = {}
    private = {}
    for name, switch, program, drawn in chosen:
      selected = select(state.variables, switch)
      carry, private[name] = program(selected, batch, key, carry, *drawn)
    return self.update(state, carry['shared'], private)

  def _chosen(
    self, widths: Sequence[Width]
  ) -> list[tuple[str, str, Any, tuple[Any, ...]]]:
    """Returns name, switch, program and drawn channels of each width."""
    switches = {width: switch for switch, width in self.widths.items()}
    widest = next(iter(self.widths))
    found: list[tuple[str, str, Any, tuple[Any, ...]]] = []
    place = 0
    for width in widths or switches:
      if width in switches:
        switch = switches[width]
        found.append((switch, switch, self.gradient[switch], ()))
      elif place < self.random:
        program, drawn = self._masked(width, place)
        found.append((random_name(place), widest, program, (drawn,)))
        place += 1
      else:
        known = ', '.join(map(label, switches))
        raise ValueError(
          f'width {label(width)} is not one of {known}'
          + (f', and only {self.random} others are' if self.random else '')
        )
    return found

  def _masked(self, width: Width, place: int) -> tuple[Any, Any]:
    """Returns the program of the smallest bound that holds a width, and it."""
    counts = counts_of(self.model, width)
    for bound, program in self.masked.items():
      if np.all(counts <= counts_of(self.model, bound)):
        return program, {'counts': counts, 'place': np.int32(place)}
    raise ValueError(
      f'width {label(width)} is wider than {label(list(self.masked)[-1])}'
    )

  def lowering(
    self, state: TrainState, batch: Batch
  ) -> dict[str, Callable[[], Any]]:
    """Returns functions that trace each program, to be called in their order.

    Args:
      state: arrays, or their shapes.
      batch: arrays, or their shapes.
    """
    known: dict[str, Any] = {'carry': {}, 'private': {}}

    def prepare():
      known['batch'], known['key'] = _described(
        self.prepare, batch, self.key, state.step
      )
      return self.prepare.lower(batch, self.key, state.step)

    def gradient(switch, program, names, *drawn):
      arguments = (
        select(state.variables, switch),
        known['batch'],
        known['key'],
        known['carry'],
        *drawn,
      )
      lowered = program.lower(*arguments)
      known['carry'], private = _described(program, *arguments)
      known['private'] |= dict.fromkeys(names, private)
      return lowered

    def update():
      return self.update.lower(
        state, known['carry']['shared'], known['private']
      )

    return {
      'the augmentation': prepare,
      **{
        f'width {label(width)}': functools.partial(
          gradient, switch, self.gradient[switch], [switch]
        )
        for switch, width in self.widths.items()
      },
      **{
        f'random widths to {label(bound)}': functools.partial(
          gradient,
          next(iter(self.widths)),
          program,
          map(random_name, range(self.random)),
          {'counts': counts_of(self.model, bound), 'place': np.int32(0)},
        )
        for bound, program in self.masked.items()
      },
      'the update': update,
    }

  def lower(self, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Returns the lowered programs by name.

    They are prepare, gradient/SWITCH, masked/SWITCH of a bound, and update.
    """
    names = [
      'prepare',
      *(f'gradient/{switch}' for switch in self.widths),
      *(f'masked/{switch_name(bound)}' for bound in self.masked),
      'update',
    ]
    traces = self.lowering(state, batch).values()
    return {name: trace() for name, trace in zip(names, traces, strict=True)}

  def compile(
    self,
    state: TrainState,
    batch: Batch,
    say: Callable[[str], None] = quiet,
  ) -> 'TrainStep':
    """Returns the same step, all its programs compiled, side by side.

    Args:
      state: arrays, or their shapes.
      batch: arrays, or their shapes.
      say: see `compile_all`; default: none.
    """
    compiled = compile_all(self.lowering(state, batch), say)
    prepare, *gradient, update = map(
      _Program,
      compiled.values(),
      (
        self.prepare,
        *self.gradient.values(),
        *self.masked.values(),
        self.update,
      ),
    )
    own = len(self.widths)
    return dataclasses.replace(
      self,
      prepare=prepare,
      gradient=dict(zip(self.widths, gradient[:own], strict=True)),
      masked=dict(zip(self.masked, gradient[own:], strict=True)),
      update=update,
    )


class _Program:
  """A compiled program, and the function it was compiled from.

  A step of fewer widths has arguments of another structure: then it is the
  function's turn, which compiles that structure once.
  """

  def __init__(self, compiled, function):
    self._compiled = compiled
    self._function = function
    self.as_text = compiled.as_text
    self.cost_analysis = compiled.cost_analysis
    self.memory_analysis = compiled.memory_analysis

  def __call__(self, *arguments):
    given = jax.tree.structure((arguments, {}))
    if given == self._compiled.in_tree:
      return self._compiled(*arguments)
    return self._function(*arguments)


def random_name(place: int) -> str:
  """Returns the name, in metrics, of a step's random width: 'random1', ..."""
  return f'random{place + 1}'


def _described(program, *arguments):
  """Returns the shapes and shardings of what a jitted program returns."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    program.eval_shape(*arguments),
  )


def make_train_step(
  model: SlimNet,
  task: Task,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  *,
  widths: Sequence[Width] = (),
  bounds: Sequence[Width] = (),
  random: int = 0,
  seed: int = 0,
  augment: Augment | None = None,
  frozen: Paths = frozenset(),
) -> TrainStep:
  """Returns one optimiser step on the summed losses of several widths.

  Args:
    model: the slimmable network.
    task: task that gives the loss.
    optimizer: optimiser over {'params': ..., 'norm': ...}.
    schedule: learning rate by step, which is only reported.
    mesh: mesh with the axis `data`: variables replicated, batch split, batch
      norm per device (unless the model synchronises it).
    widths: widths to train, widest first; default: all the model has.
    bounds: widths inside which a step may train others; default: none.
    random: number of others in each step; default: 0.
    seed: seed of everything random, folded with the step; default: 0.
    augment: function that prepares the batch, once for all widths; by default
      it is used as it is.
    frozen: paths of what is not trained; see `parts.Parts`. Default: none.
  """
  trained_at = {
    model.switch(width): width for width in widths or model.ordered_widths[::-1]
  }
  if random:
    check_random(model, frozen)
  return TrainStep(
    model=model,
    widths=trained_at,
    prepare=_prepare_program(model, task, augment, mesh),
    gradient={
      switch: gradient_program(model, task, width, mesh, frozen)
      for switch, width in trained_at.items()
    },
    masked={
      bound: gradient_program(model, task, bound, mesh, frozen, masked=True)
      for bound in sorted(bounds, key=lambda b: sum(model.channels(b)))
    },
    random=random,
    update=update_program(optimizer, schedule, mesh),
    key=_replicated_key(seed, mesh),
  )


def _replicated_key(seed: int, mesh: Mesh) -> jax.Array:
  # It is put as plain numbers: keys cannot be, on other processes' devices.
  data = np.asarray(jax.random.key_data(jax.random.key(seed)))
  data = jax.device_put(data, NamedSharding(mesh, P()))
  return jax.random.wrap_key_data(data)


@functools.lru_cache(maxsize=KEPT)
def _prepare_program(
  model: SlimNet, task: Task, augment: Augment | None, mesh: Mesh
):
  finish = getattr(task, 'prepare', None)
  replicated = NamedSharding(mesh, P())
  split = NamedSharding(mesh, P(AXIS))

  def prepare(batch, key, step):
    key = jax.random.fold_in(key, step)
    if augment is not None:
      batch = augment(key, batch)
    if finish is not None:
      batch = finish(model, batch, key)
    return batch, key

  return jax.jit(
    prepare,
    in_shardings=(split, replicated, replicated),
    out_shardings=(split, replicated),
  )
