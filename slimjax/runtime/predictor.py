"""Answers pictures and arrays at any width: what `slimjax.load` returns."""

from collections.abc import Iterator
import os
from typing import Any

import jax
import numpy as np

from slimjax.runtime.arrays import Images
from slimjax.runtime.decoding import Decode
from slimjax.runtime.decoding import decode_picture
from slimjax.runtime.decoding import make_decode
from slimjax.runtime.decoding import read_picture
from slimjax.runtime.kinds import Kind
from slimjax.runtime.kinds import kind_of
from slimjax.runtime.network import Network
from slimjax.widths import label
from slimjax.widths import Width

_FEW = 4  # names in a message


class Predictor:
  """A network with what is needed to read pictures and its outputs.

  A bundle and a run have the same interface. `predictor(images, width=0.5)`
  returns the outputs for arrays of images, `predictor.predict` the classes, or
  the objects that a detector finds.

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
    sizes = [f'{h} x {w}' for h, w in self.network.manifest.image_sizes]
    classes = f'{len(self.class_names)} classes, ' if self.class_names else ''
    return (
      f'<{self.network.manifest.model.get("class", "Network")} at widths'
      f' {", ".join(shown)} (default {label(self.default_width)}), {classes}'
      f'images of {" or ".join(sizes)} pixels; {self.source}>'
    )

  def __call__(
    self, images: Any, *, width: Width | None = None, hw: Any = None
  ) -> Any:
    """Returns the outputs for arrays of images; see `Network`."""
    return self.network(images, width=width, hw=hw)

  def read(self, path: str | os.PathLike) -> np.ndarray:
    """Returns a picture of a file as `predict` takes it, uint8 [h, w, 3].

    It is cut to the images of a classifier; a detector gets all of it.

    Raises:
      slimjax.runtime.decoding.PictureError: it cannot be read or decoded; the
        text names the file.
      ValueError: the network has no rule for pictures.
    """
    return read_picture(path, self._decoder())

  def decode(self, encoded: bytes, name: str = 'picture') -> np.ndarray:
    """Returns an encoded picture as `predict` takes it, uint8 [h, w, 3].

    Args:
      encoded: content of a file, such as a JPEG.
      name: name of the picture in errors; default: 'picture'.

    Raises:
      slimjax.runtime.decoding.PictureError: it cannot be decoded.
      ValueError: the network has no rule for pictures.
    """
    return decode_picture(encoded, self._decoder(), name)

  def _decoder(self) -> Decode:
    rule = self._decode or make_decode(self.network.manifest.decode)
    if rule is None:
      raise ValueError(
        f'{self.source} does not say how pictures are decoded and cropped: give'
        f' uint8 arrays [b, {self.image_size[0]}, {self.image_size[1]}, 3], or'
        ' export the run again'
      )
    return self.kind().decoder(rule)

  def kind(
    self, *, top: int | None = None, min_score: float | None = None
  ) -> Kind:
    """Returns how this network's outputs are answers; see `kind_of`."""
    return kind_of(self.network, self._decode, top=top, min_score=min_score)

  def predict(
    self,
    images: Any,
    *,
    width: Width | None = None,
    top: int | None = None,
    min_score: float | None = None,
  ) -> Any:
    """Predicts the classes of pictures, or the objects in them.

    Args:
      images: the path of a picture or an image [h, w, 3]; a list of these; or
        images [b, h, w, 3]. Arrays are uint8, or floating and preprocessed. To
        a detector uint8 images are pictures of any size, as files are.
      width: one of `widths`; default: `default_width`.
      top: number of classes for each image, the most probable first; default:
        5.
      min_score: least score of an object of a detector, from 0 to 1; default:
        all that it tells.

    Returns:
      A list with, for each image, a list of `Guess`; of a detector a
      `slimjax.detection.detected.Detected`, in pixels of the picture. If the
      manifest says neither: the network's outputs, a tree of arrays, examples
      first.

    Raises:
      PictureError: a picture cannot be read; the text names the file.
      ValueError: there is no such width, the network takes other images, or an
        option is not of what it answers.
    """
    kind = self.kind(top=top, min_score=min_score)
    return kind.predict(self._opened(images), width)

  def interpret(self, outputs: Any, **options: Any) -> Any:
    """Returns what `predict` returns, from outputs of the network.

    Args:
      outputs: what the predictor returned when it was called with images.
      **options: `top` or `min_score`, as of `predict`.
    """
    return self.kind(**options).interpret(outputs)

  def _opened(self, images: Any) -> Images:
    """Returns arrays; files of a list are read one after the other."""
    if isinstance(images, (np.ndarray, jax.Array)):
      return images[None] if images.ndim == 3 else images
    if isinstance(images, (str, os.PathLike)):
      images = [images]
    return self._read_all(images)

  def _read_all(self, images: Any) -> Iterator[np.ndarray]:
    for image in images:
      is_path = isinstance(image, (str, os.PathLike))
      yield self.read(image) if is_path else np.asarray(image)
