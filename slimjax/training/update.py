"""The end of a training step: averages over the devices, and the optimiser."""

import functools

import jax
from jax import lax
import jax.flatten_util
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import optax

from slimjax.training.gradient import KEPT
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import compiler_options
from slimjax.training.state import trained
from slimjax.training.state import TrainState
from slimjax.variables.format import PARAMS
from slimjax.variables.format import SHARED
from slimjax.variables.format import TRAINED


@functools.lru_cache(maxsize=KEPT)
def update_program(
  optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh
):
  """Returns `state, metrics = update(state, shared, private)`, jitted.

  Args:
    optimizer: optimiser of the trained variables.
    schedule: learning rate by step, for the metrics.
    mesh: mesh with the axis `data`.

  The arrays of `shared` (sums over the widths) and `private` (by switch) have a
  leading axis of devices; see `slimjax.training.gradient`.
  """

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
  """Returns a collection as the state has it: a tree per switch, and shared.

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
  """Returns means over the devices of what each has, in one reduction."""
  shared, private = jax.tree.map(lambda x: x[0], (shared, private))
  # They are one vector: XLA joins reductions, but no more than some hundred
  # arrays, and the norms of many widths are more.
  params = shared['gradients'].pop(PARAMS)
  vector, unravel = jax.flatten_util.ravel_pytree((shared, private))
  params, vector = lax.pmean((params, vector), AXIS)
  shared, private = unravel(vector)
  shared['gradients'][PARAMS] = params
  return shared, private
