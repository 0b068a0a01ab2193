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

FORMAT = 'slimjax bundle'
SCHEMA = 2
_READABLE = (1, 2)
MANIFEST = 'manifest.json'
WEIGHTS = 'weights.safetensors'
SAMPLE = 'sample.safetensors'
PREPROCESS = 'programs/preprocess'


class BundleError(ValueError):
  """A folder is not a bundle, or has been changed since it was written."""


@dataclasses.dataclass(frozen=True)
class WidthEntry:
  """The entry of one width in a manifest.

  Attributes:
    width: a float, or the channels of every layer.
    switch: name of the width's switch.
    channels: the active output channels of every layer that sets a width.
    macs: multiply-accumulates for one image.
    params: parameters the width uses.
    prepared_bytes: size of its prepared weights.
    error: what is minimised, on validation images: the headline metric of the
      manifest, or its negative; None if it was not measured.
    prepare, predict: files of its programs; None without the format 'jax'.
    inputs: names of the tensors that `prepare` takes.
    onnx: file of its ONNX model; None without the format 'onnx'.
  """

  width: float | tuple[int, ...]
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


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The manifest of a bundle, as `slimjax.runtime.load` reads it.

  Attributes:
    model: class of the network and its options, for the reader; nothing is
      built from it.
    class_names: one name per class, or empty.
    image_size: (height, width) that the programs take.
    preprocessing: what has to be done to uint8 images, in words; the program
      `preprocess` does it.
    batch_size: batch size that the programs take; None for any.
    platforms: platforms that the programs are made for.
    widths: one entry per width, thinnest first.
    validation: where the errors come from: data set, split, examples, step.
    versions: versions of the packages that wrote the bundle.
    files: {path: {'bytes', 'sha256'}}
    headline: title, unit and direction of the metric of the errors; if more is
      better, the errors are its negatives.
  """

  model: Mapping[str, Any]
  class_names: tuple[str, ...]
  image_size: tuple[int, int]
  preprocessing: str
  batch_size: int | None
  platforms: tuple[str, ...]
  widths: tuple[WidthEntry, ...]
  validation: Mapping[str, Any]
  versions: Mapping[str, str]
  files: Mapping[str, Mapping[str, Any]]
  headline: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {
      'title': 'error',
      'unit': '%',
      'direction': 'min',
    }
  )

  def entry(self, width: float | tuple[int, ...]) -> WidthEntry:
    """Returns the entry of `width`.

    Raises:
      ValueError: it has no such width.
    """
    for entry in self.widths:
      if entry.width == width:
        return entry
    raise ValueError(
      f'the bundle has no width {width}, only'
      f' {", ".join(str(entry.width) for entry in self.widths)}'
    )


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
  """Writes the manifest, the last file, which makes the folder a bundle."""
  content = {
    'format': FORMAT,
    'schema': SCHEMA,
    **dataclasses.asdict(manifest),
  }
  content['sha256'] = _content_hash(content)
  (folder / MANIFEST).write_text(json.dumps(content, indent=1) + '\n')


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
  if schema not in _READABLE:
    raise BundleError(
      f'{folder} has the schema {schema!r}, this version of slimjax reads'
      f' {" and ".join(map(str, _READABLE))}; update slimjax, or export the'
      ' bundle again'
    )
  if content.get('sha256') != _content_hash(content):
    raise BundleError(f'{path} has been changed since it was written')
  try:
    manifest = _parse(content)
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
  return pathlib.Path(path)


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


def _parse(content: Mapping[str, Any]) -> Manifest:
  fields = {
    field.name: content[field.name]
    for field in dataclasses.fields(Manifest)
    if field.name != 'headline' or field.name in content  # not in schema 1
  }
  fields['widths'] = tuple(
    WidthEntry(
      **{
        **entry,
        'width': _width(entry['width']),
        'channels': tuple(entry['channels']),
        'inputs': tuple(entry['inputs']),
      }
    )
    for entry in fields['widths']
  )
  for name in ('class_names', 'image_size', 'platforms'):
    fields[name] = tuple(fields[name])
  return Manifest(**fields)


def _width(width: Any) -> float | tuple[int, ...]:
  return tuple(width) if isinstance(width, list) else float(width)


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
