"""Reads the programs of a bundle, and compares them with its manifest.

What a manifest says of images, outputs and weights, the programs say too, in
the shapes that they take and give. Where the two differ, one of them is not
what was written.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import jax
from jax import export as jax_export
import numpy as np

from slimjax.runtime import bundle
from slimjax.runtime import forms
from slimjax.runtime.backends import BySize
from slimjax.runtime.backends import Preprocess
from slimjax.runtime.backends import WidthPrograms
from slimjax.runtime.custom_calls import check_apart
from slimjax.runtime.custom_calls import check_code
from slimjax.runtime.errors import BundleError
from slimjax.runtime.errors import refusing
from slimjax.runtime.manifest import LOGITS
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.tensors import named_outputs
from slimjax.runtime.tensors import read_tensors
from slimjax.runtime.tensors import tensor_shapes
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Stored:
  """The programs of a bundle.

  Attributes:
    widths: programs of each width.
    preprocess: uint8 images -> floating images, or None.
  """

  widths: Mapping[Width, WidthPrograms]
  preprocess: Preprocess | None


def read_programs(
  folder: pathlib.Path,
  manifest: Manifest,
  entries: Sequence[WidthEntry],
  *,
  trusted: bool,
) -> Stored:
  """Returns the programs of widths, which may be run.

  Args:
    folder: folder of the bundle.
    manifest: manifest of the bundle.
    entries: entries of the widths; none if only preprocessing is needed.
    trusted: whether the origin of the bundle is known. If it is not, its
      programs are first read in a process of their own.

  Raises:
    BundleError: a program cannot be read, may not be run, or is not what the
      manifest says; the text names the file.
    OSError: a file cannot be read, or the process cannot be started.
  """
  names = {e.prepare for e in entries if e.prepare}
  sized = {e.predict for e in entries if e.predict}
  if manifest.preprocesses:
    sized.add(bundle.PREPROCESS)
  names |= {manifest.program(n, s) for n in sized for s in manifest.image_sizes}
  programs = {name: _read(folder / name, manifest) for name in sorted(names)}
  _check_codes(folder, programs, trusted)
  preprocess = None
  if manifest.preprocesses:
    preprocess = _by_size(bundle.PREPROCESS, programs, manifest)
    for size, program in preprocess.programs.items():
      path = folder / manifest.program(bundle.PREPROCESS, size)
      _check_preprocess(path, program, manifest, size)
  return Stored(
    widths={
      entry.width: _width_programs(folder, manifest, entry, programs)
      for entry in entries
    },
    preprocess=preprocess,
  )


def _by_size(
  path: str,
  programs: Mapping[str, jax_export.Exported],
  manifest: Manifest,
  place: int = 0,
) -> BySize:
  found = {s: programs[manifest.program(path, s)] for s in manifest.image_sizes}
  return BySize(found, place)


def _read(path: pathlib.Path, manifest: Manifest) -> jax_export.Exported:
  """Returns a program without looking at its code."""
  try:
    data = path.read_bytes()
  except OSError as error:
    raise OSError(f'{path} cannot be read: {error.strerror}') from error
  # Whatever flatbuffers and jax raise of bytes that are no program.
  with refusing(path):
    program = jax_export.deserialize(bytearray(data))
  versions = (
    jax_export.minimum_supported_calling_convention_version,
    jax_export.maximum_supported_calling_convention_version,
  )
  problem = ''
  if not versions[0] <= program.calling_convention_version <= versions[1]:
    problem = f'jax {jax.__version__} has no such calling convention'
  elif program.ordered_effects or program.unordered_effects:
    problem = 'it has effects besides its outputs'
  elif program.nr_devices != 1:
    problem = f'it runs on {program.nr_devices} devices together'
  elif not set(manifest.platforms) <= set(program.platforms):
    problem = (
      f'it is made for {", ".join(program.platforms)}, but the manifest says'
      f' {", ".join(manifest.platforms)}'
    )
  if problem:
    raise BundleError(f'{path} cannot be run: {problem}')
  return program


def _check_codes(
  folder: pathlib.Path,
  programs: Mapping[str, jax_export.Exported],
  trusted: bool,
) -> None:
  """Raises BundleError if code is damaged, or holds what is not allowed."""
  codes = {n: bytes(p.mlir_module_serialized) for n, p in programs.items()}
  if not trusted and codes:
    try:
      found = check_apart([*codes.values()])
    except OSError as error:
      raise OSError(
        f'the process that reads the programs of {folder} cannot be started:'
        f' {error}; load(..., sha256=) with the digest that export printed does'
        ' without'
      ) from error
    if found is not None:
      number, reason = found
      raise BundleError(f'{folder / [*codes][number]} cannot be run: {reason}')
  elif trusted:
    for name, code in codes.items():
      try:
        check_code(code)
      except ValueError as error:
        raise BundleError(f'{folder / name} cannot be run: {error}') from error


def _check_preprocess(
  path: pathlib.Path,
  program: jax_export.Exported,
  manifest: Manifest,
  size: tuple[int, int],
) -> None:
  (images,) = _arguments(path, program, 1)
  _check_images(path, 'takes', images, manifest, size, np.uint8)
  outputs = _outputs(path, program)
  _check_images(path, 'gives', outputs, manifest, size, np.float32)


def _width_programs(
  folder: pathlib.Path,
  manifest: Manifest,
  entry: WidthEntry,
  programs: Mapping[str, jax_export.Exported],
) -> WidthPrograms:
  """Returns the programs of a width, which are what the manifest says."""
  assert entry.prepare is not None
  assert entry.predict is not None
  weights = folder / bundle.WEIGHTS
  shapes = tensor_shapes(weights, entry.inputs)
  prepare = programs[entry.prepare]
  prepared = _check_prepare(folder / entry.prepare, prepare, entry, shapes)
  predict = _by_size(entry.predict, programs, manifest, place=1)
  for size, program in predict.programs.items():
    path = folder / manifest.program(entry.predict, size)
    _check_predict(path, program, manifest, size, prepared)
  return WidthPrograms(
    read=lambda: read_tensors(weights, entry.inputs),
    shapes=lambda: shapes,
    prepare=prepare.call,
    predict=predict,
  )


def _arguments(
  path: pathlib.Path, program: jax_export.Exported, count: int
) -> tuple[Any, ...]:
  """Returns the shapes of a program's arguments."""
  with refusing(path):
    arguments, options = jax.tree.unflatten(program.in_tree, program.in_avals)
  if len(arguments) != count or options:
    raise BundleError(
      f'{path} takes {len(arguments)} arguments and {len(options)} options, not'
      f' {count} arguments'
    )
  return arguments


def _outputs(path: pathlib.Path, program: jax_export.Exported) -> Any:
  """Returns the shapes of a program's outputs."""
  with refusing(path):
    return jax.tree.unflatten(program.out_tree, program.out_avals)


def _check_prepare(
  path: pathlib.Path,
  program: jax_export.Exported,
  entry: WidthEntry,
  stored: Mapping[str, jax.ShapeDtypeStruct],
) -> Any:
  """Returns the shapes of prepared weights."""
  (tensors,) = _arguments(path, program, 1)
  _compare(path, 'takes', tensors, dict(stored), bundle.WEIGHTS)
  prepared = _outputs(path, program)
  sizes = [size for x in jax.tree.leaves(prepared) for size in x.shape]
  if not all(isinstance(size, int) for size in sizes):
    raise BundleError(f'{path} gives weights of unknown sizes')
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(prepared))
  if size != entry.prepared_bytes:
    raise BundleError(
      f'{path} gives {size} bytes of weights, but prepared_bytes of width'
      f' {entry.width} in the manifest is {entry.prepared_bytes}'
    )
  return prepared


def _check_predict(
  path: pathlib.Path,
  program: jax_export.Exported,
  manifest: Manifest,
  size: tuple[int, int],
  prepared: Any,
) -> None:
  count = 3 if manifest.detects else 2
  weights, images, *others = _arguments(path, program, count)
  _compare(path, 'takes', weights, prepared, 'its program prepare')
  _check_images(path, 'takes', images, manifest, size, np.float32)
  for hw in others:
    wanted = jax.ShapeDtypeStruct((*images.shape[:1], 2), np.int32)
    if _text(hw) != _text(wanted):
      raise BundleError(
        f'{path} takes {_text(hw)}, but outputs is {manifest.outputs!r} in the'
        f' manifest: it takes {_text(wanted)}, rows and columns of pictures'
      )
  found = named_outputs(_outputs(path, program))
  for name, output in found.items():
    if not output.ndim or not _is_batch(output.shape[0], manifest):
      raise BundleError(
        f'{path}: the output {name or "of the network"} is of the shape'
        f' {_text(output)}, but examples are first, as batch_size'
        f' {manifest.batch_size} in the manifest says'
      )
  if manifest.outputs == LOGITS:
    _check_logits(path, found, manifest)
  if manifest.detects and not forms.is_detections(found):
    raise BundleError(
      f'{path} gives {forms.shown(found)}, but outputs is'
      f' {manifest.outputs!r} in the manifest'
    )


def _check_logits(
  path: pathlib.Path, found: Mapping[str, Any], manifest: Manifest
) -> None:
  if not forms.is_logits(found):
    raise BundleError(
      f"{path} gives {forms.shown(found)}, but outputs is 'logits' in the"
      ' manifest: a single array [b, classes]'
    )
  classes = found[''].shape[1]
  said = {'model.num_classes': manifest.model['num_classes']}
  if manifest.class_names:
    said['the number of class_names'] = len(manifest.class_names)
  for what, count in said.items():
    if count != classes:
      raise BundleError(
        f'{path} gives logits of {classes} classes, but {what} in the manifest'
        f' is {count}'
      )


def _check_images(
  path: pathlib.Path,
  verb: str,
  found: Any,
  manifest: Manifest,
  size: tuple[int, int],
  dtype: Any,
) -> None:
  shape: tuple[Any, ...] = getattr(found, 'shape', ())
  fits = len(shape) == 4 and _is_batch(shape[0], manifest)
  if not fits or (*shape[1:], found.dtype) != (*size, 3, dtype):
    raise BundleError(
      f'{path} {verb} {_text(found)}, but the manifest says images of'
      f' {np.dtype(dtype)}[{manifest.batch_size or "b"},{size[0]},{size[1]},3]'
    )


def _is_batch(size: Any, manifest: Manifest) -> bool:
  """Returns whether a size is that of the batch; a symbol stands for any."""
  if manifest.batch_size is None:
    return not isinstance(size, int)
  return bool(size == manifest.batch_size)


def _compare(
  path: pathlib.Path, verb: str, found: Any, expected: Any, origin: str
) -> None:
  """Raises BundleError unless two trees are alike, in names and shapes."""
  one, other = (
    {name: _text(x) for name, x in named_outputs(tree).items()}
    for tree in (found, expected)
  )
  for name in sorted({*one, *other}):
    if one.get(name) != other.get(name):
      raise BundleError(
        f'{path} {verb} {name.removeprefix("/")}: {one.get(name, "nothing")},'
        f' but {origin} has {other.get(name, "nothing")}'
      )
  structures: list[Any] = [*map(jax.tree.structure, (found, expected))]
  if structures[0] != structures[1]:
    raise BundleError(f'{path} {verb} other trees than {origin} has')


def _text(shape: Any) -> str:
  if not hasattr(shape, 'shape'):
    return type(shape).__name__
  return f'{shape.dtype}[{",".join(map(str, shape.shape))}]'
