"""Compares what a network gives with the outputs that its bundle stores."""

from collections.abc import Mapping
import pathlib
from typing import Any

import jax
import numpy as np

from slimjax.runtime.errors import BundleError
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.tensors import named_outputs
from slimjax.runtime.tensors import read_tensors
from slimjax.widths import Width


def verify(
  network: Any, path: pathlib.Path, tolerance: float | None
) -> dict[Width, float]:
  """Returns the relative difference of each width; see `Network.verify`.

  Args:
    network: a `slimjax.runtime.Network`.
    path: file of the images and the outputs.
    tolerance: the largest difference allowed; None chooses by the types.

  Raises:
    BundleError: a difference is larger, or the file does not fit.
  """
  manifest = network.manifest
  # The ONNX models compute in float32.
  by_xla = network.backend != 'onnxruntime'
  single = manifest.model.get('dtype') == 'float32'
  if tolerance is None:
    exact = single and jax.default_backend() == 'cpu'
    tolerance = 1e-3 if exact or not by_xla else 0.1
  # What bundles of schema 1 call logits.
  kinds = ('outputs', 'logits') if by_xla or single else ('float32',)
  sample = read_tensors(path)
  images = sample.get('images')
  if images is None or not len(images):
    raise BundleError(f'{path} has no images')
  differences = {}
  for width in network.widths:
    try:
      outputs = network(images, width=width)
    except ValueError as error:
      if isinstance(error, BundleError):
        raise
      raise BundleError(f'{path}: {error}') from error
    expected = _stored(path, sample, kinds, manifest.entry(width))
    differences[width] = _difference(path, outputs, expected)
  # The comparison is negated so that NaN is wrong, too.
  wrong = {w: d for w, d in differences.items() if not d <= tolerance}
  if wrong:
    text = ', '.join(f'{d:.1e} at {w}' for w, d in wrong.items())
    raise BundleError(
      f'{path.parent} does not give the outputs it was written with: {text},'
      f' relative, more than {tolerance:.1e}'
    )
  return differences


def _stored(
  path: pathlib.Path,
  sample: Mapping[str, np.ndarray],
  kinds: tuple[str, ...],
  entry: WidthEntry,
) -> dict[str, np.ndarray]:
  """Returns the outputs of a width that the file holds, by name."""
  for kind in kinds:
    prefix = f'{kind}/{entry.switch}'
    found = {
      key.removeprefix(prefix): array
      for key, array in sample.items()
      if key == prefix or key.startswith(f'{prefix}/')
    }
    if found:
      return found
  raise BundleError(f'{path} has no outputs of width {entry.width}')


def _difference(
  path: pathlib.Path, outputs: Any, expected: Mapping[str, np.ndarray]
) -> float:
  """Returns the largest difference, relative to the largest of an output."""
  found = {name: np.asarray(x) for name, x in named_outputs(outputs).items()}
  shapes = [
    {name: x.shape for name, x in sorted(arrays.items())}
    for arrays in (found, expected)
  ]
  if shapes[0] != shapes[1]:
    raise BundleError(
      f'{path} stores the outputs {shapes[1]}, but the network gives'
      f' {shapes[0]}'
    )
  relative = [0.0]
  for name, array in found.items():
    if array.size:
      # Labels and flags of detections are compared like numbers.
      one, other = array.astype(np.float64), expected[name].astype(np.float64)
      with np.errstate(invalid='ignore'):  # NaN and infinity are differences
        largest = np.abs(other).max() or 1.0
        relative.append(np.abs(one - other).max() / largest)
  return float(np.max(relative))
