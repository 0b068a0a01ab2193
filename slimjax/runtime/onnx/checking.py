"""Checks an ONNX model of a bundle before and after ONNX Runtime opens it."""

from collections.abc import Iterator
import pathlib
import posixpath
from typing import Any

from slimjax import checks
from slimjax.runtime.errors import BundleError
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.manifest import Manifest

_TYPES = {'uint8': 'tensor(uint8)', 'float32': 'tensor(float)'}


def check_file(folder: pathlib.Path, name: str, manifest: Manifest) -> None:
  """Checks that a model reads no files but those that are hashed.

  Args:
    folder: folder of the bundle.
    name: path of the model in it.
    manifest: manifest of the bundle.

  Raises:
    BundleError: it reads others, or is no model.
  """
  import google.protobuf.message
  import onnx

  path = folder / name
  try:
    model = onnx.ModelProto.FromString(path.read_bytes())
  except google.protobuf.message.DecodeError as error:
    raise BundleError(f'{path} is not an ONNX model: {error}') from error
  for tensor in _external(model):
    keys = {entry.key: entry.value for entry in tensor.external_data}
    location = keys.get('location', '')
    whole = posixpath.normpath(
      posixpath.join(posixpath.dirname(name), location)
    )
    if not location or whole not in manifest.files:
      raise BundleError(
        f'{path} reads the tensor {checks.shown(tensor.name)} from the file'
        f' {checks.shown(location)}, of which the manifest has no hash'
      )


def check_session(path: pathlib.Path, session: Any, manifest: Manifest) -> None:
  """Raises BundleError unless inputs and outputs are as the manifest says."""
  images, outputs = session.get_inputs(), session.get_outputs()
  if [i.name for i in images] != ['images'] or len(outputs) != 1:
    raise BundleError(
      f'{path} must take images and give one output, but takes'
      f' {[i.name for i in images]} and gives {[o.name for o in outputs]}'
    )
  size = manifest.batch_size
  wanted = [size, *manifest.image_size, 3]
  kind = _TYPES[manifest.onnx_input]
  if images[0].type != kind or not _fits(images[0].shape, wanted):
    raise BundleError(
      f'{path} takes {images[0].type} {images[0].shape}, but the manifest says'
      f' {kind} {[size or "b", *wanted[1:]]}'
    )
  if manifest.outputs == LOGITS:
    classes = manifest.model['num_classes']
    if not _fits(outputs[0].shape, [size, classes]):
      raise BundleError(
        f'{path} gives {outputs[0].shape}, but the manifest says logits of'
        f' {classes} classes'
      )


def _fits(found: list[Any], wanted: list[int | None]) -> bool:
  """Returns whether a shape fits; None is a batch that has a name."""
  return len(found) == len(wanted) and all(
    isinstance(one, str) if other is None else one == other
    for one, other in zip(found, wanted, strict=True)
  )


def _external(message: Any) -> Iterator[Any]:
  """Yields the tensors, anywhere in a model, whose data are in other files."""
  import onnx

  left = [message]
  while left:
    message = left.pop()
    if isinstance(message, onnx.TensorProto):
      if message.data_location or len(message.external_data):
        yield message
      continue
    for field, value in message.ListFields():
      if field.message_type is not None:
        left += [value] if hasattr(value, 'ListFields') else list(value)
