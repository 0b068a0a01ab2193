"""Says what arrays a network gives that answers with logits or detections."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from slimjax import checks
from slimjax.runtime.manifest import DETECTIONS
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.manifest import OUTPUTS

# What a detection has, beside its place in the batch and among the others of
# its image; a number that is the same wherever it stands goes by a letter.
_NEEDED = {
  'boxes': ('floating', (4,)),
  'scores': ('floating', ()),
  'labels': ('integer', ()),
  'valid': ('bool_', ()),
}
_HEADS = {
  'masks': ('floating', ('m', 'm')),
  'keypoints': ('floating', ('s', 's', 'k')),
}


def is_logits(outputs: Mapping[str, Any]) -> bool:
  """Returns whether outputs, by path, are a single array [b, classes]."""
  return {name: x.ndim for name, x in outputs.items()} == {'': 2}


def is_detections(outputs: Mapping[str, Any]) -> bool:
  """Returns whether outputs, by path, are those of a detector.

  They are what `slimjax.models.detector` says: padded arrays [b, d, ...].
  """
  found = {name.removeprefix('/'): x for name, x in outputs.items()}
  known = {**_NEEDED, **_HEADS}
  if not _NEEDED.keys() <= found.keys() <= known.keys():
    return False
  numbers: dict[Any, Any] = {}
  for name, array in found.items():
    kind, sizes = known[name]
    wanted = ('b', 'd', *sizes)
    if array.ndim != len(wanted) or not np.issubdtype(
      array.dtype, getattr(np, kind)
    ):
      return False
    for size, letter in zip(array.shape, wanted, strict=True):
      expected = numbers.setdefault(letter, size)
      if size != (letter if isinstance(letter, int) else expected):
        return False
  return True


def check(
  found: Mapping[str, Any],
  outputs: str,
  *,
  class_names: Sequence[str],
  formats: Sequence[str],
) -> None:
  """Raises ValueError if a network cannot be written with these outputs.

  Args:
    found: shapes of its outputs, by path.
    outputs: what they are, as a manifest says it.
    class_names: one name per class, or empty.
    formats: formats to write.
  """
  checks.choice('outputs', outputs, allowed=OUTPUTS)
  if outputs == LOGITS and not is_logits(found):
    raise ValueError(
      'logits are a single array [b, classes], but this network gives'
      f' {shown(found)}'
    )
  if outputs == DETECTIONS and not is_detections(found):
    raise ValueError(
      'detections are what slimjax.models.detector.Detector returns, but this'
      f' network gives {shown(found)}'
    )
  if outputs == DETECTIONS and 'onnx' in formats:
    raise ValueError(
      'a detector is not written as ONNX: the sorts and loops that decide which'
      ' boxes it keeps are not translated; export it for jax'
    )
  if 'onnx' in formats and list(found) != ['']:
    raise ValueError(
      'an ONNX model has a single output here, but this task gives'
      f' {", ".join(name[1:] for name in found)}; export it for jax'
    )
  if class_names and list(found) == ['']:
    channels = found[''].shape[-1]
    if len(class_names) != channels:
      raise ValueError(
        f'{len(class_names)} class names, but the model has {channels} classes'
      )


def shown(outputs: Mapping[str, Any]) -> str:
  """Returns names, types and shapes of outputs, for messages."""
  return ', '.join(
    f'{name.removeprefix("/") or "output"}'
    f' {x.dtype}[{",".join(map(str, x.shape))}]'
    for name, x in outputs.items()
  )
