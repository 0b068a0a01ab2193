"""Reads a training run for serving: for an export, or as a network."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from etils import epath
import jax

from slimjax import files
from slimjax.configuration import Run
from slimjax.data.record import DataRecord
from slimjax.data.record import read_record
from slimjax.data.record import record_of
from slimjax.models.net import SlimNet
from slimjax.runtime import batching
from slimjax.runtime import bundle
from slimjax.runtime.backends import Xla
from slimjax.runtime.decoding import describe_decode
from slimjax.runtime.decoding import other_sizes
from slimjax.runtime.inputs import measure_range
from slimjax.runtime.loading import check_options
from slimjax.runtime.loading import MAX_BATCH
from slimjax.runtime.loading import MAX_PROGRAMS
from slimjax.runtime.loading import prepare_ahead
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.network import Network
from slimjax.runtime.slices import describe_headline
from slimjax.runtime.slices import describe_model
from slimjax.runtime.slices import describe_width
from slimjax.runtime.slices import width_programs
from slimjax.tasks import Task
from slimjax.tasks.base import image_size
from slimjax.tasks.base import Metric
from slimjax.training.calibrated import read_calibrated
from slimjax.training.log import read_metrics
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import load_run
from slimjax.variables import Variables
from slimjax.widths import canonical
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class ServedRun:
  """A run with everything that is needed to serve it.

  Attributes:
    model, variables: the network and its variables.
    task: task of the run.
    data: record of its data set.
    errors: numbers to minimise, on the test split at this step, by width; empty
      if it was not scored then.
    source: origin of the variables, run and step.
  """

  model: SlimNet
  variables: Variables
  task: Task
  data: DataRecord
  errors: Mapping[Width, float]
  source: Mapping[str, Any]

  @property
  def validation(self) -> dict[str, Any]:
    """Returns the origin of the errors, as in a manifest."""
    return {
      'data': self.data.name,
      'split': 'test',
      'examples': self.data.examples['test'],
      'step': self.source['step'],
    }

  @property
  def outputs(self) -> str:
    """Returns what the task says that it predicts; see `Manifest`."""
    return getattr(self.task, 'outputs', '')

  @property
  def batch_size(self) -> int | None:
    """Returns the batch size that the programs take; None for any."""
    return getattr(self.task, 'exported_batch', None)


def read_run(
  workdir: epath.PathLike, *, best: bool = False, samples: bool = False
) -> ServedRun:
  """Reads a run's checkpoint and its record of the data set.

  The data set is not needed, except by runs of older code.

  Args:
    workdir: folder of the training run.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
    samples: whether sample images are needed; default: no.

  Raises:
    FileNotFoundError: there is no run, or it has no whole checkpoint yet.
  """
  workdir = files.expand(workdir, 'workdir')
  run, model, variables, step = load_run(workdir, best=best)
  task = build_task(run)
  return ServedRun(
    model=model,
    variables=variables,
    task=task,
    data=_known_data(workdir, run, samples),
    errors=_errors(workdir, step, task.metrics[0]),
    source={'run': os.fspath(workdir), 'step': step},
  )


def _errors(
  workdir: epath.Path, step: int, headline: Metric
) -> dict[Width, float]:
  """Returns what each width minimises, as it was scored at a step."""
  scored = [
    *(
      record
      for record in read_metrics(workdir)
      if (record['split'], record['step']) == ('validation', step)
    ),
    *(
      {'width': about['width'], **about['scores']}
      for about in read_calibrated(workdir, step).about.values()
    ),
  ]
  return {
    canonical(record['width']): headline.error(record[headline.name])
    for record in scored
  }


def _known_data(workdir: epath.PathLike, run: Run, samples: bool) -> DataRecord:
  """Returns what a run knows of its data; where that is not all, reads them."""
  record = read_record(workdir)
  lacking = record is None or record.preprocess is None
  if lacking or (samples and record is not None and record.samples is None):
    dataset = build_dataset(run)
    check_data(workdir, dataset)
    record = record_of(dataset)
  assert record is not None
  return record


def run_network(
  run: ServedRun,
  *,
  widths: Sequence[Any] = (),
  backend: str = 'jax',
  prepare: str = 'use',
  batch_sizes: Sequence[int] = (),
  max_batch: int = MAX_BATCH,
  max_programs: int = MAX_PROGRAMS,
  device: jax.Device | None = None,
) -> Network:
  """Returns the network of a run, compiled from its model.

  Args:
    run: a run of `read_run`.
    widths: widths to load; default: all of the run.
    backend: 'jax', the default, or 'auto', which is the same here: an export
      writes ONNX models.
    prepare, batch_sizes, max_batch, max_programs, device: see
      `slimjax.runtime.load`.

  Raises:
    ValueError: the run has no such widths, or an option is wrong.
  """
  check_options(backend, prepare, batch_sizes, max_batch, max_programs)
  if backend == 'onnxruntime':
    raise ValueError(
      f'a run has no ONNX models for the backend {backend!r}; export it with'
      ' --format=onnx'
    )
  model = run.model.clone(remat=False, axis_name=None)
  chosen = model.find_widths(widths)
  device = device or jax.devices()[0]
  programs = {
    width: width_programs(model, run.variables, width, run.task.predict)
    for width in chosen
  }
  manifest = _describe(run, model, programs, device)
  fixed = manifest.batch_size
  sizes = (fixed,) if fixed else batching.bucket_sizes(max_batch, batch_sizes)
  network = Network(
    manifest,
    Xla(programs, run.data.preprocess, device),
    chosen,
    prepare=prepare,
    batch_sizes=sizes,
    max_programs=max(
      max_programs,
      len(chosen) * len(batch_sizes) * len(manifest.image_sizes),
    ),
  )
  prepare_ahead(network, batch_sizes, weights=prepare == 'load')
  return network


def _describe(run, model, programs, device) -> Manifest:
  """Returns the manifest that a bundle of the run would have, but for files."""
  data = run.data
  size = image_size(run.task, data)
  return Manifest(
    model=describe_model(model),
    class_names=data.class_names,
    image_size=size,
    preprocessing=data.preprocessing,
    batch_size=run.batch_size,
    platforms=(bundle.platform_of(device),),
    widths=tuple(
      describe_width(model, width, program, size, run.errors.get(width))
      for width, program in programs.items()
    ),
    default_width=tuple(programs)[-1],
    validation=run.validation,
    versions={},
    files={},
    outputs=run.outputs,
    decode=describe_decode(data.decode),
    preprocesses=True,
    input_range=measure_range(data.preprocess, size),
    source=run.source,
    headline=describe_headline(run.task.metrics[0]),
    other_sizes=other_sizes(data.decode),
    keypoint_names=data.keypoint_names,
    skeleton=data.skeleton,
  )
