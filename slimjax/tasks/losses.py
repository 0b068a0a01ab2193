"""Losses that keep the batch axis; whoever owns the batch reduces it."""

import jax
import jax.numpy as jnp


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns the cross entropy with integer labels, optionally smoothed.

  Smoothing gives the label 1 - eps and each wrong class eps / (classes - 1), as
  the published runs do (optax spreads eps over all the classes instead).

  Args:
    logits: [b, classes].
    labels: int [b], in [0, classes).
    label_smoothing: eps, in [0, 1); default: 0.

  Returns:
    [b].
  """
  log_probs = jax.nn.log_softmax(logits)
  right = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
  if not label_smoothing:
    return -right
  wrong = (jnp.sum(log_probs, axis=-1) - right) / (logits.shape[-1] - 1)
  return -(1.0 - label_smoothing) * right - label_smoothing * wrong


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns -sum(targets * log softmax(logits)): soft labels' cross entropy.

  Args:
    logits: [b, classes].
    targets: [b, classes], rows that sum to one.

  Returns:
    [b].
  """
  return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
