"""Reads, writes and checks the folder that a network is deployed as.

```
manifest.json         everything about the network; hashes of the other files
weights.safetensors   the shared weights once, the small trees of each switch
sample.safetensors    images, and the outputs every width must give for them
programs/             preprocess, and for each width: prepare and predict
onnx/                 a model for each width (with format 'onnx')
```

A program is StableHLO, serialised by `jax.export`; `prepare` slices a width's
weights out of the shared ones and folds its norms, `predict` takes the result.
Nothing is ever unpickled.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import jax

from slimjax import checks
from slimjax import digests
from slimjax import files
from slimjax.runtime import parsing
from slimjax.runtime import strict_json
from slimjax.runtime.errors import BundleError
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.thresholds import Thresholds
from slimjax.widths import Width

FORMAT = 'slimjax bundle'
MANIFEST = 'manifest.json'
WEIGHTS = 'weights.safetensors'
SAMPLE = 'sample.safetensors'
PREPROCESS = 'programs/preprocess'
# The largest manifest, bytes: a hundred widths of a large network take two MB.
_MOST = 2**25


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> Manifest:
  """Writes the manifest, the last file, which makes the folder a bundle.

  Returns:
    The manifest with its digest.
  """
  content = {
    'format': FORMAT,
    'schema': parsing.SCHEMA,
    **dataclasses.asdict(manifest),
  }
  for name in parsing.OPTIONAL:  # versions without them read it, too
    if not content[name]:
      del content[name]
  content['sha256'] = _content_hash(content)
  files.write_json(folder / MANIFEST, content, indent=1)
  return dataclasses.replace(manifest, sha256=content['sha256'])


def record_latencies(
  folder: str | os.PathLike,
  latencies_ms: Mapping[Width, float],
  measured: Mapping[str, Any],
) -> Manifest:
  """Writes latencies into the table of a bundle's manifest.

  Args:
    folder: folder of the bundle.
    latencies_ms: median latency of a request, by width; other widths keep none.
    measured: device, backend, batch size and time of the measurement.

  Returns:
    The new manifest.
  """
  folder = local(folder)
  manifest = read_manifest(folder)
  for width in latencies_ms:
    manifest.entry(width)
  manifest = dataclasses.replace(
    manifest,
    measured=dict(measured),
    widths=tuple(
      dataclasses.replace(entry, latency_ms=latencies_ms.get(entry.width))
      for entry in manifest.widths
    ),
  )
  return write_manifest(folder, manifest)


def record_cascade(
  folder: str | os.PathLike, thresholds: Thresholds | None
) -> Manifest:
  """Writes thresholds into the manifest of a bundle, for `Cascade(network)`.

  Args:
    folder: folder of the bundle.
    thresholds: thresholds of `choose_thresholds`; None removes those there.

  Returns:
    The new manifest.

  Raises:
    ValueError: the network has other outputs, or lacks a width.
  """
  folder = local(folder)
  manifest = read_manifest(folder)
  if thresholds is not None:
    manifest.check_cascade(thresholds)
  return write_manifest(
    folder, dataclasses.replace(manifest, cascade=thresholds)
  )


def read_manifest(
  folder: str | os.PathLike, *, sha256: str | None = None
) -> Manifest:
  """Returns the manifest of a bundle whose files are as they were written.

  Args:
    folder: folder of the bundle.
    sha256: digest that the manifest must have, as export printed it; default:
      any.

  Raises:
    FileNotFoundError: there is no such folder.
    OSError: a file cannot be read.
    BundleError: it is not a bundle, has another schema, or has been changed;
      the text names the file and the field.
  """
  folder = local(folder)
  path = folder / MANIFEST
  if not folder.is_dir():
    raise FileNotFoundError(f'there is no folder {folder}')
  if not path.is_file():
    raise BundleError(
      f'{folder} is not a bundle (no {MANIFEST}); make one with'
      ' python -m slimjax.export'
    )
  try:
    content = strict_json.read(path, most=_MOST)
  except ValueError as error:
    raise BundleError(str(error)) from error
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise BundleError(f'{path} is not the manifest of a {FORMAT}')
  schema = content.get('schema')
  if not isinstance(schema, int) or schema not in parsing.READABLE:
    raise BundleError(
      f'{folder} has the schema {checks.shown(schema)}, this version of slimjax'
      f' reads {parsing.READABLE[0]} to {parsing.READABLE[-1]}; update slimjax,'
      ' or export the bundle again'
    )
  found = content.get('sha256')
  if found != _content_hash(content):
    raise BundleError(f'{path} has been changed since it was written')
  if sha256 is not None and found != sha256:
    raise BundleError(
      f'{path} is not the one that was expected: its sha256 is {found}, not'
      f' {checks.shown(sha256)}; it is another bundle, or something has been'
      ' recorded in it since'
    )
  try:
    manifest = parsing.parse(content, preprocess=PREPROCESS)
  except ValueError as error:
    raise BundleError(
      f'{path} is not what schema {schema} says: {error}'
    ) from error
  _check_files(folder, manifest)
  return manifest


def local(path: str | os.PathLike) -> pathlib.Path:
  """Returns a path on this machine.

  Raises:
    ValueError: the path is on cloud storage.
  """
  if '://' in os.fspath(path):
    raise ValueError(
      f'{os.fspath(path)}: bundles are local folders; write it here and copy'
      ' that there, or copy it here first'
    )
  return pathlib.Path(files.expand(path, 'the path of the bundle'))


def member(folder: pathlib.Path, path: str) -> pathlib.Path:
  """Returns the path of a file of a bundle.

  Raises:
    BundleError: the path leads out of the folder, or nowhere.
  """
  try:
    whole = (folder / path).resolve()
    inside = whole.is_relative_to(folder.resolve())
  except (OSError, RuntimeError) as error:  # a loop of links, by version
    raise BundleError(f'{folder / path} cannot be followed: {error}') from error
  if not inside:
    raise BundleError(f'{folder} names a file outside of itself: {path}')
  return whole


def platform_of(device: jax.Device) -> str:
  """Returns the platform of a device, as `jax.export` calls it."""
  return 'cuda' if device.platform == 'gpu' else device.platform


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the versions of Python and of these packages."""
  found = {'python': platform.python_version()}
  for package in packages:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


def _content_hash(content: Mapping[str, Any]) -> str:
  rest = {key: value for key, value in content.items() if key != 'sha256'}
  text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def _check_files(folder: pathlib.Path, manifest: Manifest) -> None:
  named = {WEIGHTS, SAMPLE}
  for entry in manifest.widths:
    named |= {p for p in (entry.prepare, entry.onnx) if p}
    if entry.predict is not None:
      named |= {
        manifest.program(entry.predict, s) for s in manifest.image_sizes
      }
  if manifest.preprocesses:
    named |= {manifest.program(PREPROCESS, s) for s in manifest.image_sizes}
  for name in sorted(named - manifest.files.keys()):
    raise BundleError(f'{folder}: the manifest has no hash of {name}')
  for name, expected in manifest.files.items():
    path = member(folder, name)
    if not path.is_file():
      raise BundleError(f'{folder} has lost {name}; export it again')
    size = path.stat().st_size
    if size != expected['bytes']:
      raise BundleError(
        f'{path} has {size} bytes, not the {expected["bytes"]} that were'
        ' written; copy or export the bundle again'
      )
    if digests.of_file(path)['sha256'] != expected['sha256']:
      raise BundleError(f'{path} has been changed since it was written')
