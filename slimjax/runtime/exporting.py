"""Writes a run as a bundle, with its validation errors."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from slimjax.runtime.bundle import Manifest
from slimjax.runtime.writer import export
from slimjax.runtime.writer import PLATFORMS
from slimjax.training.log import read_metrics
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.widths import canonical

# Images of the test split that come with the bundle, to check it by.
_SAMPLE = 8


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

  Args:
    workdir: folder of the training run.
    out: a folder that does not exist yet.
    widths: numbers, channels or printed names; by default all of the run.
    batch_size, platforms, formats: see `slimjax.runtime.export`.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
  """
  run, model, variables, step = load_run(workdir, best=best)
  dataset, task = build_dataset(run), build_task(run)
  headline = task.metrics[0]
  test = dataset.splits['test']
  sample = test.read_eval(np.arange(min(batch_size or _SAMPLE, len(test))))
  validated = [
    record
    for record in read_metrics(epath.Path(workdir))
    if (record['split'], record['step']) == ('validation', step)
  ]
  return export(
    model,
    variables,
    out,
    image_size=dataset.image_size,
    widths=widths,
    preprocess=dataset.preprocess,
    preprocessing=dataset.preprocessing,
    class_names=dataset.class_names,
    errors={
      canonical(r['width']): headline.error(r[headline.name]) for r in validated
    },
    headline=headline,
    predict=task.predict,
    validation={
      'data': dataset.name,
      'split': 'test',
      'examples': len(test),
      'step': step,
    },
    sample=sample['image'],
    batch_size=batch_size,
    platforms=platforms,
    formats=formats,
  )
