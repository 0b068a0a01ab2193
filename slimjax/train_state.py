"""The state of a training run: one frozen dataclass of arrays."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from slimjax.variables import Variables


class TrainState(flax.struct.PyTreeNode):
  """Everything an optimiser step reads and writes.

  Attributes:
    step: int32 [], optimiser steps done.
    params, norm, batch_stats: see `slimjax.variables`.
    opt_state: of the optimiser over {'params': ..., 'norm': ...}.
  """

  step: jax.Array
  params: Any
  norm: Any
  batch_stats: Any
  opt_state: Any

  @classmethod
  def create(
    cls, variables: Variables, optimizer: optax.GradientTransformation
  ) -> 'TrainState':
    """The state before the first step."""
    trainable = {key: variables[key] for key in ('params', 'norm')}
    return cls(
      step=jnp.zeros((), jnp.int32),
      batch_stats=variables['batch_stats'],
      opt_state=optimizer.init(trainable),
      **trainable,
    )

  @property
  def variables(self) -> dict[str, Any]:
    """What `slimjax.apply` takes."""
    return {
      'params': self.params,
      'norm': self.norm,
      'batch_stats': self.batch_stats,
    }
