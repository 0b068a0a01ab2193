"""What a network answers: classes, objects, or its outputs as they are.

Its manifest says which, in `outputs`; nothing else decides.
"""

from typing import Any
from typing import Protocol

from slimjax.runtime.arrays import Arrays
from slimjax.runtime.arrays import Images
from slimjax.runtime.classes import Classes
from slimjax.runtime.decoding import Decode
from slimjax.runtime.decoding import make_decode
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.network import Network
from slimjax.widths import Width


class Kind(Protocol):
  """Makes answers of a network's outputs, and shows them."""

  def decoder(self, rule: Decode) -> Decode:
    """Returns how an encoded picture becomes what `predict` takes.

    Args:
      rule: the network's rule for pictures.
    """

  def predict(self, images: Images, width: Width | None) -> Any:
    """Returns the answers to images at a width; None for the default one."""

  def interpret(self, outputs: Any) -> Any:
    """Returns the answers that `predict` makes of outputs of the network."""

  def of_one(self, said: Any, place: int) -> Any:
    """Returns the answer to one image of those that were asked about."""

  def line(self, said: Any) -> dict[str, Any]:
    """Returns the answer to one image as JSON has it."""

  def text(self, said: Any) -> str:
    """Returns the answer to one image as the cell of a table, in lines."""


def kind_of(
  network: Network,
  rule: Decode | None,
  *,
  top: int | None = None,
  min_score: float | None = None,
) -> Kind:
  """Returns what a network answers.

  Args:
    network: the network.
    rule: rule for pictures; None for that of the network's manifest.
    top: number of classes of each image; default: 5.
    min_score: least score of an object; default: 0.

  Raises:
    ValueError: an option is wrong, or is not of what the network answers.
  """
  manifest = network.manifest
  if manifest.detects:
    # It imports the package of data sets, which `import slimjax` does not.
    from slimjax.runtime.detections import Detections

    if top is not None:
      raise ValueError(
        'top is a number of classes, but this network detects objects: give'
        ' min_score'
      )
    rule = rule or make_decode(manifest.decode)
    return Detections(network, rule, 0.0 if min_score is None else min_score)
  if min_score is not None:
    raise ValueError(
      'min_score is of objects, but the manifest of this network does not say'
      ' that it detects any'
      + (': give top' if manifest.outputs == LOGITS else '')
    )
  if manifest.outputs == LOGITS:
    return Classes(network, 5 if top is None else top)
  if top is not None:
    raise ValueError(
      'top is a number of classes, but this network gives arrays, of which its'
      ' manifest does not say that they are logits'
    )
  return Arrays(network)
