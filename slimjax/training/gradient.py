"""Loss and gradient of one width: the program that a step runs per width."""

import functools
import zlib

from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from slimjax.models.net import SlimNet
from slimjax.tasks.base import Task
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import compiler_options
from slimjax.training.parts import hold_norms
from slimjax.training.parts import Paths
from slimjax.training.parts import stop_frozen
from slimjax.training.state import trained
from slimjax.variables.format import join_shared
from slimjax.variables.format import PARAMS
from slimjax.variables.format import split_shared
from slimjax.variables.format import TRAINED
from slimjax.variables.masking import mask_norm
from slimjax.variables.masking import NORM
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width
from slimjax.widths import Width

KEPT = 16  # programs: of a network or two, at all their widths


class _Forward:
  """One width's network in training; keeps the state that calls move."""

  def __init__(self, model, variables, state, key, frozen):
    self._model = model
    self._variables = variables
    self._key = key
    self._frozen = frozen
    self.state = state

  def __call__(self, *inputs, **options):
    (width,) = self._model.widths
    with hold_norms(self._model.switch(width), self._frozen):
      outputs, new = self._model.apply(
        {**self._variables, **self.state},
        *inputs,
        width=width,
        train=True,
        mutable=list(self.state),
        rngs={'dropout': self._key},
        **options,
      )
    self.state = {**self.state, **new}
    return outputs


@functools.lru_cache(maxsize=KEPT)
def gradient_program(
  model: SlimNet,
  task: Task,
  width: Width,
  mesh: Mesh,
  frozen: Paths = frozenset(),
  *,
  masked: bool = False,
):
  """Returns one width's gradient program, on a device's share of a batch.

  Args:
    model: the slimmable network.
    task: task that gives the loss.
    width: width that the program is compiled at.
    mesh: mesh with the axis `data`.
    frozen: paths of what is not trained; default: none.
    masked: whether the program takes the counts of a width inside this one, and
      its place among the random ones of a step; such a pass moves no state.
      Default: no.
  """
  small = narrow(model, width)
  switch = small.switch(width)
  said = ('random' if masked else switch).encode()

  def gradient(selected, batch, key, carry, drawn=None):
    carry = {**carry}
    total = carry.get('shared', {'gradients': {}, 'states': {}})
    key = jax.random.fold_in(key, zlib.crc32(said))
    if masked:
      key = jax.random.fold_in(key, drawn['place'])
    key = jax.random.fold_in(key, lax.axis_index(AXIS))
    # They vary, or every gradient would be summed over the devices on its own.
    selected = jax.tree.map(
      lambda x: lax.pcast(x, AXIS, to='varying'), selected
    )
    for name, moved in total['states'].items():  # as the wider ones left them
      private, _ = split_shared(model, name, selected[name])
      moved = jax.tree.map(lambda x: x[0], moved)
      selected[name] = join_shared(private, moved)
    variables = take_width(model, selected, width=width)
    trainable = trained(variables)
    state = {n: tree for n, tree in variables.items() if n not in TRAINED}

    def loss_fn(trainable):
      trainable = stop_frozen(trainable, switch, frozen)
      if masked:
        norm = mask_norm(small, trainable[NORM], drawn['counts'])
        trainable = {**trainable, NORM: norm}
      forward = _Forward(small, trainable, state, key, frozen)
      losses, taught, metrics = task.loss(
        forward, batch, key, carry.get('teacher')
      )
      taught = jax.tree.map(lax.stop_gradient, taught)
      return jnp.mean(losses), (forward.state, taught, metrics)

    gradients, (state, taught, metrics) = jax.grad(loss_fn, has_aux=True)(
      trainable
    )
    gradients, shared_gradients = _split(model, gradients)
    state, shared_state = ({}, {}) if masked else _split(model, state)
    private = {'gradients': gradients, 'states': state, 'metrics': metrics}
    parts = cuts(model, width)
    carry['shared'] = {
      'gradients': {
        name: _add(
          parts, name, tree, selected[name], total['gradients'].get(name)
        )
        for name, tree in shared_gradients.items()
      },
      'states': {
        **total['states'],
        **{
          name: _put(
            parts, name, tree, split_shared(model, name, selected[name])
          )
          for name, tree in shared_state.items()
        },
      },
    }
    private = jax.tree.map(lambda x: x[None], private)
    if taught is not None:
      carry['teacher'] = taught
    return carry, private

  mapped = jax.shard_map(
    gradient,
    mesh=mesh,
    in_specs=(P(), P(AXIS), P(), P(AXIS), *((P(),) if masked else ())),
    out_specs=P(AXIS),
  )
  return jax.jit(
    mapped, donate_argnums=3, compiler_options=compiler_options(mesh)
  )


def _split(model, collections):
  """Returns {collection: private tree} and {collection: shared tree}."""
  private, shared = {}, {}
  for name, tree in collections.items():
    if name == PARAMS:
      shared[name] = tree
      continue
    private[name], of_all = split_shared(model, name, tree)
    if of_all:
      shared[name] = of_all
  return private, shared


def _add(parts, collection, gradients, whole, total):
  """Adds the gradients of a width's part to those of the whole, in place.

  Args:
    parts: cuts of the width, as `cuts` returns them.
    collection: collection of the gradients.
    gradients: tree of the width's part.
    whole: tree that all widths share, for the shapes.
    total: tree of arrays [1, ...], of the wider ones; None at the first.
  """
  small = traverse_util.flatten_dict(gradients)
  if total is None:
    sums = {}
    for path, array in traverse_util.flatten_dict(whole).items():
      cut = parts.get((collection, *path))
      if path in small and cut.is_whole:
        sums[path] = small[path][None]
      elif path in small or collection == PARAMS:
        zeros = jnp.zeros(array.shape, array.dtype)
        zeros = lax.pcast(zeros, AXIS, to='varying')
        zeros = cut.put(zeros, small[path]) if path in small else zeros
        sums[path] = zeros[None]
  else:
    sums = traverse_util.flatten_dict(total)
    for path, part in small.items():
      # The leading axis stays: XLA would copy an array that changes its shape.
      cut = parts[collection, *path].stacked
      sums[path] = cut.add(sums[path], part[None])
  return traverse_util.unflatten_dict(sums)


def _put(parts, collection, state, whole):
  """Puts the state of a width's part into that of the whole, which is shared.

  Args:
    parts: cuts of the width, as `cuts` returns them.
    collection: collection of the state.
    state: tree of the width's part.
    whole: private and shared trees, as `split_shared` returns them.
  """
  _, shared = whole
  flat = traverse_util.flatten_dict(shared)
  for path, part in traverse_util.flatten_dict(state).items():
    flat[path] = parts[collection, *path].put(flat[path], part)
  return traverse_util.unflatten_dict(
    {path: array[None] for path, array in flat.items()}
  )
