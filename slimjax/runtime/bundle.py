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
import jax.numpy as jnp
import numpy as np

from slimjax import files
from slimjax.runtime import manifest as manifests
from slimjax.runtime.manifest import Manifest
from slimjax.widths import Width

FORMAT = 'slimjax bundle'
MANIFEST = 'manifest.json'
WEIGHTS = 'weights.safetensors'
SAMPLE = 'sample.safetensors'
PREPROCESS = 'programs/preprocess'


class BundleError(ValueError):
  """A folder is not a bundle, or has been changed since it was written."""


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
  """Writes the manifest, the last file, which makes the folder a bundle."""
  content = {
    'format': FORMAT,
    'schema': manifests.SCHEMA,
    **dataclasses.asdict(manifest),
  }
  content['sha256'] = _content_hash(content)
  files.write_json(folder / MANIFEST, content, indent=1)


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
  write_manifest(folder, manifest)
  return manifest


def describe_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns sizes and hashes of all files in a folder, by path."""
  paths = sorted(p for p in folder.rglob('*') if p.is_file())
  return {
    path.relative_to(folder).as_posix(): {
      'bytes': path.stat().st_size,
      'sha256': file_hash(path),
    }
    for path in paths
  }


def read_manifest(folder: str | pathlib.Path) -> Manifest:
  """Returns the manifest of a bundle whose files are as they were written.

  Raises:
    FileNotFoundError: there is no such folder.
    BundleError: it is not a bundle, has another schema, or has been changed.
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
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise BundleError(f'{path} is not JSON: {error}') from error
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise BundleError(f'{path} is not the manifest of a {FORMAT}')
  schema = content.get('schema')
  if schema not in manifests.READABLE:
    raise BundleError(
      f'{folder} has the schema {schema!r}, this version of slimjax reads'
      f' {manifests.READABLE[0]} to {manifests.READABLE[-1]}; update slimjax,'
      ' or export the bundle again'
    )
  if content.get('sha256') != _content_hash(content):
    raise BundleError(f'{path} has been changed since it was written')
  try:
    preprocesses = PREPROCESS in content['files']
    manifest = manifests.parse(content, preprocesses=preprocesses)
  except (KeyError, TypeError, ValueError) as error:
    raise BundleError(
      f'{path} is not what schema {schema} says: {error!r}'
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


def named_outputs(outputs: Any) -> dict[str, Any]:
  """Returns the arrays of a network's outputs by path; a single one's is ''."""
  flat, _ = jax.tree.flatten_with_path(outputs)
  names = lambda key: getattr(key, 'key', getattr(key, 'idx', key))
  return {
    ''.join(f'/{names(key)}' for key in path): array for path, array in flat
  }


def member(folder: pathlib.Path, path: str) -> pathlib.Path:
  """Returns the path of a file of a bundle.

  Raises:
    BundleError: the path leads out of the folder.
  """
  whole = (folder / path).resolve()
  if not whole.is_relative_to(folder.resolve()):
    raise BundleError(f'{folder} names a file outside of itself: {path}')
  return whole


def file_hash(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_tensors(
  path: pathlib.Path, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
  """Returns the named tensors of a safetensors file, by default all."""
  from safetensors import safe_open
  from safetensors import SafetensorError

  try:
    with safe_open(path, framework='numpy') as file:
      return {
        name: file.get_tensor(name)
        for name in (file.keys() if names is None else names)
      }
  except SafetensorError as error:
    raise BundleError(f'{path} cannot be read: {error}') from error


def tensor_shapes(
  path: pathlib.Path, names: Iterable[str]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of tensors without reading their data."""
  from safetensors import safe_open

  kinds = {'F16': 'float16', 'BF16': 'bfloat16', 'F32': 'float32'}
  kinds |= {'F64': 'float64'}
  shapes = {}
  with safe_open(path, framework='numpy') as file:
    for name in names:
      tensor = file.get_slice(name)
      kind = jnp.dtype(kinds[tensor.get_dtype()])
      shapes[name] = jax.ShapeDtypeStruct(tensor.get_shape(), kind)
  return shapes


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
    named |= {p for p in (entry.prepare, entry.predict, entry.onnx) if p}
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
    if file_hash(path) != expected['sha256']:
      raise BundleError(f'{path} has been changed since it was written')
