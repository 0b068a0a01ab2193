"""Searches in a run: the program `slimjax.search`."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import os
from typing import Any

from etils import epath
import numpy as np

from slimjax import configuration
from slimjax import files
from slimjax.data import workers
from slimjax.data.batches import Batch
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.runtime.measuring import describe_device
from slimjax.searching import latency
from slimjax.searching.costs import macs_of
from slimjax.searching.costs import params_of
from slimjax.searching.problem import make_problem
from slimjax.searching.progress import Progress
from slimjax.searching.results import Describer
from slimjax.searching.results import names_of
from slimjax.searching.results import NETS
from slimjax.searching.results import plot_nets
from slimjax.searching.results import print_nets
from slimjax.searching.results import uniform_widths
from slimjax.searching.results import write_nets
from slimjax.searching.running import chosen_cost
from slimjax.searching.running import run_search
from slimjax.searching.running import split_batches
from slimjax.searching.scoring import Scorer
from slimjax.tasks.base import image_size
from slimjax.training import processes
from slimjax.training.compiling import alive
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import load_run

SPLITS = ('held_out', 'train')


def search_run(
  workdir: epath.PathLike,
  out: epath.PathLike,
  *,
  target_macs: Sequence[float] = (),
  target_ms: Sequence[float] = (),
  device_table: epath.PathLike | None = None,
  split: str = 'held_out',
  images: int | None = None,
  batch_size: int | None = None,
  data_dir: epath.PathLike | None = None,
  best: bool = False,
  strategy: str = 'greedy',
  score: str = 'loss',
  step_of_unit: int | None = None,
  minimum: int = 8,
  keep: Sequence[str] = (),
) -> list[dict[str, Any]]:
  """Returns the networks that a search in a run found; writes OUT/nets.json.

  It also writes OUT/trace.jsonl, by which a search that was killed resumes,
  OUT/error.png and, for a target in milliseconds, OUT/device_table.json.

  Args:
    workdir: folder of the run, a supernet.
    out: folder to write to.
    target_macs: multiply-accumulates to reach.
    target_ms: milliseconds to reach on the device of the table.
    device_table: file of the table; where it does not exist this device is
      measured, and it is written. Default: OUT/device_table.json.
    split: 'held_out' (default), or 'train', which the run was trained on.
    images: number of images to score with; default: all of the split.
    batch_size: images that are normalised together; default: as many as in an
      evaluation.
    data_dir: folder that has the data now; default: as the run found them.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
    strategy, score, minimum, keep: see `slimjax.search`.
    step_of_unit: `step` of `slimjax.search`; default: a twelfth.

  Raises:
    ValueError: the run has no such split, or see `slimjax.search`.
  """
  workers.refuse_import()
  if split not in SPLITS:
    raise ValueError(
      f'split must be {" or ".join(SPLITS)}, got {split!r}: the test images'
      ' are for what is found'
    )
  run, model, variables, step = load_run(workdir, best=best)
  task, out = build_task(run), files.expand(out, 'out')
  primary = processes.is_primary()
  steps: list[dict[str, Any]] = []
  with contextlib.ExitStack() as stack:
    if primary:
      stack.enter_context(processes.exclusive(out))
    progress = stack.enter_context(Progress(enabled=primary))
    with alive(progress.say, lambda: 'reading the images'):
      dataset = processes.together(lambda: _open(run, workdir, split, data_dir))
      batches = read_batches(
        dataset, split, images, batch_size or run.eval_batch_size
      )
    used = len(batches) * len(batches[0]['image'])
    progress.say(f'{used:,} images of the split {split} to score with')
    size = image_size(task, dataset)
    macs, table = macs_of(model, size), None
    if target_ms or device_table is not None:
      path = files.expand(device_table or out / 'device_table.json')
      table = open_table(path, model, size, progress.say)
    cost = chosen_cost(macs, table, target_macs, target_ms)
    problem = make_problem(
      model,
      cost,
      target_macs or target_ms,
      step=step_of_unit,
      minimum=minimum,
      keep=keep,
    )
    progress.begin(problem)
    scorer = Scorer(
      model,
      variables,
      batches,
      task=task,
      macs=macs,
      score=score,
      preprocess=dataset.preprocess,
      say=progress.say,
    )

    def on_step(record: dict[str, Any]) -> None:
      steps.append(record)
      progress.step(record)

    found = run_search(
      problem,
      scorer,
      strategy=strategy,
      trace=out / 'trace.jsonl',
      writes=primary,
      on_step=on_step,
    )
  headline = task.metrics[0]
  scorer.restart()
  describe = Describer(scorer, macs, params_of(model, size), table, headline)
  nets = describe(names_of(found, cost.unit))
  uniform = describe(uniform_widths(model))
  if table is not None:
    both = [*nets, *uniform]
    measured = latency.time_nets(
      model,
      [net['channels'] for net in both],
      image_size=size,
      batch_size=table.batch_size,
    )
    for net, ms in zip(both, measured, strict=True):
      net['measured_ms'] = ms
  if primary:
    about = {
      'model': run.model['name'],
      'run': f'{os.fspath(workdir)}, step {step}',
      'image_size': [*size],
      'split': split,
      'images': used,
      'measured_on': None if table is None else describe_device('jax'),
    }
    write_nets(out / NETS, about, nets, uniform)
    print_nets(nets, uniform, headline)
    title = f'{run.model["name"]} on {dataset.name}: {split} images'
    plot_nets(
      out / 'error.png',
      steps,
      nets,
      uniform,
      unit=cost.unit,
      headline=headline,
      title=f'{title}, weights of the supernet',
    )
    print(
      f'written: {out / NETS}; --config.model.widths=@{out / NETS} trains what'
      ' was found'
    )
  return nets


def _open(
  run: configuration.Run,
  workdir: epath.PathLike,
  split: str,
  data_dir: epath.PathLike | None,
) -> Dataset:
  """Returns the data set of a run, which has the split."""
  if data_dir is not None:
    data = {**run.data, 'data_dir': os.fspath(data_dir)}
    run = dataclasses.replace(run, data=data)
  dataset = build_dataset(run)
  if split not in dataset.splits:
    raise ValueError(
      f'the run in {workdir} has no split {split}, only'
      f' {", ".join(dataset.splits)}: train it with --config.data.held_out=N,'
      ' or give --split=train, whose images it has learned'
    )
  check_data(workdir, dataset, [split])
  return dataset


def read_batches(
  dataset: Dataset, split: str, images: int | None, batch_size: int
) -> list[Batch]:
  """Returns whole batches of a split, without what cannot be read.

  Args:
    dataset: data set that has the split.
    split: name of the split.
    images: number of images at most; None takes all.
    batch_size: images in a batch; fewer if there are fewer.

  Raises:
    ValueError: there are fewer than two images.
  """
  parts: list[Batch] = []
  count = 0
  for batch in dataset.eval_batches(split, batch_size):
    mask = batch.pop('mask')
    parts.append({name: array[mask] for name, array in batch.items()})
    count += int(np.sum(mask))
    if images is not None and count >= images:
      break
  joined = {
    name: np.concatenate([part[name] for part in parts])[:images]
    for name in parts[0]
  }
  size = min(batch_size, len(joined['image']))
  if size < 2:
    raise ValueError(f'{size} images are too few to score with; 2 are needed')
  return split_batches(joined, size)


def open_table(
  path: epath.Path,
  model: SlimNet,
  size: tuple[int, int],
  say: Callable[[str], None],
) -> latency.LatencyTable:
  """Returns a table of latencies; measures this device if there is none."""
  if path.exists():
    table = latency.LatencyTable.load(path)
  else:
    say(f'there is no {path} yet: measuring this device')
    table = latency.measure(model, image_size=size, say=say)
    table.save(path)
  table.check_model(model, size)
  check = table.check
  say(
    f'latencies of {table.device}, batch {table.batch_size}: wrong by'
    f' {100 * check["mean_error"]:.0f} % on the mean,'
    f' {100 * check["worst_error"]:.0f} % at most, on {check["networks"]}'
    ' networks that the table was not fitted on'
  )
  return table
