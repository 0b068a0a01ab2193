"""The best of some boxes, in a fixed number of places."""

import jax
from jax import lax
import jax.numpy as jnp


def best(
  priority: jax.Array, among: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the indices of the highest priorities, int32 [n], and valid [n].

  The highest comes first, and of equal ones that of least index. When fewer
  than n are to choose from, the rest are not valid, with index 0.

  Args:
    priority: finite numbers, [N].
    among: which may be chosen, bool [N].
    n: how many to choose; it may exceed N.
  """
  ranked = jnp.where(among, priority.astype(jnp.float32), -jnp.inf)
  value, index = lax.top_k(ranked, min(n, len(ranked)))
  valid = value > -jnp.inf
  missing = (0, n - len(index))
  return jnp.pad(jnp.where(valid, index, 0), missing), jnp.pad(valid, missing)
