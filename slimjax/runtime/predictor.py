"""Answers pictures and arrays at any width: what `slimjax.load` returns."""

from collections.abc import Iterator
from collections.abc import Sequence
import os
from typing import Any

import jax
import numpy as np

from slimjax.runtime.classes import guesses
from slimjax.runtime.decoding import Decode
from slimjax.runtime.decoding import decode_picture
from slimjax.runtime.decoding import make_decode
from slimjax.runtime.decoding import read_picture
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.network import Network
from slimjax.widths import label
from slimjax.widths import Width

_FEW = 4  # names in a message


class Predictor:
  """A network with what is needed to read pictures and its outputs.

  A bundle and a run have the same interface. `predictor(images, width=0.5)`
  returns the outputs for arrays of images, `predictor.predict` the classes.

  Attributes:
    network: the `slimjax.runtime.Network`, to benchmark and to serve.
    source: run or bundle that it is from, in words.
  """

  def __init__(
    self, network: Network, source: str, decode: Decode | None = None
  ):
    """Joins a network and its rule for pictures.

    Args:
      network: network of a bundle or a run.
      source: run or bundle that it is from, in words.
      decode: an encoded picture -> uint8 [h, w, 3]; default: the rule that the
        network's manifest holds.
    """
    self.network = network
    self.source = source
    self._decode = decode

  @property
  def widths(self) -> tuple[Width, ...]:
    """Returns the widths, thinnest first."""
    return self.network.widths

  @property
  def default_width(self) -> Width:
    """Returns the width that is used where none is given."""
    return self.network.default_width

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns one name per class, or an empty tuple."""
    return self.network.manifest.class_names

  @property
  def image_size(self) -> tuple[int, int]:
    """Returns height and width of the images, pixels."""
    return self.network.manifest.image_size

  @property
  def preprocessing(self) -> str:
    """Returns the preprocessing of uint8 images, in words."""
    return self.network.manifest.preprocessing

  def __repr__(self) -> str:
    shown = [label(width) for width in self.widths]
    if len(shown) > 2 * _FEW:
      shown = [*shown[:_FEW], f'{len(shown) - 2 * _FEW} more', *shown[-_FEW:]]
    height, width = self.image_size
    classes = f'{len(self.class_names)} classes, ' if self.class_names else ''
    return (
      f'<{self.network.manifest.model.get("class", "Network")} at widths'
      f' {", ".join(shown)} (default {label(self.default_width)}), {classes}'
      f'images of {height} x {width} pixels; {self.source}>'
    )

  def __call__(self, images: Any, *, width: Width | None = None) -> Any:
    """Returns the outputs for arrays of images; see `Network`."""
    return self.network(images, width=width)

  def read(self, path: str | os.PathLike) -> np.ndarray:
    """Returns a picture of a file as the network takes it, uint8 [h, w, 3].

    Raises:
      slimjax.runtime.decoding.PictureError: it cannot be read or decoded; the
        text names the file.
      ValueError: the network has no rule for pictures.
    """
    return read_picture(path, self._rule())

  def decode(self, encoded: bytes, name: str = 'picture') -> np.ndarray:
    """Returns an encoded picture as the network takes it, uint8 [h, w, 3].

    Args:
      encoded: content of a file, such as a JPEG.
      name: name of the picture in errors; default: 'picture'.

    Raises:
      slimjax.runtime.decoding.PictureError: it cannot be decoded.
      ValueError: the network has no rule for pictures.
    """
    return decode_picture(encoded, self._rule(), name)

  def _rule(self) -> Decode:
    decode = self._decode or make_decode(self.network.manifest.decode)
    if decode is None:
      raise ValueError(
        f'{self.source} does not say how pictures are decoded and cropped: give'
        f' uint8 arrays [b, {self.image_size[0]}, {self.image_size[1]}, 3], or'
        ' export the run again'
      )
    return decode

  def predict(
    self, images: Any, *, width: Width | None = None, top: int = 5
  ) -> Any:
    """Predicts the classes of pictures.

    Args:
      images: the path of a picture or an image [h, w, 3]; a list of these; or
        images [b, h, w, 3]. Arrays are uint8, or floating and preprocessed.
      width: one of `widths`; default: `default_width`.
      top: number of classes for each image, the most probable first; default:
        5.

    Returns:
      A list of `Guess` for each image. If the network does not predict logits
      of classes: its outputs, a tree of arrays, examples first.

    Raises:
      PictureError: a picture cannot be read; the text names the file.
      ValueError: there is no such width, or the network takes other images.
    """
    if top < 1:
      raise ValueError(f'top must be at least 1, got {top}')
    parts = [
      jax.tree.map(np.asarray, self(part, width=width))
      for part in self._parts(images)
    ]
    outputs = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    return self.interpret(outputs, top=top)

  def interpret(self, outputs: Any, *, top: int = 5) -> Any:
    """Returns what `predict` returns, from outputs of the network."""
    if self.network.manifest.outputs != LOGITS:
      return outputs
    return guesses(np.asarray(outputs), self.class_names, top)

  def _parts(self, images: Any) -> Iterator[Any]:
    """Yields images in batches, so that few pictures are held at a time."""
    if isinstance(images, (str, os.PathLike)):
      images = [images]
    if isinstance(images, (np.ndarray, jax.Array)):
      yield images[None] if images.ndim == 3 else images
      return
    size = self.network.batch_sizes[-1]
    for start in range(0, max(len(images), 1), size):
      yield self._stacked(images[start : start + size])

  def _stacked(self, images: Sequence[Any]) -> np.ndarray:
    if not len(images):
      return np.zeros((0, *self.image_size, 3), np.uint8)
    arrays = [
      self.read(image)
      if isinstance(image, (str, os.PathLike))
      else np.asarray(image)
      for image in images
    ]
    forms = {(array.shape, str(array.dtype)) for array in arrays}
    if len(forms) > 1:
      raise ValueError(f'images of one list must be alike, got {sorted(forms)}')
    return np.stack(arrays)
