"""Turns logits into the most probable classes, with names."""

from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Guess:
  """A class that an image may be of.

  Attributes:
    index: index of the class, from 0.
    name: name of the class; the index in digits where classes have no names.
    probability: number in [0, 1]; over all classes they sum to one.
  """

  index: int
  name: str
  probability: float


def guesses(
  logits: np.ndarray, names: Sequence[str], top: int
) -> list[list[Guess]]:
  """Returns the classes of each example, the most probable first.

  Args:
    logits: [b, classes].
    names: one name per class, or empty.
    top: number of classes of each example.
  """
  logits = logits.astype(np.float64)
  powers = np.exp(logits - logits.max(-1, keepdims=True))
  probabilities = powers / powers.sum(-1, keepdims=True)
  # The order is stable: among equal classes the first comes first.
  order = np.argsort(-logits, axis=-1, kind='stable')[:, :top]
  return [
    [
      Guess(int(i), names[i] if names else str(i), float(row[i]))
      for i in chosen
    ]
    for row, chosen in zip(probabilities, order, strict=True)
  ]
