"""Parses the JSON of a manifest: one check for each field, and no other code.

Whoever reads a `Manifest` may rely on its types and ranges. What its programs
say is compared with it where they are loaded (`slimjax.runtime.stored`).
"""

from collections.abc import Mapping
import functools
import itertools
import re
from typing import Any

from slimjax import checks
from slimjax.runtime.headline import Headline
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import OUTPUTS
from slimjax.runtime.manifest import PLATFORMS
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.rules import check_rule
from slimjax.runtime.rules import parse_rule
from slimjax.runtime.rules import parse_sizes
from slimjax.runtime.rules import SIDE
from slimjax.runtime.thresholds import CONFIDENCES
from slimjax.runtime.thresholds import Thresholds
from slimjax.widths import canonical
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width

SCHEMA = 3
READABLE = (1, 2, 3)
# Fields that a manifest has only where they say something.
OPTIONAL: dict[str, Any] = {
  'cascade': None,
  'other_sizes': (),
  'keypoint_names': (),
  'skeleton': (),
}
_COUNT = 2**63 - 1  # the largest count of anything


def parse(content: Mapping[str, Any], *, preprocess: str) -> Manifest:
  """Returns the manifest that JSON holds, of any readable schema.

  Args:
    content: the JSON, with all its keys.
    preprocess: path of the program that preprocesses. Where the manifest names
      such a file, bundles of schemas before 3 do preprocess.

  Raises:
    ValueError: it is not what its schema says; the text names the field.
  """
  schema = content['schema']
  defaults: dict[str, Any] = dict(OPTIONAL)
  if schema < SCHEMA:
    # Schema 1 had classifiers alone, and called their outputs logits.
    defaults |= {**_OLDER, 'outputs': LOGITS if schema == 1 else ''}
    # It also stated the number of its classes, which the outputs tell.
    content = {k: v for k, v in content.items() if k != 'num_classes'}
  fields = checks.record('', content, fields=_MANIFEST, defaults=defaults)
  for name in ('format', 'schema'):
    del fields[name]
  if fields['preprocesses'] is None:
    fields['preprocesses'] = preprocess in fields['files']
  if fields['default_width'] is None:
    fields['default_width'] = fields['widths'][-1].width
  manifest = Manifest(**fields)
  _check_whole(manifest, preprocess)
  return manifest


def parse_width(name: str, value: Any) -> Width:
  """Returns a width: a number above zero, or the channels of every layer."""
  if isinstance(value, (list, tuple)):
    return canonical(_channels(name, value))
  return canonical(checks.real(name, value, above=0, most=1000))


def relative_path(name: str, value: Any) -> str:
  """Returns the path of a file in a bundle, with slashes, below its folder."""
  path = checks.text(name, value, least=1, most=_PATH, lines=False)
  parts = path.split('/')
  strange = '\\' in path or not path.isprintable()
  if strange or any(part in ('', '.', '..') for part in parts):
    raise ValueError(
      f'{name} must lead to a file of the bundle, got {checks.shown(path)}'
    )
  if any(len(part.encode()) > 255 for part in parts):
    raise ValueError(f'{name} has a part of more than 255 bytes')
  return path


_PATH = 1000
_line = functools.partial(checks.text, most=1000, lines=False)
_count = functools.partial(checks.whole, least=0, most=_COUNT)
_path = functools.partial(checks.optional, check=relative_path)
_known = functools.partial(checks.mapping, check=checks.plain)
_channels = functools.partial(
  checks.listed,
  check=functools.partial(checks.whole, least=1, most=2**24),
  least=1,
  most=10_000,
)


def _digest(name: str, value: Any) -> str:
  if not isinstance(value, str) or not re.fullmatch('[0-9a-f]{64}', value):
    raise ValueError(
      f'{name} must be a SHA-256, 64 digits from 0 to f, got'
      f' {checks.shown(value)}'
    )
  return value


_FILE: dict[str, checks.Check] = {'bytes': _count, 'sha256': _digest}
_file = functools.partial(checks.record, fields=_FILE)


def _anything(name: str, value: Any) -> Any:
  del name
  return value


def _files(name: str, value: Any) -> dict[str, dict[str, Any]]:
  for path in checks.mapping(name, value, check=_anything, longest=_PATH):
    relative_path(f'a path of {name}', path)
  return checks.mapping(name, value, check=_file, longest=_PATH)


_ENTRY: dict[str, checks.Check] = {
  'width': parse_width,
  'switch': functools.partial(_line, least=1),
  'channels': _channels,
  'macs': _count,
  'params': _count,
  'prepared_bytes': _count,
  'error': functools.partial(checks.optional, check=checks.real),
  'prepare': _path,
  'predict': _path,
  'inputs': functools.partial(checks.listed, check=_line),
  'onnx': _path,
  'latency_ms': functools.partial(
    checks.optional, check=functools.partial(checks.real, above=0)
  ),
}


def _entry(name: str, value: Any) -> WidthEntry:
  """Returns the entry of one width, consistent in itself."""
  defaults = {'latency_ms': None}
  entry = WidthEntry(
    **checks.record(name, value, fields=_ENTRY, defaults=defaults)
  )
  expected = switch_name(entry.width)
  if entry.switch != expected:
    raise ValueError(
      f'{name}.switch is {checks.shown(entry.switch)}, but the switch of width'
      f' {label(entry.width)} is {expected!r}'
    )
  if isinstance(entry.width, tuple) and entry.width != entry.channels:
    raise ValueError(f'{name}.channels are not those of its width')
  if (entry.prepare is None) != (entry.predict is None):
    raise ValueError(f'{name} has prepare or predict, but not both')
  if entry.prepare is None and entry.onnx is None:
    raise ValueError(f'{name} has neither programs nor an ONNX model')
  if len(set(entry.inputs)) < len(entry.inputs):
    raise ValueError(f'{name}.inputs has one name twice')
  return entry


_MODEL: dict[str, checks.Check] = {
  'class': _line,
  'dtype': _line,
  'widths': functools.partial(checks.listed, check=parse_width, least=1),
  'num_classes': functools.partial(checks.whole, least=1, most=_COUNT),
}


def _model(name: str, value: Any) -> dict[str, Any]:
  """Returns the description of the network; its options are its own."""
  model = _known(name, value)
  typed = {key: value for key, value in model.items() if key in _MODEL}
  checks.record(name, typed, fields=_MODEL)
  return model


_share = functools.partial(checks.real, least=0, most=1)
_CASCADE: dict[str, checks.Check] = {
  'widths': functools.partial(checks.listed, check=parse_width, least=1),
  'least': functools.partial(checks.listed, check=_share),
  'confidence': functools.partial(checks.choice, allowed=tuple(CONFIDENCES)),
  'reached': functools.partial(checks.listed, check=_share),
  'accuracies': functools.partial(
    checks.listed, check=functools.partial(checks.real, least=0, most=100)
  ),
  'mean_cost': functools.partial(
    checks.optional, check=functools.partial(checks.real, least=0)
  ),
}


def _cascade(name: str, value: Any) -> Thresholds:
  """Returns the thresholds of a cascade, consistent in themselves."""
  fields = checks.record(name, value, fields=_CASCADE)
  try:
    return Thresholds(**fields)
  except ValueError as error:
    raise ValueError(f'{name}: {error}') from error


def _range(name: str, value: Any) -> tuple[float, float]:
  low, high = checks.listed(name, value, check=checks.real, least=2, most=2)
  if not low < high:
    raise ValueError(f'{name} must be two numbers in order, got {value}')
  return low, high


def parse_headline(name: str, value: Any) -> Headline:
  """Returns the metric of errors, from {'title', 'unit', 'direction'}."""
  short = functools.partial(_line, most=100)
  fields: dict[str, checks.Check] = {
    'title': short,
    'unit': short,
    'direction': functools.partial(checks.choice, allowed=('min', 'max')),
  }
  return Headline(**checks.record(name, value, fields=fields))


def _measured(name: str, value: Any) -> dict[str, Any]:
  """Returns the origin of latencies; empty if none were measured."""
  found = _known(name, value)
  return checks.record(name, found, fields=_MEASURED) if found else {}


_MEASURED: dict[str, checks.Check] = {
  'device': _line,
  'backend': _line,
  'batch_size': functools.partial(checks.whole, least=1, most=_COUNT),
  'measured': _line,
}
_MANIFEST: dict[str, checks.Check] = {
  'format': _line,
  'schema': checks.whole,
  'sha256': _digest,
  'model': _model,
  'class_names': functools.partial(checks.listed, check=checks.text),
  'image_size': functools.partial(
    checks.listed,
    check=functools.partial(checks.whole, least=1, most=SIDE),
    least=2,
    most=2,
  ),
  'preprocessing': checks.text,
  'batch_size': functools.partial(
    checks.optional, check=functools.partial(checks.whole, least=1, most=2**20)
  ),
  'platforms': functools.partial(
    checks.listed,
    check=functools.partial(checks.choice, allowed=PLATFORMS),
    least=1,
    most=len(PLATFORMS),
  ),
  'widths': functools.partial(
    checks.listed, check=_entry, least=1, most=10_000
  ),
  'default_width': parse_width,
  'validation': _known,
  'versions': functools.partial(checks.mapping, check=_line),
  'files': _files,
  'headline': parse_headline,
  'outputs': functools.partial(checks.choice, allowed=OUTPUTS),
  'decode': functools.partial(checks.optional, check=parse_rule),
  'preprocesses': checks.flag,
  'input_range': functools.partial(checks.optional, check=_range),
  'source': _known,
  'measured': _measured,
  'onnx_input': functools.partial(checks.choice, allowed=('float32', 'uint8')),
  'cascade': functools.partial(checks.optional, check=_cascade),
  'other_sizes': parse_sizes,
  'keypoint_names': functools.partial(checks.listed, check=checks.text),
  'skeleton': functools.partial(
    checks.listed,
    check=functools.partial(
      checks.listed,
      check=functools.partial(checks.whole, least=0, most=SIDE),
      least=2,
      most=2,
    ),
  ),
}
# What schemas before 3 may leave out; `parse` finds what is None.
_OLDER: dict[str, Any] = {
  'headline': Headline(),
  'outputs': '',
  'decode': None,
  'preprocesses': None,
  'input_range': None,
  'source': {},
  'measured': {},
  'onnx_input': 'float32',
  'default_width': None,
}


def _check_whole(manifest: Manifest, preprocess: str) -> None:
  """Raises ValueError unless the fields fit each other."""
  entries = manifest.widths
  for one, other in itertools.pairwise(entries):
    if len(one.channels) != len(other.channels):
      raise ValueError('widths have channels of different numbers of layers')
    if sum(one.channels) > sum(other.channels):
      raise ValueError('widths must stand in order, the thinnest first')
  numbers = sorted(e.width for e in entries if isinstance(e.width, float))
  for one, other in itertools.pairwise(map(manifest.entry, numbers)):
    if sum(one.channels) > sum(other.channels):
      raise ValueError(
        f'width {one.width} has more channels than width {other.width}'
      )
  if len({entry.switch for entry in entries}) < len(entries):
    raise ValueError('widths has one width twice')
  if manifest.default_width not in [entry.width for entry in entries]:
    raise ValueError(
      f'default_width {label(manifest.default_width)} is not one of widths'
    )
  for name in ('predict', 'onnx'):
    if len({getattr(entry, name) is None for entry in entries}) > 1:
      raise ValueError(f'some widths have the file {name}, but not all')
  if len(set(manifest.platforms)) < len(manifest.platforms):
    raise ValueError('platforms has one platform twice')
  if manifest.preprocesses and preprocess not in manifest.files:
    raise ValueError(f'preprocesses is true, but files has no {preprocess}')
  if manifest.onnx_input == 'uint8' and not manifest.preprocesses:
    raise ValueError("onnx_input is 'uint8', but preprocesses is false")
  check_rule('decode', manifest.decode, manifest.image_sizes)
  classes = manifest.model.get('num_classes')
  names = len(manifest.class_names)
  if manifest.detects and names and classes != names:
    raise ValueError(
      f'class_names has {names} names, but model.num_classes is {classes}'
    )
  points = len(manifest.keypoint_names)
  if any(end >= points for pair in manifest.skeleton for end in pair):
    raise ValueError(
      f'skeleton connects keypoints that are not among the {points} of'
      ' keypoint_names'
    )
  if manifest.cascade is not None:
    manifest.check_cascade(manifest.cascade)
