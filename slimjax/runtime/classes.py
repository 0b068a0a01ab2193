"""Answers with the most probable classes of images, with names."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from slimjax.runtime.arrays import Images
from slimjax.runtime.arrays import outputs_of
from slimjax.runtime.decoding import Decode
from slimjax.runtime.network import Network
from slimjax.widths import Width


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


@dataclasses.dataclass(frozen=True)
class Classes:
  """Classes as answers; see `slimjax.runtime.kinds.Kind`.

  Attributes:
    network: the network, whose outputs are logits.
    top: number of classes of each image, the most probable first.
  """

  network: Network
  top: int = 5

  def __post_init__(self):
    if self.top < 1:
      raise ValueError(f'top must be at least 1, got {self.top}')

  def decoder(self, rule: Decode) -> Decode:
    return rule

  def predict(self, images: Images, width: Width | None) -> list[list[Guess]]:
    return self.interpret(outputs_of(self.network, images, width))

  def interpret(self, outputs: Any) -> list[list[Guess]]:
    names = self.network.manifest.class_names
    return guesses(np.asarray(outputs), names, self.top)

  def of_one(self, said: Sequence[list[Guess]], place: int) -> list[Guess]:
    return said[place]

  def line(self, said: Sequence[Guess]) -> dict[str, Any]:
    return {'classes': [dataclasses.asdict(guess) for guess in said]}

  def text(self, said: Sequence[Guess]) -> str:
    return '\n'.join(f'{g.name} {100 * g.probability:.1f} %' for g in said)


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
