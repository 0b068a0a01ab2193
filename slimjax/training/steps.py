"""Training and evaluation steps: the only code that trains several widths.

One training step is a few compiled programs:

1. `prepare`: augments the batch, once for all widths;
2. `gradient[switch]`, widest first: loss and gradient of one width, added to
   what the wider ones left. Nothing leaves a device;
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

The programs of the last networks are kept: to train or evaluate one again in
the same process, from another seed, traces and compiles none of them again.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.flatten_util
import jax.numpy as jnp
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
from slimjax.training.mesh import compiler_options
from slimjax.training.state import trained
from slimjax.training.state import TrainState
from slimjax.variables import select
from slimjax.variables.format import PARAMS
from slimjax.variables.format import SHARED
from slimjax.variables.format import TRAINED
from slimjax.widths import label
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
    prepare: (batch, key, step) -> batch, key of the step
    gradient: of every switch: (variables, batch, key, carry) -> carry, private.
      The first of a step takes an empty carry; the carry is the sum so far of
      the gradients of what is shared, the states that are, and what the widths
      before teach.
    update: (state, shared, private by switch) -> state, metrics
    key: of the run's randomness.
  """

  widths: Mapping[str, Width]
  prepare: Any
  gradient: Mapping[str, Any]
  update: Any
  key: jax.Array

  def __call__(
    self, state: TrainState, batch: Batch, widths: Sequence[Width] = ()
  ):
    """Takes one optimiser step.

    Args:
      state: donated.
      batch: over all devices, as `shard` places it.
      widths: of this step, widest first; by default all.
    """
    batch, key = self.prepare(batch, self.key, state.step)
    carry: Any = {}
    private = {}
    for switch in self._switches(widths):
      selected = select(state.variables, switch)
      carry, private[switch] = self.gradient[switch](
        selected, batch, key, carry
      )
    return self.update(state, carry['shared'], private)

  def _switches(self, widths: Sequence[Width]) -> list[str]:
    if not widths:
      return list(self.widths)
    switches = {width: switch for switch, width in self.widths.items()}
    unknown = [width for width in widths if width not in switches]
    if unknown:
      raise ValueError(
        f'width {label(unknown[0])} is not one of'
        f' {", ".join(map(label, switches))}'
      )
    return [switches[width] for width in widths]

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

    def gradient(switch):
      arguments = (
        select(state.variables, switch),
        known['batch'],
        known['key'],
        known['carry'],
      )
      program = self.gradient[switch]
      lowered = program.lower(*arguments)
      known['carry'], known['private'][switch] = _described(program, *arguments)
      return lowered

    def update():
      return self.update.lower(
        state, known['carry']['shared'], known['private']
      )

    return {
      'the augmentation': prepare,
      **{
        f'width {label(width)}': functools.partial(gradient, switch)
        for switch, width in self.widths.items()
      },
      'the update': update,
    }

  def lower(self, state: TrainState, batch: Batch) -> dict[str, Any]:
    """Returns the lowered programs: prepare, gradient/SWITCH, update."""
    names = ['prepare', *(f'gradient/{s}' for s in self.widths), 'update']
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
      say: see `compile_all`.
    """
    compiled = compile_all(self.lowering(state, batch), say)
    prepare, *gradient, update = map(
      _Program,
      compiled.values(),
      (self.prepare, *self.gradient.values(), self.update),
    )
    return dataclasses.replace(
      self,
      prepare=prepare,
      gradient=dict(zip(self.widths, gradient, strict=True)),
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

  def __call__(self, *arguments):
    given = jax.tree.structure((arguments, {}))
    if given == self._compiled.in_tree:
      return self._compiled(*arguments)
    return self._function(*arguments)


def _described(program, *arguments):
  """Shapes and shardings of what a jitted program returns."""
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
  seed: int = 0,
  augment: Augment | None = None,
) -> TrainStep:
  """Returns one optimiser step on the summed losses of several widths.

  Args:
    model: the slimmable network.
    task: gives the loss.
    optimizer: over {'params': ..., 'norm': ...}.
    schedule: only to report the learning rate.
    mesh: with the axis `data`: variables replicated, batch split, batch norm
      per device (unless the model synchronises it).
    widths: that are trained, widest first; by default all the model has.
    seed: of everything random, folded with the step.
    augment: prepares the batch, once for all widths; by default it is used as
      it is.
  """
  trained_at = {
    model.switch(width): width for width in widths or model.ordered_widths[::-1]
  }
  return TrainStep(
    widths=trained_at,
    prepare=_prepare_program(augment, mesh),
    gradient={
      switch: gradient_program(model, task, width, mesh)
      for switch, width in trained_at.items()
    },
    update=_update_program(optimizer, schedule, mesh),
    key=_replicated_key(seed, mesh),
  )


def _replicated_key(seed: int, mesh: Mesh) -> jax.Array:
  # As plain numbers: keys cannot be put on devices of other processes.
  data = np.asarray(jax.random.key_data(jax.random.key(seed)))
  data = jax.device_put(data, NamedSharding(mesh, P()))
  return jax.random.wrap_key_data(data)


@functools.lru_cache(maxsize=KEPT)
def _prepare_program(augment: Augment | None, mesh: Mesh):
  replicated = NamedSharding(mesh, P())
  split = NamedSharding(mesh, P(AXIS))

  def prepare(batch, key, step):
    key = jax.random.fold_in(key, step)
    return (batch if augment is None else augment(key, batch)), key

  return jax.jit(
    prepare,
    in_shardings=(split, replicated, replicated),
    out_shardings=(split, replicated),
  )


@functools.lru_cache(maxsize=KEPT)
def _update_program(
  optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh
):
  def update(state, shared, private):
    if mesh.size == 1:  # nothing to average, and no copy to do it in
      shared, private = jax.tree.map(lambda x: x[0], (shared, private))
    else:
      average = jax.shard_map(
        _average, mesh=mesh, in_specs=P(AXIS), out_specs=P()
      )
      shared, private = average(shared, private)
    old = trained(state.variables)
    gradients = {
      name: shared['gradients'][PARAMS]
      if name == PARAMS
      else _trees(tree, private, shared, 'gradients', name)
      for name, tree in old.items()
    }
    updates, opt_state = optimizer.update(gradients, state.opt_state, old)
    new = optax.apply_updates(old, updates)
    moved = {
      name: _trees(tree, private, shared, 'states', name)
      for name, tree in state.variables.items()
      if name not in TRAINED
    }
    metrics = {
      'widths': {
        switch: jax.tree.map(lambda x: x * mesh.size, of_switch['metrics'])
        for switch, of_switch in private.items()
      },
      'gradient_norm': optax.tree.norm(gradients),
      'learning_rate': schedule(state.step),
    }
    state = TrainState(
      step=state.step + 1,
      variables={**state.variables, **new, **moved},
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(
    update,
    donate_argnums=0,
    out_shardings=NamedSharding(mesh, P()),
    compiler_options=compiler_options(mesh),
  )


def _trees(old, private, shared, kind, collection):
  """A collection as the state has it: a tree per switch, and what is shared.

  Switches that the step did not train have no gradient, and keep their state.
  """
  idle = lambda tree: (
    jax.tree.map(jnp.zeros_like, tree) if kind == 'gradients' else tree
  )
  trees = {
    switch: private[switch][kind][collection]
    if switch in private
    else idle(tree)
    for switch, tree in old.items()
    if switch != SHARED
  }
  if SHARED in old:
    trees[SHARED] = shared[kind][collection]
  return trees


def _average(shared, private):
  """Means over the devices of what each has of its own, in one reduction."""
  shared, private = jax.tree.map(lambda x: x[0], (shared, private))
  # As one vector: XLA joins reductions, but no more than some hundred arrays,
  # and the norms of many widths are more.
  params = shared['gradients'].pop(PARAMS)
  vector, unravel = jax.flatten_util.ravel_pytree((shared, private))
  params, vector = lax.pmean((params, vector), AXIS)
  shared, private = unravel(vector)
  shared['gradients'][PARAMS] = params
  return shared, private


@functools.lru_cache(maxsize=KEPT)
def make_eval_step(
  model: SlimNet, task: Task, mesh: Mesh, preprocess: Callable | None = None
) -> Callable:
  """Returns `measured = step(variables, batch)` of a model's one width.

  Args:
    model: from `slimjax.extract`; its weights are an argument, so that no slice
      is taken inside the compiled function.
    task: says what is measured.
    mesh: with the axis `data`, over which the batch is split.
    preprocess: images -> floating images; by default they are used as they are.

  Returns:
    A jitted function of the model's variables and a batch with `mask` (False
    for padding); it returns what `task.measure` does.
  """
  (width,) = model.widths
  switch = model.switch(width)

  def evaluate(variables, batch):
    if preprocess is not None:
      batch = {**batch, 'image': preprocess(batch['image'])}
    selected = select(variables, switch)
    forward = functools.partial(model.apply, selected, width=width)
    return task.measure(forward, batch)

  replicated = NamedSharding(mesh, P())
  return jax.jit(
    evaluate,
    in_shardings=(replicated, NamedSharding(mesh, P(AXIS))),
    out_shardings=replicated,
  )
