"""Loops under `jax.shard_map`, where some arrays vary over the devices."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp


def varying_as(start: Any, *others: jax.Array) -> Any:
  """Returns the start of a loop, which varies wherever `others` do.

  The state of a loop must vary over the devices from the start if its body
  makes it so. Nothing is computed: XLA drops it.

  Args:
    start: tree of arrays.
    *others: arrays that the body uses.
  """
  never = functools.reduce(
    operator.or_, (jnp.any(other != other) for other in others)
  )
  never &= False
  return jax.tree.map(lambda x: jnp.where(never, x, x), start)
