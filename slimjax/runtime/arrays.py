"""Answers with a network's outputs as they are: an array, or a tree of them."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from slimjax.runtime.decoding import Decode
from slimjax.runtime.network import Network
from slimjax.runtime.tensors import named_outputs
from slimjax.widths import Width

# Images [b, h, w, 3], or some of [h, w, 3], which may be read as they come.
Images = np.ndarray | jax.Array | Iterable[Any]


@dataclasses.dataclass(frozen=True)
class Arrays:
  """The outputs as answers; see `slimjax.runtime.kinds.Kind`.

  Attributes:
    network: the network.
  """

  network: Network

  def decoder(self, rule: Decode) -> Decode:
    return rule

  def predict(self, images: Images, width: Width | None) -> Any:
    return outputs_of(self.network, images, width)

  def interpret(self, outputs: Any) -> Any:
    return outputs

  def of_one(self, said: Any, place: int) -> Any:
    return jax.tree.map(lambda array: array[place], said)

  def line(self, said: Any) -> dict[str, Any]:
    return {
      'outputs': {
        _shown(name): array.tolist()
        for name, array in named_outputs(said).items()
      }
    }

  def text(self, said: Any) -> str:
    lines = []
    for name, array in named_outputs(said).items():
      shape = f'{list(array.shape)}, ' if array.ndim else ''
      lines.append(f'{_shown(name)}: {shape}mean {array.mean():.4g}')
    return '\n'.join(lines)


def outputs_of(network: Network, images: Images, width: Width | None) -> Any:
  """Returns the outputs for images, on the host.

  Args:
    network: the network.
    images: images, all of one shape and type.
    width: one of the network's widths; None for its default.
  """
  parts = [
    jax.tree.map(np.asarray, network(part, width=width))
    for part in _batches(images, network)
  ]
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def _batches(images: Images, network: Network) -> Iterator[Any]:
  """Yields images in batches, so that few pictures are held at a time."""
  if isinstance(images, (np.ndarray, jax.Array)):
    yield images
    return
  held: list[np.ndarray] = []
  some = False
  for image in images:
    held.append(np.asarray(image))
    if len(held) == network.batch_sizes[-1]:
      yield _stacked(held)
      held, some = [], True
  if held:
    yield _stacked(held)
  elif not some:  # their outputs have a shape all the same
    yield np.zeros((0, *network.manifest.image_size, 3), np.uint8)


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
  forms = {(image.shape, str(image.dtype)) for image in images}
  if len(forms) > 1:
    raise ValueError(f'images of one list must be alike, got {sorted(forms)}')
  return np.stack(images)


def _shown(name: str) -> str:
  return name.removeprefix('/') or 'output'
