"""Defines a task: what a network is trained for, and how well it does.

A task is one frozen (hashable) object of pure functions. The loop, the step,
the evaluator and the export know nothing else of what a network is for. Its
`forward` argument is the network at one width: `forward(*inputs)` gives the
outputs, in training or in evaluation mode as its caller has it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import cast
from typing import Protocol

import jax
import numpy as np

from slimjax import units
from slimjax.data.batches import Batch
from slimjax.data.batches import Split
from slimjax.data.dataset import Dataset
from slimjax.data.dataset import is_hashable
from slimjax.data.record import DataRecord
from slimjax.models.net import SlimNet

Forward = Callable[..., Any]
# A sum over examples, and their number.
SumCount = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Metric:
  """A number of the scores that is shown.

  Attributes:
    name: key of the metric in the scores.
    title: name in tables and on axes.
    unit: unit in tables and on axes, such as '%'; default: ''.
    direction: 'min' (default) if less is better, 'max' if more is.
  """

  name: str
  title: str
  unit: str = ''
  direction: str = 'min'

  def __post_init__(self):
    if self.direction not in ('min', 'max'):
      raise ValueError(
        f"direction of {self.name} must be 'min' or 'max', got"
        f' {self.direction!r}'
      )

  def error(self, value: float) -> float:
    """Returns what is minimised: the value, or its negative."""
    return value if self.direction == 'min' else -value

  @property
  def axis(self) -> str:
    """Returns title and unit, as on an axis."""
    return f'{self.title}, {self.unit}' if self.unit else self.title

  def text(self, value: float) -> str:
    """Returns a value as it stands in a table."""
    return units.score(value, self.unit)


class Task(Protocol):
  """What the programs ask of a task.

  A task may also have `prepare(model, batch, key)`. It returns the augmented
  batch over all devices with what is worked out once a step for all widths,
  such as what each anchor of a detector is matched with; it is compiled into
  the program that augments, and `key` is a function of (seed, step).

  A task may also have `write_details(totals, dataset, folder)`. It writes what
  else the final evaluation tells into the folder of a run, and returns a list
  of what is printed beside the table, text or rich's tables. `totals` are what
  `accumulate` returned, by width, thinnest first; only process 0 calls it.

  A task may also have an attribute `outputs`. It is 'logits' if `predict`
  returns logits of the classes, [b, classes]; then predictions are classes with
  their probabilities. It is 'detections' if `predict` returns what a `Detector`
  does, and is given 'hw' with the images; then predictions are boxes with names
  and scores. Otherwise they are the arrays as they are.

  A task may also have `write_predictions(total, split, path)`. It writes what
  was predicted of a split at one width as a file of JSON; `total` is what
  `accumulate` returned.

  A task whose programs need a fixed batch size may have `exported_batch`, which
  an export takes where none is given.

  Attributes:
    metrics: the scores that tables show; the first is the headline, by which
      the best checkpoint and the best width are chosen.
  """

  @property
  def metrics(self) -> tuple[Metric, ...]: ...

  def __hash__(self) -> int:
    """Returns a hash: tasks key compiled programs."""

  def check(self, model: SlimNet, dataset: Dataset) -> None:
    """Raises ValueError if the network does not fit the data."""

  def example(self, dataset: Dataset) -> Batch:
    """Returns the shapes of one preprocessed example, as a batch of one.

    'image' is what the network is fed in evaluation, [1, h, w, c]; see
    `image_size`.

    Args:
      dataset: data set of the run; where a run is served, its
        `slimjax.data.record.DataRecord`, which has no splits.
    """

  def loss(
    self, forward: Forward, batch: Batch, key: jax.Array, teacher: Any
  ) -> tuple[jax.Array, Any, Mapping[str, SumCount]]:
    """Returns the loss of a training batch at one width.

    Args:
      forward: the network at this width, in training mode; called once.
      batch: this device's examples, augmented.
      key: random key, a function of (seed, step, width, device).
      teacher: tree that the wider one of this step taught; None at the widest.

    Returns:
      Losses [b], or their mean [], to be minimised; what the next width is
      taught, a tree of arrays without gradient, or None; and metrics as (sum
      over examples, number of examples), among them 'loss'.
    """

  def summarise(self, metrics: Mapping[str, SumCount]) -> dict[str, float]:
    """Returns what a line of the training log says of summed metrics."""

  def predict(self, forward: Forward, batch: Batch) -> Any:
    """Returns what is served: an array or a tree of arrays, examples first."""

  def measure(self, forward: Forward, batch: Batch) -> Any:
    """Returns a tree of arrays that scores are made from.

    Args:
      forward: the network at this width, in evaluation mode.
      batch: a device's preprocessed examples; `mask` is False for those that
        only fill it up.
    """

  def accumulate(self, total: Any, measured: Any) -> Any:
    """Returns the total with the arrays of more examples, on the host.

    Args:
      total: total of the examples before; None at the first.
      measured: tree that `measure` returned, as numpy arrays.
    """

  def score(self, total: Any, split: Split) -> dict[str, float]:
    """Returns the scores of a split, with 'examples', their number.

    A metric that says nothing of these data may be missing, except the first.

    Args:
      total: total of all examples.
      split: the split, for tasks that compare with more than batches hold.
    """


def image_size(task: Task, dataset: Dataset | DataRecord) -> tuple[int, int]:
  """Returns (height, width) in pixels of the images that a network is fed.

  Args:
    task: task of the run; its `example` knows.
    dataset: data set of the run, or what the run knows of it.
  """
  image = task.example(cast(Dataset, dataset))['image']
  _, height, width, _ = image.shape
  return height, width


def check_task(found: Any, what: str) -> None:
  """Raises ValueError if what a user's name stands for is no task.

  Args:
    found: object that it makes.
    what: key and name in errors, such as "config.task.name 'a:b'".
  """
  needed = 'see slimjax.tasks.base.Task for what a task has'
  members = [name for name in vars(Task) if not name.startswith('_')]
  missing = [name for name in members if not hasattr(found, name)]
  if missing:
    raise ValueError(
      f'{what}: {type(found).__name__} is no task, as it has no'
      f' {", ".join(missing)}; {needed}'
    )
  metrics = found.metrics
  if (
    not isinstance(metrics, tuple)
    or not metrics
    or not all(isinstance(metric, Metric) for metric in metrics)
  ):
    raise ValueError(
      f'{what}: metrics must be a tuple of slimjax.tasks.Metric, the headline'
      f' first, got {metrics!r}; {needed}'
    )
  if not is_hashable(found):
    raise ValueError(
      f'{what}: {type(found).__name__} is not hashable, but compiled programs'
      ' are cached by it; make it a frozen dataclass whose attributes are'
      ' numbers, texts or tuples'
    )


def add_sums(total: Any, measured: Any) -> Any:
  """Returns the sums of two trees in float64, so that counts stay exact."""
  measured = jax.tree.map(lambda x: np.asarray(x, np.float64), measured)
  return measured if total is None else jax.tree.map(np.add, total, measured)


def means(metrics: Mapping[str, SumCount] | None) -> dict[str, float]:
  """Returns sum / count of each metric.

  Raises:
    ValueError: nothing was counted.
  """
  if not metrics or not all(float(count) for _, count in metrics.values()):
    raise ValueError(
      'no example was scored: the split is empty, or none of its examples could'
      ' be read'
    )
  return {name: float(s) / float(c) for name, (s, c) in metrics.items()}
