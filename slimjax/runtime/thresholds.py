"""Chooses when a cascade is content with a width: `choose_thresholds`.

An image is first answered at a thin width. If that answer is sure enough it is
final; otherwise the image goes on to a wider one. How sure is enough is chosen
on images that were not trained on.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from slimjax.widths import label
from slimjax.widths import Width

# Thresholds are tried at these shares of the images that go on.
_SHARES = np.linspace(0, 1, 101)


def _probabilities(logits: np.ndarray) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  return powers / powers.sum(-1, keepdims=True)


def margin(logits: np.ndarray) -> np.ndarray:
  """Returns by how much the first class is more probable than the second, [b].

  Args:
    logits: [b, classes], at least two classes.
  """
  second, first = np.partition(_probabilities(logits), (-2, -1), axis=-1).T[-2:]
  return first - second


def certainty(logits: np.ndarray) -> np.ndarray:
  """Returns 1 - entropy / log(classes), [b]: 1 is sure, 0 knows nothing.

  Args:
    logits: [b, classes], at least two classes.
  """
  p = _probabilities(logits)
  entropy = -np.sum(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny)), axis=-1)
  return 1 - entropy / math.log(p.shape[-1])


CONFIDENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'margin': margin,
  'entropy': certainty,
}


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """The widths of a cascade, and when each is content with its answer.

  Attributes:
    widths: widths in the order in which an image comes to them.
    least: confidence from which an answer is final, in [0, 1]; one for each
      width but the last, whose answers all are.
    confidence: 'margin' (the default) or 'entropy', see `CONFIDENCES`.
    reached: predicted share of the images that come to each width; default:
      empty, nothing was predicted.
    accuracies: predicted accuracy, percent, of a cascade that ends at each
      width; default: empty.
    mean_cost: predicted mean cost of an image, in the unit of the costs that
      were given; default: None.
  """

  widths: tuple[Width, ...]
  least: tuple[float, ...]
  confidence: str = 'margin'
  reached: tuple[float, ...] = ()
  accuracies: tuple[float, ...] = ()
  mean_cost: float | None = None

  def __post_init__(self):
    if not self.widths or len(self.least) != len(self.widths) - 1:
      raise ValueError(
        f'one threshold is needed for each width but the last, got'
        f' {len(self.least)} for {len(self.widths)} widths'
      )
    for name in ('reached', 'accuracies'):
      if len(getattr(self, name)) not in (0, len(self.widths)):
        raise ValueError(f'{name} must have a number for each width, or none')
    if not all(0 <= least <= 1 for least in self.least):
      raise ValueError(f'thresholds must be in [0, 1], got {self.least}')
    if self.confidence not in CONFIDENCES:
      raise ValueError(
        f'confidence {self.confidence!r} is not one of {", ".join(CONFIDENCES)}'
      )

  @property
  def accuracy(self) -> float | None:
    """Returns the predicted accuracy, percent; None if it was not predicted."""
    return self.accuracies[-1] if self.accuracies else None

  def unsure(self, logits: np.ndarray, stage: int) -> np.ndarray:
    """Returns which images go on from a width, bool [b].

    Args:
      logits: logits of these images at the width, [b, classes].
      stage: number of the width, from 0; not the last.
    """
    # The comparison is negated so that NaN goes on, too.
    sure = CONFIDENCES[self.confidence](logits) >= self.least[stage]
    return ~sure


def choose_thresholds(
  logits: Mapping[Width, Any],
  labels: Any,
  costs: Mapping[Width, float],
  *,
  accuracy: float | None = None,
  mean_cost: float | None = None,
  confidence: str = 'margin',
  most_widths: int = 3,
) -> Thresholds:
  """Chooses the widths and thresholds of a cascade on held-out images.

  ```
  logits = {width: net(images, width=width) for width in net.widths}
  costs = {row.width: row.p50_ms for row in table.of_batch(1)}
  thresholds = choose_thresholds(logits, labels, costs, accuracy=92.5)
  ```

  All rows of up to `most_widths` widths are tried, each with thresholds that
  send every whole percentage of the images on. The images that choose also
  predict, so that the predictions are a little too good: by less, the more
  images there are.

  Args:
    logits: logits [n, classes] of the same images, by width.
    labels: classes of the images, int [n].
    costs: cost of an image at each width of `logits`, such as milliseconds.
    accuracy: wanted accuracy, percent; the cheapest cascade that reaches it is
      returned. Either this or `mean_cost` is given.
    mean_cost: allowed mean cost of an image, in the unit of `costs`; the most
      accurate cascade within it is returned.
    confidence: see `Thresholds`.
    most_widths: largest number of widths in a cascade; default: 3.

  Raises:
    ValueError: an argument is wrong, or no cascade reaches what is wanted.
  """
  if (accuracy is None) == (mean_cost is None):
    raise ValueError('either accuracy or mean_cost must be given')
  if confidence not in CONFIDENCES or most_widths < 1:
    raise ValueError(
      f'confidence must be one of {", ".join(CONFIDENCES)} and most_widths at'
      f' least 1, got {confidence!r} and {most_widths}'
    )
  images = _Images.of(logits, labels, costs, confidence)
  found: list[tuple[float, float, tuple[Width, ...], int]] = []
  most_right, least_cost = 0.0, math.inf
  for widths in _rows(costs, most_widths):
    right, cost = (array.ravel() for array in images.outcomes(widths))
    most_right = max(most_right, right.max())
    least_cost = min(least_cost, cost.min())
    if accuracy is not None:
      allowed, first, second = right >= accuracy, cost, -right
    else:
      allowed, first, second = cost <= mean_cost, -right, cost
    (places,) = np.nonzero(allowed)
    if len(places):
      best = places[np.lexsort((second[places], first[places]))[0]]
      found.append((float(first[best]), float(second[best]), widths, best))
  if not found and accuracy is not None:
    raise ValueError(
      f'no cascade has {accuracy:g} % accuracy on these images; the best has'
      f' {most_right:.2f} %'
    )
  if not found:
    raise ValueError(
      f'no cascade has a mean cost of {mean_cost:g}; the least is'
      f' {least_cost:g}'
    )
  # Of several that are as good the first is taken: it has the fewest widths.
  _, _, widths, best = min(found, key=lambda row: row[:2])
  return images.thresholds(widths, int(best))


def _rows(
  costs: Mapping[Width, float], most: int
) -> Iterator[tuple[Width, ...]]:
  """Yields the widths of every cascade, in the order of their costs."""
  ordered = sorted(costs, key=lambda width: costs[width])
  for count in range(1, most + 1):
    yield from itertools.combinations(ordered, count)


@dataclasses.dataclass(frozen=True)
class _Images:
  """What every width makes of the images.

  Attributes:
    costs: cost of an image by width.
    right: whether each image is classified correctly, float [n], by width.
    sure: confidence in each image, [n], by width.
    levels: thresholds that are tried, ascending, by width.
    confidence: name of the confidence.
  """

  costs: Mapping[Width, float]
  right: Mapping[Width, np.ndarray]
  sure: Mapping[Width, np.ndarray]
  levels: Mapping[Width, np.ndarray]
  confidence: str

  @classmethod
  def of(cls, logits, labels, costs, confidence) -> '_Images':
    labels = np.asarray(labels)
    arrays = {width: np.asarray(array) for width, array in logits.items()}
    if not arrays or set(arrays) != set(costs):
      raise ValueError(
        'logits and costs must be of the same widths, got'
        f' {", ".join(map(label, arrays))} and {", ".join(map(label, costs))}'
      )
    for width, array in arrays.items():
      if array.ndim != 2 or len(array) != len(labels) or not len(labels):
        raise ValueError(
          f'logits of {label(width)} have the shape {list(array.shape)};'
          f' [{len(labels)}, classes] is expected, with at least one image'
        )
      if not np.isfinite(array).all():
        raise ValueError(f'logits of {label(width)} are not all finite')
    sure = {w: CONFIDENCES[confidence](array) for w, array in arrays.items()}
    return cls(
      costs=costs,
      right={w: (a.argmax(-1) == labels) * 1.0 for w, a in arrays.items()},
      sure=sure,
      levels={
        w: np.unique(np.quantile(c, _SHARES, method='higher').clip(0, 1))
        for w, c in sure.items()
      },
      confidence=confidence,
    )

  def outcomes(
    self, widths: tuple[Width, ...]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns accuracy, percent, and mean cost for all thresholds of a row.

    Both have an axis for each width but the last: its thresholds.
    """
    shape = tuple(len(self.levels[width]) for width in widths[:-1])
    right, cost = np.zeros(shape), np.zeros(shape)
    for stage, width in enumerate(widths):
      weights = self.right[width]
      right += self._reaching(weights, widths[:stage], shape)
      if stage < len(shape):  # those who go on are not answered here
        right -= self._reaching(weights, widths[: stage + 1], shape)
      arrived = self._reaching(np.ones(len(weights)), widths[:stage], shape)
      cost += self.costs[width] * arrived
    count = len(self.right[widths[0]])
    return 100 * (right / count), cost / count

  def _reaching(
    self, weights: np.ndarray, passed: Sequence[Width], shape: tuple[int, ...]
  ) -> np.ndarray:
    """Returns the sum of weights of images that go on from all of `passed`."""
    # An image goes on from a width where its confidence is below the level.
    places = [
      np.searchsorted(self.levels[w], self.sure[w], side='right')
      for w in passed
    ]
    sizes = tuple(len(self.levels[w]) + 1 for w in passed)
    if places:
      flat = np.ravel_multi_index(places, sizes)
      sums = np.bincount(flat, weights, minlength=math.prod(sizes))
    else:
      sums = np.array(weights.sum())
    sums = sums.reshape(sizes)
    for axis in range(len(sizes)):
      sums = sums.cumsum(axis)
    inside = sums[tuple(slice(size - 1) for size in sizes)]
    rest = (1,) * (len(shape) - len(sizes))
    return inside.reshape(inside.shape + rest)

  def thresholds(self, widths: tuple[Width, ...], place: int) -> Thresholds:
    """Returns thresholds with what is predicted of them.

    Args:
      widths: a row of widths.
      place: place of the thresholds in what `outcomes` returns, flat.
    """
    levels = [self.levels[width] for width in widths[:-1]]
    places = np.unravel_index(place, tuple(map(len, levels)))
    least = tuple(
      float(of_width[i]) for of_width, i in zip(levels, places, strict=True)
    )
    here = np.ones(len(self.right[widths[0]]), bool)
    answered = self.right[widths[0]]
    reached, accuracies = [1.0], [100 * float(answered.mean())]
    for before, bound, width in zip(widths, least, widths[1:], strict=False):
      here = here & ~(self.sure[before] >= bound)
      answered = np.where(here, self.right[width], answered)
      reached.append(float(here.mean()))
      accuracies.append(100 * float(answered.mean()))
    costs = [self.costs[width] for width in widths]
    return Thresholds(
      widths=tuple(widths),
      least=least,
      confidence=self.confidence,
      reached=tuple(reached),
      accuracies=tuple(accuracies),
      mean_cost=math.fsum(s * c for s, c in zip(reached, costs, strict=True)),
    )
