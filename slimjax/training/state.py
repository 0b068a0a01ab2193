"""The state of a training run: one frozen dataclass of arrays."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from slimjax.variables import Variables
from slimjax.variables.format import TRAINED


class TrainState(flax.struct.PyTreeNode):
  """Everything an optimiser step reads and writes.

  Attributes:
    step: int32 [], optimiser steps done.
    variables: whatever collections the network has, as `slimjax.apply` takes
      them; see `slimjax.variables.format`.
    opt_state: state of the optimiser over the trained collections.
  """

  step: jax.Array
  variables: dict[str, Any]
  opt_state: Any

  @classmethod
  def create(
    cls, variables: Variables, optimizer: optax.GradientTransformation
  ) -> 'TrainState':
    """Returns the state before the first step."""
    return cls(
      step=jnp.zeros((), jnp.int32),
      variables=dict(variables),
      # One program; one by one, XLA would compile a program for every shape.
      opt_state=jax.jit(optimizer.init)(trained(variables)),
    )


def trained(variables: Variables) -> dict[str, Any]:
  """Returns the collections that the optimiser moves."""
  return {name: variables[name] for name in TRAINED if name in variables}
