"""The optimiser of the published runs, and their four schedules.

A schedule is a pure function of the step: `schedule(step) -> learning rate`.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from slimjax import checks

_LARGEST = 1e6  # of rates and of epochs


def multi_step(
  peak_lr: float,
  *,
  steps_per_epoch: int,
  epochs: Sequence[float],
  factor: float,
) -> optax.Schedule:
  """Returns `peak_lr`, multiplied by `factor` from each of `epochs` on."""

  def schedule(step):
    passed = sum(jnp.asarray(step) >= e * steps_per_epoch for e in epochs)
    return peak_lr * factor ** jnp.asarray(passed, jnp.float32)

  return schedule


def exponential(
  peak_lr: float, *, steps_per_epoch: int, factor: float
) -> optax.Schedule:
  """Returns `peak_lr`, multiplied by `factor` after every epoch."""

  def schedule(step):
    epoch = jnp.asarray(step) // steps_per_epoch
    return peak_lr * factor ** jnp.asarray(epoch, jnp.float32)

  return schedule


def linear(peak_lr: float, *, total_steps: int) -> optax.Schedule:
  """Returns a straight line from `peak_lr` to zero after `total_steps`."""
  return optax.linear_schedule(peak_lr, 0.0, total_steps)


def cosine(peak_lr: float, *, total_steps: int) -> optax.Schedule:
  """Returns half a cosine, from `peak_lr` to zero after `total_steps`."""
  return optax.cosine_decay_schedule(peak_lr, total_steps)


def with_warmup(
  schedule: optax.Schedule, warmup_steps: int, start: float = 0.0
) -> optax.Schedule:
  """Scales `schedule` linearly up to one during the first steps.

  Args:
    schedule: learning rate by step.
    warmup_steps: number of these steps.
    start: factor of the first step. Default: 0, which stands for (step + 1) /
      warmup_steps: a rate of zero would waste it.
  """
  if not warmup_steps:
    return schedule
  first = 0.0 if start else 1.0

  def warmed(step):
    passed = (jnp.asarray(step, jnp.float32) + first) / warmup_steps
    scale = start + (1.0 - start) * jnp.minimum(passed, 1.0)
    return schedule(step) * scale

  return warmed


SCHEDULES = ('multi_step', 'exponential', 'linear', 'cosine')


def create_schedule(
  name: str,
  *,
  peak_lr: float,
  total_epochs: float,
  steps_per_epoch: int,
  warmup_epochs: float = 0.0,
  warmup_steps: int = 0,
  warmup_start: float = 0.0,
  factor: float | None = None,
  epochs: Sequence[float] | None = None,
) -> optax.Schedule:
  """Returns the schedule `name`, one of `SCHEDULES`, given in epochs.

  Args:
    name: multi_step (needs factor, epochs), exponential (needs factor), linear
      or cosine.
    peak_lr: learning rate of the first step, and of the last warm-up step.
    total_epochs: epochs after which linear and cosine reach zero.
    steps_per_epoch: optimiser steps in an epoch.
    warmup_epochs: epochs of linear warm-up; default: 0.
    warmup_steps: the same in steps; default: 0.
    warmup_start: factor of the rate that the warm-up begins with; default: 0,
      see `with_warmup`.
    factor: factor of multi_step and exponential; default: none.
    epochs: epochs at which multi_step decays; default: none.

  Raises:
    ValueError: unknown name, an argument is missing or not used, or a number is
      out of its range.
  """
  checks.choice('name', name, allowed=SCHEDULES)
  checks.real('peak_lr', peak_lr, above=0, most=_LARGEST)
  checks.real('warmup_epochs', warmup_epochs, least=0, most=_LARGEST)
  checks.whole('warmup_steps', warmup_steps, least=0, most=2**31)
  checks.real('warmup_start', warmup_start, least=0, most=1)
  if factor is not None:
    checks.real('factor', factor, above=0, most=1)
  if epochs is not None:
    passed = functools.partial(checks.real, above=0, most=_LARGEST)
    epochs = checks.listed('epochs', epochs, check=passed, least=1)
    if list(epochs) != sorted({*epochs}):
      raise ValueError(f'epochs must rise, got {epochs}')
  if warmup_epochs and warmup_steps:
    raise ValueError(
      f'warmup_epochs {warmup_epochs:g} and warmup_steps {warmup_steps} say the'
      ' same; set one of them to 0'
    )
  needs: dict[str, set[str]] = {
    'multi_step': {'factor', 'epochs'},
    'exponential': {'factor'},
    'linear': set(),
    'cosine': set(),
  }
  given = {
    key
    for key, value in (('factor', factor), ('epochs', epochs))
    if value is not None
  }
  if given != needs[name]:
    raise ValueError(
      f'schedule {name} takes {sorted(needs[name])} of factor and epochs, but'
      f' {sorted(given)} are given'
    )
  return _cached_schedule(
    name,
    peak_lr=peak_lr,
    total_steps=round(total_epochs * steps_per_epoch),
    steps_per_epoch=steps_per_epoch,
    warmup_steps=warmup_steps or round(warmup_epochs * steps_per_epoch),
    warmup_start=warmup_start,
    factor=factor,
    epochs=epochs,
  )


@functools.lru_cache(maxsize=16)  # equal ones are one object: a key of programs
def _cached_schedule(
  name: str,
  *,
  peak_lr: float,
  total_steps: int,
  steps_per_epoch: int,
  warmup_steps: int,
  warmup_start: float,
  factor: float | None,
  epochs: tuple[float, ...] | None,
) -> optax.Schedule:
  """Returns a schedule whose arguments have been checked."""
  if name == 'multi_step':
    schedule = multi_step(
      peak_lr,
      steps_per_epoch=steps_per_epoch,
      epochs=tuple(epochs or ()),
      factor=factor or 0.0,
    )
  elif name == 'exponential':
    schedule = exponential(
      peak_lr, steps_per_epoch=steps_per_epoch, factor=factor or 0.0
    )
  elif name == 'linear':
    schedule = linear(peak_lr, total_steps=total_steps)
  else:
    schedule = cosine(peak_lr, total_steps=total_steps)
  return with_warmup(schedule, warmup_steps, warmup_start)


def decay_mask(trainable: Any) -> Any:
  """Returns True for what decays: dense kernels, also the classifier's.

  A kernel [..., in / groups, out] is dense if it has more than one input
  channel per group. Depthwise kernels, biases and norms do not decay (paper,
  appendix A).
  """

  def decays(path, leaf):
    return path[-1].key == 'kernel' and leaf.shape[-2] > 1

  return jax.tree_util.tree_map_with_path(decays, trainable)


def sgd(
  schedule: optax.Schedule,
  *,
  momentum: float = 0.9,
  nesterov: bool = True,
  weight_decay: float = 1e-4,
  clip_norm: float | None = None,
  decay_all: bool = False,
) -> optax.GradientTransformation:
  """Returns SGD as in PyTorch: decay enters the gradient, then momentum.

  Args:
    schedule: learning rate by step.
    momentum: factor of the running sum of gradients; default: 0.9.
    nesterov: whether to look ahead by one step of momentum; default: yes.
    weight_decay: factor of the kernels that `decay_mask` names; default: 1e-4.
    clip_norm: largest global norm of the gradient summed over the widths, once
      per step, before decay; default: None, which does not clip.
    decay_all: whether everything that is trained decays, biases and norms too;
      default: no.

  Raises:
    ValueError: a number is out of its range.
  """
  checks.real('momentum', momentum, least=0, below=1)
  checks.flag('nesterov', nesterov)
  checks.real('weight_decay', weight_decay, least=0, most=1)
  if clip_norm is not None:
    checks.real('clip_norm', clip_norm, above=0)
  checks.flag('decay_all', decay_all)
  return _cached_sgd(
    schedule, momentum, nesterov, weight_decay, clip_norm, decay_all
  )


@functools.lru_cache(maxsize=16)
def _cached_sgd(
  schedule: optax.Schedule,
  momentum: float,
  nesterov: bool,
  weight_decay: float,
  clip_norm: float | None,
  decay_all: bool,
) -> optax.GradientTransformation:
  """Returns SGD whose arguments have been checked."""
  optimizer = optax.chain(
    optax.add_decayed_weights(weight_decay, None if decay_all else decay_mask),
    optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
  )
  if clip_norm is None:
    return optimizer
  clip = optax.clip_by_global_norm(clip_norm)

  # The chain has no clipping: a run may resume with another bound, or none.
  def update(updates, state, params=None):
    updates, _ = clip.update(updates, clip.init(params), params)
    return optimizer.update(updates, state, params)

  return optax.GradientTransformation(optimizer.init, update)
