"""Describes a network that is served: `Manifest`."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from slimjax.runtime.headline import Headline
from slimjax.runtime.thresholds import Thresholds
from slimjax.widths import find
from slimjax.widths import label
from slimjax.widths import Width

PLATFORMS = ('cpu', 'cuda', 'tpu')
# The `outputs` of a task that predicts logits of the classes, [b, classes], and
# of one that detects objects.
LOGITS = 'logits'
DETECTIONS = 'detections'
OUTPUTS = ('', LOGITS, DETECTIONS)


@dataclasses.dataclass(frozen=True)
class WidthEntry:
  """The entry of one width in a manifest: a row of its table.

  Attributes:
    width: a float, or the channels of every layer.
    switch: name of the width's switch.
    channels: the active output channels of every layer that sets a width.
    macs: multiply-accumulates for one image.
    params: parameters the width uses.
    prepared_bytes: size of its prepared weights.
    error: number to minimise, on validation images: the headline metric of the
      manifest, or its negative; None if it was not measured.
    prepare, predict: files of its programs; None without the format 'jax'.
    inputs: names of the tensors that `prepare` takes.
    onnx: file of its ONNX model; None without the format 'onnx'.
    latency_ms: median latency of a request, measured as the manifest's
      `measured` says; default: None, it was not measured.
  """

  width: Width
  switch: str
  channels: tuple[int, ...]
  macs: int
  params: int
  prepared_bytes: int
  error: float | None
  prepare: str | None
  predict: str | None
  inputs: tuple[str, ...]
  onnx: str | None
  latency_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Describes a network, its images and its outputs.

  Attributes:
    model: class of the network and its options, for the reader; nothing is
      built from it.
    class_names: one name per class, or empty.
    image_size: (height, width) that the programs take.
    preprocessing: description of what has to be done to uint8 images; the
      program `preprocess` does it.
    batch_size: batch size that the programs take; None for any.
    platforms: platforms that the programs are made for.
    widths: one entry per width, thinnest first.
    default_width: width that is used where none is given.
    validation: origin of the errors: data set, split, examples, step.
    versions: versions of the packages that wrote the bundle.
    files: {path: {'bytes', 'sha256'}}.
    headline: metric of the errors; default: error, %, less is better.
    outputs: 'logits' if the outputs are logits of the classes, [b, classes];
      'detections' if they are boxes [b, d, 4] in pixels of the image, scores,
      labels and valid [b, d], perhaps masks [b, d, m, m] and keypoints [b, d,
      s, s, k] within the boxes, and the programs take, beside the images, how
      much of each is picture; default: '', an array or a tree of arrays,
      examples first, whose names and shapes the programs tell.
    decode: rule by which an encoded picture becomes uint8 [h, w, 3]: its name
      and its numbers; default: None, it is unknown.
    preprocesses: whether uint8 images are taken, and preprocessed; default: no.
    input_range: smallest and largest value of preprocessed images; default:
      None, it is unknown.
    source: origin of the weights: run and step; default: empty.
    measured: origin of the latencies: device, backend, batch size and time;
      default: empty.
    onnx_input: type of the images that the ONNX models take: 'float32',
      preprocessed (default), or 'uint8'.
    cascade: widths and thresholds of a cascade, see `slimjax.runtime.Cascade`;
      default: None, none were recorded.
    other_sizes: (height, width) of other images that there are programs for;
      default: none.
    keypoint_names: names of an object's keypoints; default: empty.
    skeleton: pairs of keypoints, from 0, that a drawing connects; default:
      empty.
    sha256: digest of all the above, and so of every file; default: '', it is
      not the manifest of a bundle that was written.
  """

  model: Mapping[str, Any]
  class_names: tuple[str, ...]
  image_size: tuple[int, int]
  preprocessing: str
  batch_size: int | None
  platforms: tuple[str, ...]
  widths: tuple[WidthEntry, ...]
  default_width: Width
  validation: Mapping[str, Any]
  versions: Mapping[str, str]
  files: Mapping[str, Mapping[str, Any]]
  headline: Headline = dataclasses.field(default_factory=Headline)
  outputs: str = ''
  decode: Mapping[str, Any] | None = None
  preprocesses: bool = False
  input_range: tuple[float, float] | None = None
  source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  measured: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  onnx_input: str = 'float32'
  cascade: Thresholds | None = None
  other_sizes: tuple[tuple[int, int], ...] = ()
  keypoint_names: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()
  sha256: str = ''

  def entry(self, width: Width | str) -> WidthEntry:
    """Returns the entry of a width, given as a number, channels or a name.

    Raises:
      ValueError: there is no such width.
    """
    width = find(width, [entry.width for entry in self.widths])
    for entry in self.widths:
      if entry.width == width:
        return entry
    raise ValueError(
      f'the bundle has no width {width}, only'
      f' {", ".join(str(entry.width) for entry in self.widths)}'
    )

  @property
  def detects(self) -> bool:
    """Returns whether the network answers with objects in its images."""
    return self.outputs == DETECTIONS

  @property
  def image_sizes(self) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of all images that are taken."""
    return (self.image_size, *self.other_sizes)

  def program(self, path: str, size: tuple[int, int]) -> str:
    """Returns the file of a program for images of a size.

    Args:
      path: file of the program for `image_size`.
      size: one of `image_sizes`.
    """
    return path if size == self.image_size else f'{path}_{size[0]}x{size[1]}'

  def check_cascade(self, thresholds: Thresholds) -> None:
    """Raises ValueError unless the network can be run as a cascade."""
    if self.outputs != LOGITS:
      raise ValueError(
        f'a cascade needs logits of classes, but outputs is {self.outputs!r}'
        + (
          ''
          if self.detects
          else f"; export the network with outputs='{LOGITS}'"
        )
      )
    known = [entry.width for entry in self.widths]
    missing = [label(w) for w in thresholds.widths if w not in known]
    if missing:
      raise ValueError(
        f'the cascade has the widths {", ".join(missing)}, the network only'
        f' {", ".join(map(label, known))}'
      )

  def score(self, entry: WidthEntry) -> float | None:
    """Returns the headline metric of a width; None if it was not measured."""
    return None if entry.error is None else self.headline.score(entry.error)
