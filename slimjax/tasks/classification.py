"""Classification: one label per image, cross entropy, top-1 and top-5 error."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp

from slimjax.data.batches import Batch
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.tasks.base import add_sums
from slimjax.tasks.base import Forward
from slimjax.tasks.base import means
from slimjax.tasks.base import Metric
from slimjax.tasks.base import SumCount
from slimjax.tasks.losses import cross_entropy
from slimjax.tasks.losses import soft_cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification:
  """The task of the paper; see `slimjax.tasks.base.Task`.

  Attributes:
    label_smoothing: see `slimjax.tasks.losses.cross_entropy`.
    inplace_distillation: the widest learns from the labels, the others from its
      soft labels (US-Nets, arXiv 1903.05134, section 3.3).
  """

  label_smoothing: float = 0.0
  inplace_distillation: bool = False
  metrics: ClassVar[tuple[Metric, ...]] = (
    Metric('top1_error', 'top-1 error', '%'),
    Metric('top5_error', 'top-5 error', '%'),
  )

  def __post_init__(self):
    if not 0.0 <= self.label_smoothing < 1.0:
      raise ValueError(
        f'label_smoothing must be in [0, 1), got {self.label_smoothing}'
      )

  def check(self, model: SlimNet, dataset: Dataset) -> None:
    if model.num_classes != dataset.num_classes:
      raise ValueError(
        f'config.model.num_classes is {model.num_classes}, but'
        f' {dataset.name} has {dataset.num_classes} classes'
      )

  def example(self, dataset: Dataset) -> Batch:
    shape = (1, dataset.image_size, dataset.image_size, 3)
    return {'image': jax.ShapeDtypeStruct(shape, jnp.float32)}

  def loss(
    self, forward: Forward, batch: Batch, key: jax.Array, teacher: Any
  ) -> tuple[jax.Array, Any, Mapping[str, SumCount]]:
    del key
    logits, labels = forward(batch['image']), batch['label']
    if teacher is not None:
      losses = soft_cross_entropy(logits, teacher)
    else:
      losses = cross_entropy(
        logits, labels, label_smoothing=self.label_smoothing
      )
      if self.inplace_distillation:
        teacher = jax.nn.softmax(jax.lax.stop_gradient(logits))
    return losses, teacher, classification_metrics(logits, labels, losses)

  def predict(self, forward: Forward, batch: Batch) -> jax.Array:
    return forward(batch['image'])

  def measure(self, forward: Forward, batch: Batch) -> dict[str, SumCount]:
    logits, labels = forward(batch['image']), batch['label']
    losses = cross_entropy(logits, labels)
    return classification_metrics(logits, labels, losses, batch['mask'])

  def accumulate(self, total: Any, measured: Any) -> Any:
    return add_sums(total, measured)

  def summarise(self, metrics: Mapping[str, SumCount]) -> dict[str, float]:
    mean = means(metrics)
    return {
      'loss': mean['loss'],
      'top1_error': 100.0 * (1.0 - mean['top1']),
      'top5_error': 100.0 * (1.0 - mean['top5']),
    }

  def score(self, total: Any) -> dict[str, float]:
    return {**self.summarise(total), 'examples': int(total['loss'][1])}


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns whether the label is among the k largest logits, float32 [b].

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
  """Returns sums over the examples of a batch, and how many they are.

  Args:
    logits: [b, classes].
    labels: int [b].
    losses: [b].
    mask: bool [b], False for padding; by default all examples count.

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
