"""Training and evaluation steps: the only code that trains several widths.

One training step is a few compiled programs:

1. `prepare`: augments and normalises the batch, once for all widths;
2. `gradient[switch]`, widest first: loss and gradient of one width, added to
   what the wider ones left. Nothing leaves a device;
3. `update`: averages the gradients, statistics and metrics of all widths over
   the devices at once, then steps the optimiser.

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
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.flatten_util
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from slimjax.losses import cross_entropy
from slimjax.losses import soft_cross_entropy
from slimjax.metrics import classification_metrics
from slimjax.models.common import SlimNet
from slimjax.train_state import TrainState
from slimjax.variables import join_shared
from slimjax.variables import leading_blocks
from slimjax.variables import select
from slimjax.variables import SHARED
from slimjax.variables import split_shared
from slimjax.widths import Width

AXIS = 'data'
_KEPT = 16  # programs: of a network or two, at all their widths
Batch = dict[str, Any]  # {'image': [b, h, w, 3], 'label': int32 [b]}
# (key, images of the batch) -> floating images [b, h, w, 3]
Preprocess = Callable[[jax.Array, jax.Array], jax.Array]


def data_mesh(devices: list | None = None) -> Mesh:
  """A mesh of all devices (or of `devices`) along `data`."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def _compiler_options(mesh: Mesh) -> dict[str, Any] | None:
  if mesh.devices.flat[0].platform != 'cpu':
    return None
  return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """`tree` on every device of the mesh, in buffers of its own."""
  # Steps donate the state: an array the caller still holds must not go with it.
  tree = jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
  return jax.device_put(tree, NamedSharding(mesh, P()))


def shard(batch: Batch, mesh: Mesh) -> Batch:
  """This process's examples as global arrays, split over the mesh."""
  sharding = NamedSharding(mesh, P(AXIS))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
    for name, array in batch.items()
  }


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """`state, metrics = step(state, batch)`; see the module's docstring.

  The state is donated: use the one returned.

  The metrics are {'widths': {switch: {'loss', 'top1', 'top5': (sum, count)}},
  'gradient_norm': of the sum over widths, 'learning_rate'}.

  Attributes:
    prepare: (batch, step) -> batch
    gradient: of every switch, widest first: (params, norm, batch_stats, batch,
      carry) -> carry, private. The widest takes an empty carry; the carry is
      the sum so far of the gradients of what is shared, the statistics that
      are, and the widest's soft labels if it teaches.
    update: (state, shared, private by switch) -> state, metrics
  """

  prepare: Any
  gradient: dict[str, Any]
  update: Any

  def __call__(self, state: TrainState, batch: Batch):
    batch = self.prepare(batch, state.step)
    variables = state.variables
    carry: Any = {}
    private = {}
    for switch, gradient in self.gradient.items():
      of_switch = select(variables, switch)
      carry, private[switch] = gradient(
        of_switch['params'],
        of_switch['norm'],
        of_switch['batch_stats'],
        batch,
        carry,
      )
    return self.update(state, carry['shared'], private)

  def lower(self, state: TrainState, batch: Batch) -> dict[str, Any]:
    """The lowered programs by name, of arrays or of their shapes."""
    lowered = {'prepare': self.prepare.lower(batch, state.step)}
    batch = _described(self.prepare, batch, state.step)
    variables = state.variables
    carry: Any = {}
    private = {}
    for switch, gradient in self.gradient.items():
      of_switch = select(variables, switch)
      arguments = (
        of_switch['params'],
        of_switch['norm'],
        of_switch['batch_stats'],
        batch,
        carry,
      )
      lowered[f'gradient/{switch}'] = gradient.lower(*arguments)
      carry, private[switch] = _described(gradient, *arguments)
    lowered['update'] = self.update.lower(state, carry['shared'], private)
    return lowered

  def compile(self, state: TrainState, batch: Batch) -> 'TrainStep':
    """The same step, all its programs compiled, side by side in threads."""
    lowered = self.lower(state, batch)
    with ThreadPoolExecutor() as pool:
      programs = pool.map(lambda program: program.compile(), lowered.values())
      compiled = dict(zip(lowered, programs, strict=True))
    return TrainStep(
      prepare=compiled['prepare'],
      gradient={s: compiled[f'gradient/{s}'] for s in self.gradient},
      update=compiled['update'],
    )


def _described(program, *arguments):
  """Shapes and shardings of what a jitted program returns."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    program.eval_shape(*arguments),
  )


def make_train_step(
  model: SlimNet,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  *,
  seed: int = 0,
  preprocess: Preprocess | None = None,
  label_smoothing: float = 0.0,
  inplace_distillation: bool = False,
) -> TrainStep:
  """One optimiser step on the summed losses of all the model's widths.

  Args:
    model: trained at all its widths, widest first.
    optimizer: over {'params': ..., 'norm': ...}.
    schedule: only to report the learning rate.
    mesh: with the axis `data`: parameters replicated, batch split, batch norm
      per device (unless the model synchronises it).
    seed: of the random keys given to `preprocess`, folded with the step.
    preprocess: see `Preprocess`; images are used as they are unless told.
    label_smoothing: see `slimjax.losses.cross_entropy`.
    inplace_distillation: the widest learns from the labels, the others from its
      soft labels (US-Nets, arXiv 1903.05134, section 3.3).
  """
  if not 0.0 <= label_smoothing < 1.0:
    raise ValueError(
      f'label_smoothing must be in [0, 1), got {label_smoothing}'
    )
  replicated = NamedSharding(mesh, P())
  split = NamedSharding(mesh, P(AXIS))
  widths = {model.switch(width): width for width in model.ordered_widths[::-1]}

  def prepare(batch, step):
    if preprocess is None:
      return batch
    key = jax.random.fold_in(jax.random.key(seed), step)
    return {**batch, 'image': preprocess(key, batch['image'])}

  def update(state, shared, private):
    if mesh.size == 1:  # nothing to average, and no copy to do it in
      shared, private = jax.tree.map(lambda x: x[0], (shared, private))
    else:
      average = jax.shard_map(
        _average, mesh=mesh, in_specs=P(AXIS), out_specs=P()
      )
      shared, private = average(shared, private)
    gradients = {
      'params': shared['params'],
      'norm': _trees(private, shared, 'norm'),
    }
    trainable = {'params': state.params, 'norm': state.norm}
    updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
    trainable = optax.apply_updates(trainable, updates)
    metrics = {
      'widths': {
        switch: jax.tree.map(lambda x: x * mesh.size, new['metrics'])
        for switch, new in private.items()
      },
      'gradient_norm': optax.tree.norm(gradients),
      'learning_rate': schedule(state.step),
    }
    state = TrainState(
      step=state.step + 1,
      batch_stats=_trees(private, shared, 'batch_stats'),
      opt_state=opt_state,
      **trainable,
    )
    return state, metrics

  return TrainStep(
    prepare=jax.jit(
      prepare, in_shardings=(split, replicated), out_shardings=split
    ),
    gradient={
      switch: _gradient_program(
        model, width, mesh, label_smoothing, inplace_distillation
      )
      for switch, width in widths.items()
    },
    update=jax.jit(
      update,
      donate_argnums=0,
      out_shardings=replicated,
      compiler_options=_compiler_options(mesh),
    ),
  )


def _trees(private, shared, collection):
  """A collection as the state has it: a tree per switch, and what is shared."""
  trees = {switch: new[collection] for switch, new in private.items()}
  return (
    {**trees, SHARED: shared[collection]} if collection in shared else trees
  )


def _average(shared, private):
  """Means over the devices of what each has of its own, in one reduction."""
  shared, private = jax.tree.map(lambda x: x[0], (shared, private))
  # As one vector: XLA joins reductions, but no more than some hundred arrays,
  # and the norms of many widths are more.
  params = shared.pop('params')
  vector, unravel = jax.flatten_util.ravel_pytree((shared, private))
  params, vector = lax.pmean((params, vector), AXIS)
  shared, private = unravel(vector)
  return {'params': params, **shared}, private


@functools.lru_cache(maxsize=_KEPT)
def _gradient_program(
  model: SlimNet,
  width: Width,
  mesh: Mesh,
  label_smoothing: float,
  inplace_distillation: bool,
):
  """Loss and gradient of one width on one device's share of the batch."""
  first = width == model.ordered_widths[-1]

  def gradient(params, norm, batch_stats, batch, carry):
    carry = {**carry}
    labels = batch['label']
    blocks = leading_blocks(
      model,
      {
        'params': params,
        'norm': {model.switch(width): norm},
        'batch_stats': {model.switch(width): batch_stats},
      },
      width=width,
    )

    def loss_fn(trainable):
      logits, new = model.apply(
        {**trainable, 'batch_stats': batch_stats},
        batch['image'],
        width=width,
        train=True,
        mutable=['batch_stats'],
      )
      if inplace_distillation and not first:
        losses = soft_cross_entropy(logits, carry['teacher'])
      else:
        losses = cross_entropy(logits, labels, label_smoothing=label_smoothing)
      return jnp.mean(losses), (logits, losses, new['batch_stats'])

    # Varying, or every gradient would be summed over the devices on its own.
    trainable, batch_stats = jax.tree.map(
      lambda x: lax.pcast(x, AXIS, to='varying'),
      ({'params': params, 'norm': norm}, batch_stats),
    )
    if 'batch_stats' in carry.get('shared', {}):  # as the wider ones left them
      stats, _ = split_shared(model, 'batch_stats', batch_stats)
      moved = jax.tree.map(lambda x: x[0], carry['shared']['batch_stats'])
      batch_stats = join_shared(stats, moved)
    gradients, (logits, losses, new_stats) = jax.grad(loss_fn, has_aux=True)(
      trainable
    )
    if inplace_distillation and first:
      carry['teacher'] = jax.nn.softmax(logits)
    norm, shared_norm = split_shared(model, 'norm', gradients['norm'])
    stats, shared_stats = split_shared(model, 'batch_stats', new_stats)
    private = {
      'norm': norm,
      'batch_stats': stats,
      'metrics': classification_metrics(logits, labels, losses),
    }
    shared = {'params': gradients['params']}
    if shared_norm:
      shared['norm'] = shared_norm
    if shared_stats:
      shared['batch_stats'] = shared_stats
    private, shared = jax.tree.map(lambda x: x[None], (private, shared))
    if not first:
      total = carry['shared']
      shared['params'] = _add_in_place(
        total['params'], gradients['params'], blocks
      )
      if shared_norm:
        shared['norm'] = jax.tree.map(jnp.add, total['norm'], shared['norm'])
    carry['shared'] = shared
    return carry, private

  mapped = jax.shard_map(
    gradient,
    mesh=mesh,
    in_specs=(P(), P(), P(), P(AXIS), P(AXIS)),
    out_specs=P(AXIS),
  )
  return jax.jit(
    mapped, donate_argnums=4, compiler_options=_compiler_options(mesh)
  )


def _add_in_place(total, gradients, blocks):
  """Adds gradients that are zero outside leading blocks, and touches no more.

  Args:
    total: tree of arrays [1, ...]; written in place, if donated.
    gradients: tree of arrays [...].
    blocks: their shapes, in the order of the leaves.
  """

  def add(old, gradient, block):
    block = (1, *block)
    new = lax.slice(gradient[None], [0] * len(block), block)
    if block == old.shape:
      return old + new
    new += lax.slice(old, [0] * len(block), block)
    return lax.dynamic_update_slice(old, new, [0] * len(block))

  leaves, structure = jax.tree.flatten(total)
  return structure.unflatten(
    map(add, leaves, jax.tree.leaves(gradients), blocks)
  )


@functools.lru_cache(maxsize=_KEPT)
def make_eval_step(model: SlimNet, mesh: Mesh, preprocess=None) -> Callable:
  """`metrics = step(variables, batch)` of an extracted model's one width.

  Args:
    model: from `slimjax.extract`; its weights are an argument, so that no slice
      is taken inside the compiled function.
    mesh: with the axis `data`, over which the batch is split.
    preprocess: images -> floating images; used as they are unless told.

  Returns:
    A jitted function of the model's variables and a batch with `mask` (False
    for padding); it returns `classification_metrics` of the batch.
  """
  (width,) = model.widths
  switch = model.switch(width)

  def evaluate(variables, batch):
    images = batch['image']
    if preprocess is not None:
      images = preprocess(images)
    logits = model.apply(select(variables, switch), images, width=width)
    losses = cross_entropy(logits, batch['label'])
    return classification_metrics(logits, batch['label'], losses, batch['mask'])

  replicated = NamedSharding(mesh, P())
  return jax.jit(
    evaluate,
    in_shardings=(replicated, NamedSharding(mesh, P(AXIS))),
    out_shardings=replicated,
  )
