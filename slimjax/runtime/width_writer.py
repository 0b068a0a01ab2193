"""Writes the files of one width of a bundle: programs and an ONNX model."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import jax
from jax import export as jax_export
import jax.numpy as jnp

from slimjax.models.net import SlimNet
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.slices import describe_width
from slimjax.runtime.slices import Predict
from slimjax.runtime.slices import width_programs
from slimjax.variables import Variables
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Form:
  """Options of a bundle; see the arguments of `slimjax.runtime.export`.

  Attributes:
    onnx_metadata: entry of a width -> metadata of its ONNX model.
    manifest: manifest of the bundle, still without `widths` and `files`.
  """

  predict: Predict
  preprocess: Callable[[jax.Array], jax.Array] | None
  image_size: tuple[int, int]
  batch_size: int | None
  platforms: Sequence[str]
  formats: Sequence[str]
  onnx_input: str
  onnx_metadata: Callable[[WidthEntry], Mapping[str, str]]
  manifest: Manifest


def write_width(
  folder: pathlib.Path,
  model: SlimNet,
  variables: Variables,
  width: Width,
  *,
  form: Form,
  error: float | None,
) -> WidthEntry:
  """Writes the files of one width, and returns its entry of the manifest.

  Args:
    folder: folder of the bundle.
    model, variables: the whole network.
    width: one of the model's widths.
    form: options of the bundle.
    error: number to minimise, on validation images; None if it is unknown.
  """
  programs = width_programs(model, variables, width, form.predict)
  entry = describe_width(model, width, programs, form.image_size, error)
  switch, by_xla = entry.switch, 'jax' in form.formats
  entry = dataclasses.replace(
    entry,
    prepare=f'programs/{switch}.prepare' if by_xla else None,
    predict=f'programs/{switch}.predict' if by_xla else None,
    onnx=f'onnx/{switch}.onnx' if 'onnx' in form.formats else None,
  )
  if entry.prepare is not None and entry.predict is not None:
    tensors = programs.shapes()
    prepared = jax.eval_shape(programs.prepare, tensors)
    write_program(folder / entry.prepare, programs.prepare, form, tensors)
    for size in form.manifest.image_sizes:
      inputs = [image_shapes('float32', form, size)]
      if form.manifest.detects:
        sizes = (*inputs[0].shape[:1], 2)
        inputs.append(jax.ShapeDtypeStruct(sizes, jnp.int32))
      path = folder / form.manifest.program(entry.predict, size)
      write_program(path, programs.predict, form, prepared, *inputs)
  if entry.onnx is not None:
    _write_onnx(folder / entry.onnx, model, variables, entry, form)
  return entry


def _write_onnx(
  path: pathlib.Path,
  model: SlimNet,
  variables: Variables,
  entry: WidthEntry,
  form: Form,
) -> None:
  from slimjax.runtime.onnx.writing import write_onnx

  path.parent.mkdir(exist_ok=True)
  # ONNX Runtime has no bfloat16 on CPUs.
  exact = model.clone(dtype=jnp.float32)
  programs = width_programs(exact, variables, entry.width, form.predict)
  weights = jax.jit(programs.prepare)(programs.read())

  def predict(weights, images):
    if form.onnx_input == 'uint8':
      assert form.preprocess is not None
      images = form.preprocess(images)
    return programs.predict(weights, images)

  write_onnx(
    predict,
    weights,
    image_shapes(form.onnx_input, form),
    path,
    name=entry.switch,
    metadata=form.onnx_metadata(entry),
  )


def image_shapes(
  dtype: str, form: Form, size: tuple[int, int] | None = None
) -> jax.ShapeDtypeStruct:
  """Returns shape and type of a batch of images; its size may be symbolic.

  Args:
    dtype: type of the images.
    form: options of the bundle.
    size: (height, width); default: that of the bundle, of several the first.
  """
  height, width = size or form.image_size
  shape = f'{form.batch_size or "b"}, {height}, {width}, 3'
  return jax.ShapeDtypeStruct(
    jax_export.symbolic_shape(shape), jnp.dtype(dtype)
  )


def write_program(
  path: pathlib.Path, function: Callable[..., Any], form: Form, *arguments: Any
) -> None:
  """Writes a function as StableHLO, for arguments of these shapes."""
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
  )
  exported = jax_export.export(jax.jit(function), platforms=form.platforms)
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(exported(*shapes).serialize())
