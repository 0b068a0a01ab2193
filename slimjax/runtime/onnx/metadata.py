"""Describes an ONNX model inside its file, to use it without its bundle."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from slimjax.data.preprocess import Normalise
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry

# Keys of the metadata, in the order of the file.
KEYS = {
  'class_names': 'one name per class, as a JSON list',
  'outputs': "'logits', if the outputs are logits of the classes",
  'image_size': 'height and width in pixels, as a JSON list',
  'decode': 'how a picture becomes an image of that size, as JSON',
  'input': 'whether the images are preprocessed inside or before',
  'preprocessing': 'the preprocessing of uint8 images, in words',
  'mean': 'subtracted from RGB in [0, 1]; a number, or a JSON list of three',
  'std': 'RGB is divided by it after that; a number, or a JSON list of three',
  'width': 'the width, a number or a JSON list of channels',
  'macs': 'multiply-accumulates for one image',
  'params': 'number of parameters',
  'error': 'the headline metric on validation images',
  'error_metric': 'title, unit and direction of that metric, as JSON',
  'validation': 'origin of the error, as JSON',
  'source': 'run and step of the weights, as JSON',
}


def onnx_metadata(
  manifest: Manifest, entry: WidthEntry, preprocess: Any
) -> dict[str, str]:
  """Returns the metadata of a width's ONNX model, for those `KEYS` it has.

  Args:
    manifest: manifest of the bundle, still without `widths` and `files`.
    entry: entry of the width.
    preprocess: uint8 images -> floating images, or None.
  """
  score = manifest.score(entry)
  inside = manifest.onnx_input == 'uint8'
  values: Mapping[str, Any] = {
    'class_names': manifest.class_names or None,
    'outputs': manifest.outputs or None,
    'image_size': manifest.image_size,
    'decode': manifest.decode,
    'input': (
      'uint8 RGB images; the preprocessing is inside'
      if inside
      else 'float32 RGB images that have been preprocessed'
    ),
    'preprocessing': manifest.preprocessing or None,
    'width': entry.width,
    'macs': entry.macs,
    'params': entry.params,
    'error': score,
    'error_metric': None
    if score is None
    else dataclasses.asdict(manifest.headline),
    'validation': manifest.validation or None,
    'source': manifest.source or None,
  }
  if isinstance(preprocess, Normalise):
    values = {**values, 'mean': preprocess.mean, 'std': preprocess.std}
  return {
    key: values[key]
    if isinstance(values[key], str)
    else json.dumps(values[key])
    for key in KEYS
    if values.get(key) is not None
  }
