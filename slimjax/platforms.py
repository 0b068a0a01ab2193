"""The choice of a formulation where the program is lowered."""

import functools

from jax import lax


def by_platform(*operands, cpu, default):
  """`cpu(*operands)` on CPU, `default(*operands)` elsewhere.

  Both are traced, for every shape once if they are the same objects each time:
  networks repeat their layers, and are traced for several programs.

  Args:
    operands: arrays, or lists of them.
    cpu: a function of the module, or `bound`.
    default: likewise.
  """
  return lax.platform_dependent(*operands, cpu=cpu, default=default)


@functools.lru_cache(maxsize=1024)
def bound(function, argument):
  """A partial that is the same object every time it is asked for."""
  return functools.partial(function, argument)
