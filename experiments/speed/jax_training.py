"""A training step of slimjax with its state and batch, as users run it."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

import slimjax
from slimjax.tasks import Classification
from slimjax.training import mesh as placing
from slimjax.training import optim
from slimjax.training import steps
from slimjax.training.state import TrainState
from speed.task import NUM_CLASSES
from speed.task import WEIGHT_DECAY


class JaxTrainer:
  """A network that `step()` trains on one batch, always the same.

  Attributes:
    model: the network.
    programs: the compiled step.
    state: the state after the last step.
    batch: the batch, on the device.
  """

  def __init__(
    self,
    name: str,
    widths: Sequence[float],
    batch: Mapping[str, np.ndarray],
    *,
    dtype: str = 'float32',
    lr: float = 0.001,
    checkpoint: Mapping[str, np.ndarray] | None = None,
  ):
    """Compiles.

    Args:
      name: name of the network.
      widths: its widths.
      batch: images and labels.
      dtype: type in which layers compute.
      lr: learning rate.
      checkpoint: arrays for `slimjax.load_torch`; default: drawn weights.
    """
    self.model = slimjax.create_model(
      name,
      num_classes=NUM_CLASSES,
      widths=tuple(widths),
      dtype=jax.numpy.dtype(dtype),
    )
    if checkpoint is None:
      size = batch['image'].shape[1]
      variables = slimjax.init(self.model, jax.random.key(0), image_size=size)
    else:
      variables = slimjax.load_torch(self.model, checkpoint)
    mesh = placing.data_mesh(jax.devices()[:1])
    schedule = optax.constant_schedule(lr)
    optimizer = optim.sgd(schedule, weight_decay=WEIGHT_DECAY)
    state = TrainState.create(variables, optimizer)
    self.state = placing.replicate(state, mesh)
    self.batch = placing.shard(dict(batch), mesh)
    step = steps.make_train_step(
      self.model, Classification(), optimizer, schedule, mesh
    )
    self.programs = step.compile(self.state, self.batch)

  def step(self) -> Any:
    """Trains all widths; returns the metrics."""
    self.state, metrics = self.programs(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))
    return metrics

  @property
  def parts(self) -> list[Any]:
    """The programs of a step."""
    programs = self.programs
    return [programs.prepare, *programs.gradient.values(), programs.update]


def temporary_bytes(programs: Sequence[Any]) -> int:
  """Returns the most memory that a program takes beside inputs and outputs."""
  return max(p.memory_analysis().temp_size_in_bytes for p in programs)
