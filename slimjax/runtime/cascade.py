"""Goes wider only for images that are hard: `slimjax.runtime.Cascade`."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from slimjax.runtime.network import Network
from slimjax.runtime.table import Row
from slimjax.runtime.thresholds import Thresholds
from slimjax.widths import find
from slimjax.widths import label
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Answers:
  """What a cascade says of some images.

  Attributes:
    logits: float32 [b, classes], each row by the width that was content.
    stages: number of that width in the cascade, int [b].
    width: the widest width that any of them went to.
  """

  logits: np.ndarray
  stages: np.ndarray
  width: Width


class Cascade:
  """Answers at a thin width, and again at a wider one where that is unsure.

  ```
  thresholds = runtime.choose_thresholds(logits, labels, costs, accuracy=92.5)
  cascade = runtime.Cascade(net, thresholds=thresholds)
  logits = cascade(images)
  ```

  It may be called from many threads. Of a batch only the images that are unsure
  go on, as a smaller batch, for which the network takes the programs of its own
  batch sizes; so their answers are those of the network at that width, but for
  rounding.

  A `Controller` of `cascade_rows` says how wide an image may go now:

  ```
  controller = Controller(cascade_rows(thresholds, rows), budget_ms=2.0)
  answers = cascade.answer(image, width=controller.pick())  # timed
  controller.observe(latency_ms, width=answers.width)
  ```

  Attributes:
    network: the network.
    thresholds: the widths and when each is content.
  """

  def __init__(self, network: Network, *, thresholds: Thresholds | None = None):
    """Joins a network and thresholds.

    Args:
      network: network of `slimjax.runtime.load`, or the `network` of
        `slimjax.load`; it predicts logits of classes.
      thresholds: thresholds of `choose_thresholds`, or your own; default: those
        that `record_cascade` has written into the bundle.

    Raises:
      ValueError: the network has other outputs, or lacks a width.
    """
    thresholds = thresholds or network.manifest.cascade
    if thresholds is None:
      raise ValueError(
        'no thresholds are given, and the network has none: choose_thresholds'
        ' chooses them, record_cascade writes them into a bundle'
      )
    network.manifest.check_cascade(thresholds)
    missing = [label(w) for w in thresholds.widths if w not in network.widths]
    if missing:
      raise ValueError(
        f'the cascade has widths that are not loaded: {", ".join(missing)};'
        f' there are {", ".join(map(label, network.widths))}'
      )
    self.network = network
    self.thresholds = thresholds

  @property
  def widths(self) -> tuple[Width, ...]:
    """Returns the widths in the order in which an image comes to them."""
    return self.thresholds.widths

  def __call__(self, images: Any, *, width: Width | None = None) -> np.ndarray:
    """Returns logits on the host, float32 [b, classes]; see `answer`."""
    return self.answer(images, width=width).logits

  def answer(self, images: Any, *, width: Width | None = None) -> Answers:
    """Returns logits, and which width each is of.

    Args:
      images: images as `Network` takes them, [b, h, w, 3].
      width: width of the cascade beyond which no image goes; default: its last.

    Raises:
      ValueError: the cascade has no such width, or the network takes other
        images.
    """
    widths = self.widths[: 1 + self._stage(width)]
    logits = np.array(self.network(images, width=widths[0]))
    stages = np.zeros(len(logits), np.int32)
    here, width = np.arange(len(logits)), widths[0]
    for stage, wider in enumerate(widths[1:], 1):
      here = here[self.thresholds.unsure(logits[here], stage - 1)]
      if not len(here):
        break
      # All of them need no copy; a part is taken on the host.
      part = images
      if len(here) < len(logits):
        part = np.asarray(images)[here]
      logits[here] = self.network(part, width=wider)
      stages[here] = stage
      width = wider
    return Answers(logits, stages, width)

  def _stage(self, width: Width | None) -> int:
    if width is None:
      return len(self.widths) - 1
    width = find(width, self.widths)
    if width not in self.widths:
      raise ValueError(
        f'the cascade has no width {label(width)}, only'
        f' {", ".join(map(label, self.widths))}'
      )
    return self.widths.index(width)


def cascade_rows(
  thresholds: Thresholds, rows: Sequence[Row]
) -> tuple[Row, ...]:
  """Returns a table for a `Controller`: a row for each end of a cascade.

  A row says how long an image takes that goes all the way to `width`, which is
  the sum over the widths it passes, and the error of a cascade that ends there.
  So images that are hard hold the budget, too; the controller leaves the others
  out if it is told `Answers.width`. Requests are of one image.

  Args:
    thresholds: thresholds of `choose_thresholds`.
    rows: rows of the network's table for a batch size of 1.

  Raises:
    ValueError: nothing was predicted of the thresholds, or a row is missing.
  """
  if not thresholds.accuracies:
    raise ValueError(
      'nothing was predicted of these thresholds; take those that'
      ' choose_thresholds returns'
    )
  by_width = {row.width: row for row in rows if row.batch_size == 1}
  missing = [label(w) for w in thresholds.widths if w not in by_width]
  if missing:
    raise ValueError(
      f'the table has no row of {", ".join(missing)} at batch size 1; measure'
      ' them: network.benchmark()'
    )
  passed = [by_width[width] for width in thresholds.widths]
  return tuple(
    _row(passed[: end + 1], accuracy)
    for end, accuracy in enumerate(thresholds.accuracies)
  )


def _row(passed: Sequence[Row], accuracy: float) -> Row:
  """Returns the row of an image that goes through all of some widths."""

  def total(name: str) -> Any:
    values = [getattr(row, name) for row in passed]
    if None in values:
      return None
    if isinstance(values[0], tuple):
      return tuple(map(sum, zip(*values, strict=True)))
    return sum(values)

  temporary = [row.temp_bytes for row in passed]
  known = [size for size in temporary if size is not None]
  times = ('p50_ms', 'p95_ms', 'p99_ms', 'p50_ci', 'p95_ci', 'p99_ci')
  return dataclasses.replace(
    passed[-1],
    **{name: total(name) for name in (*times, 'compile_s', 'weight_bytes')},
    images_per_second=1 / sum(1 / row.images_per_second for row in passed),
    requests=min(row.requests for row in passed),
    temp_bytes=max(known) if len(known) == len(temporary) else None,
    macs=sum(row.macs for row in passed),
    error=100 - accuracy,
  )
