"""Metrics as (sum, count), divided once, by `summarise`."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

SumCount = tuple[jax.Array, jax.Array]


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether the label is among the k largest logits, float32 [b].

  Fewer classes than k always contain it. A tie, and a NaN, count against it.
  """
  of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  not_below = jnp.sum(~(logits < of_label), axis=-1)  # the label's included
  return (not_below <= k).astype(jnp.float32)


def classification_metrics(
  logits: jax.Array,
  labels: jax.Array,
  losses: jax.Array,
  mask: jax.Array | None = None,
) -> dict[str, SumCount]:
  """Sums over the examples of a batch, and how many they are.

  Args:
    logits: [b, classes].
    labels: int [b].
    losses: [b].
    mask: bool [b], False for padding; all examples count unless told.

  Returns:
    {'loss', 'top1', 'top5': (sum, count)}.
  """
  if mask is None:
    mask = jnp.ones(labels.shape, bool)
  count = jnp.sum(mask, dtype=jnp.float32)
  values = {
    'loss': losses,
    'top1': top_k_correct(logits, labels, 1),
    'top5': top_k_correct(logits, labels, 5),
  }
  return {
    # Not a product: the loss of a padding row may be anything.
    name: (jnp.sum(jnp.where(mask, value, 0.0)), count)
    for name, value in values.items()
  }


def summarise(metrics: Mapping[str, SumCount]) -> dict[str, float]:
  """{'loss', 'top1_error', 'top5_error'}, errors in percent."""
  mean = {name: float(s) / float(c) for name, (s, c) in metrics.items()}
  return {
    'loss': mean['loss'],
    'top1_error': 100.0 * (1.0 - mean['top1']),
    'top5_error': 100.0 * (1.0 - mean['top5']),
  }
