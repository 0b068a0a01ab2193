"""Classification: one label per image, cross entropy, top-1 and top-5 error."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from slimjax import checks
from slimjax.data.batches import Batch
from slimjax.data.batches import Split
from slimjax.data.dataset import Dataset
from slimjax.data.dataset import sides
from slimjax.data.folders import some
from slimjax.models.net import SlimNet
from slimjax.tasks import confusion
from slimjax.tasks.base import add_sums
from slimjax.tasks.base import Forward
from slimjax.tasks.base import means
from slimjax.tasks.base import Metric
from slimjax.tasks.base import SumCount
from slimjax.tasks.confusion import Confusion
from slimjax.tasks.losses import cross_entropy
from slimjax.tasks.losses import soft_cross_entropy
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Classification:
  """The task of the paper; see `slimjax.tasks.base.Task`.

  Attributes:
    label_smoothing: see `slimjax.tasks.losses.cross_entropy`.
    inplace_distillation: whether the widest alone learns from the labels, and
      the others from its soft labels (US-Nets, arXiv 1903.05134, section 3.3);
      default: no.
  """

  label_smoothing: float = 0.0
  inplace_distillation: bool = False
  outputs: ClassVar[str] = 'logits'  # what `predict` returns
  metrics: ClassVar[tuple[Metric, ...]] = (
    Metric('top1_error', 'top-1 error', '%'),
    Metric('top5_error', 'top-5 error', '%'),
  )

  def __post_init__(self):
    checks.real('label_smoothing', self.label_smoothing, least=0, below=1)
    checks.flag('inplace_distillation', self.inplace_distillation)

  def check(self, model: SlimNet, dataset: Dataset) -> None:
    if model.num_classes != dataset.num_classes:
      raise ValueError(
        f'config.model.num_classes is {model.num_classes}, but'
        f' {dataset.name} has {dataset.num_classes} classes'
        + (f': {some(dataset.class_names)}' if dataset.class_names else '')
      )

  def example(self, dataset: Dataset) -> Batch:
    shape = (1, *sides(dataset.image_size), 3)
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

  def measure(self, forward: Forward, batch: Batch) -> dict[str, Any]:
    logits, labels = forward(batch['image']), batch['label']
    losses = cross_entropy(logits, labels)
    mask = batch['mask']
    return {
      'sums': classification_metrics(logits, labels, losses, mask),
      'label': jnp.where(mask, labels, -1),
      'predicted': predicted_class(logits, labels),
    }

  def accumulate(self, total: Any, measured: Any) -> Any:
    scored = measured['label'] >= 0
    pairs = np.stack([measured['label'], measured['predicted']])[:, scored]
    return {
      'sums': add_sums(total and total['sums'], measured['sums']),
      'pairs': [*(total['pairs'] if total else ()), pairs],
    }

  def summarise(self, metrics: Mapping[str, SumCount]) -> dict[str, float]:
    mean = means(metrics)
    errors = {
      f'{name}_error': 100.0 * (1.0 - mean[name])
      for name in ('top1', 'top5')
      if name in mean
    }
    return {'loss': mean['loss'], **errors}

  def score(self, total: Any, split: Split) -> dict[str, float]:
    del split
    sums = total and total['sums']
    return {**self.summarise(sums), 'examples': int(sums['loss'][1])}

  def write_details(
    self, totals: Mapping[Width, Any], dataset: Dataset, folder: epath.Path
  ) -> list[Any]:
    """Writes confusion.json and, for up to 50 classes, confusion.png."""
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    found = {}
    for width, total in totals.items():
      labels, predicted = np.concatenate(total['pairs'], axis=1)
      found[width] = Confusion.of(labels, predicted, len(names))
    confusion.write_json(found, names, folder / confusion.JSON)
    confusion.plot(found, names, folder / confusion.PICTURE)
    return [confusion.table(found, names)]


def predicted_class(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the class with the largest logit, int32 [b].

  It is the label where `top_k_correct` says so, and another where it does not:
  a tie, and a NaN, count against the label.
  """
  classes = logits.shape[-1]
  own = jax.nn.one_hot(labels, classes, dtype=bool)
  other = jnp.argmax(jnp.where(own, -jnp.inf, logits), axis=-1)
  # All may be infinite.
  other = jnp.where(other == labels, (labels + 1) % classes, other)
  right = top_k_correct(logits, labels, 1) > 0
  return jnp.where(right, labels, other)


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
    {'loss', 'top1': (sum, count)}, and 'top5' of more than five classes.
  """
  if mask is None:
    mask = jnp.ones(labels.shape, bool)
  count = jnp.sum(mask, dtype=jnp.float32)
  values = {
    'loss': losses,
    'top1': top_k_correct(logits, labels, 1),
  }
  if logits.shape[-1] > 5:  # of fewer, five always hold the label
    values['top5'] = top_k_correct(logits, labels, 5)
  return {
    # A product would not do: the loss of a padding row may be anything.
    name: (jnp.sum(jnp.where(mask, value, 0.0)), count)
    for name, value in values.items()
  }
