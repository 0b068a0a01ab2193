"""Writes a run as a bundle, with its validation errors."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from slimjax.configuration import Run
from slimjax.data.record import DataRecord
from slimjax.data.record import read_record
from slimjax.data.record import record_of
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.writer import export
from slimjax.runtime.writer import PLATFORMS
from slimjax.training.log import read_metrics
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import load_run
from slimjax.widths import canonical


def export_run(
  workdir: epath.PathLike,
  out: epath.PathLike,
  *,
  widths: Sequence[Any] = (),
  batch_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  formats: Sequence[str] = ('jax',),
  best: bool = False,
) -> Manifest:
  """Writes the checkpoint of a run as a bundle, with its validation errors.

  The data set is not needed any more, except by runs of older code.

  Args:
    workdir: folder of the training run.
    out: a folder that does not exist yet.
    widths: numbers, channels or printed names; by default all of the run.
    batch_size, platforms, formats: see `slimjax.runtime.export`.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
  """
  run, model, variables, step = load_run(workdir, best=best)
  record, task = _known_data(workdir, run), build_task(run)
  headline = task.metrics[0]
  sample = record.samples
  if sample is not None and batch_size is not None:
    sample = sample[np.arange(batch_size) % len(sample)]
  validated = [
    record
    for record in read_metrics(epath.Path(workdir))
    if (record['split'], record['step']) == ('validation', step)
  ]
  return export(
    model,
    variables,
    out,
    image_size=record.image_size,
    widths=widths,
    preprocess=record.preprocess,
    preprocessing=record.preprocessing,
    class_names=record.class_names,
    errors={
      canonical(r['width']): headline.error(r[headline.name]) for r in validated
    },
    headline=headline,
    predict=task.predict,
    validation={
      'data': record.name,
      'split': 'test',
      'examples': record.examples['test'],
      'step': step,
    },
    sample=sample,
    batch_size=batch_size,
    platforms=platforms,
    formats=formats,
  )


def _known_data(workdir: epath.PathLike, run: Run) -> DataRecord:
  """Returns what a run knows of its data; where that is not all, reads them."""
  record = read_record(workdir)
  if record is None or record.preprocess is None or record.samples is None:
    dataset = build_dataset(run)
    check_data(workdir, dataset)
    record = record_of(dataset)
  return record
