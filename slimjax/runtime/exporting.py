"""Writes a run as a bundle, with its validation errors, and prints it."""

from collections.abc import Sequence
import os
from typing import Any

from etils import epath
import numpy as np

from slimjax import files
from slimjax import units
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import PLATFORMS
from slimjax.runtime.runs import read_run
from slimjax.runtime.writer import export
from slimjax.tasks.base import image_size
from slimjax.widths import label
from slimjax.widths import Width


def export_run(
  workdir: epath.PathLike,
  out: epath.PathLike,
  *,
  widths: Sequence[Any] = (),
  default_width: Width | str | None = None,
  batch_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  formats: Sequence[str] = ('jax',),
  onnx_input: str = 'float32',
  best: bool = False,
) -> Manifest:
  """Writes the checkpoint of a run as a bundle, with its validation errors.

  The data set is not needed any more, except by runs of older code.

  Args:
    workdir: folder of the training run.
    out: folder of the bundle, which does not exist yet.
    widths: numbers, channels or printed names; default: all of the run.
    default_width: width that is used where none is given, named likewise;
      default: the widest.
    batch_size, platforms, formats, onnx_input: see `slimjax.runtime.export`.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
  """
  run = read_run(workdir, best=best, samples=True)
  if batch_size is None:
    batch_size = run.batch_size
  sample = run.data.samples
  if sample is not None and batch_size is not None:
    sample = sample[np.arange(batch_size) % len(sample)]
  with files.writing(out, 'The run is unchanged, and no part of it was left'):
    return export(
      run.model,
      run.variables,
      out,
      image_size=image_size(run.task, run.data),
      widths=widths,
      default_width=default_width,
      preprocess=run.data.preprocess,
      preprocessing=run.data.preprocessing,
      decode=run.data.decode,
      class_names=run.data.class_names,
      errors=run.errors,
      headline=run.task.metrics[0],
      predict=run.task.predict,
      outputs=run.outputs,
      keypoint_names=run.data.keypoint_names,
      skeleton=run.data.skeleton,
      validation=run.validation,
      source=run.source,
      sample=sample,
      batch_size=batch_size,
      platforms=platforms,
      formats=formats,
      onnx_input=onnx_input,
    )


def print_manifest(manifest: Manifest, out: epath.PathLike) -> None:
  """Prints what a bundle holds: a line per width, its size, its digest."""
  for entry in manifest.widths:
    error = ''
    if entry.error is not None:
      error = f', {manifest.headline.text(entry.error)}'
    print(
      f'{label(entry.width)}: {units.count(entry.macs)} MACs,'
      f' {units.size(entry.prepared_bytes)} of weights{error}'
    )
  size = sum(file['bytes'] for file in manifest.files.values())
  print(
    f'{os.fspath(out)}: {units.size(size)}; the outputs of every width are'
    ' those of the run'
  )
  print(f'sha256 {manifest.sha256}')
