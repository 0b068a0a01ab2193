"""Scores a run, or a published network, and prints the table."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from absl import app
from etils import epath

from slimjax import configuration
from slimjax import files
from slimjax.analysis import published
from slimjax.data import workers
from slimjax.data.dataset import Dataset
from slimjax.training import processes
from slimjax.training.compiling import alive
from slimjax.training.compiling import quiet
from slimjax.training.evaluator import Evaluator
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.training.results import results_of
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import data_differences
from slimjax.training.runs import load_published
from slimjax.training.runs import load_run
from slimjax.widths import label
from slimjax.widths import Width

_NAMED = ('latest', 'best')


def evaluate(
  *,
  workdir: epath.PathLike | None = None,
  config: Mapping[str, Any] | None = None,
  checkpoint: str = 'latest',
  widths: Sequence[Any] = (),
  batch_size: int | None = None,
  split: str = 'test',
  data_dir: epath.PathLike | None = None,
  save_detections: epath.PathLike | None = None,
) -> list[Result]:
  """Prints and returns the scores of a run or a published network.

  Args:
    workdir: folder of the run; default: none, for a published network.
    config: configuration of a published network; default: none, for a run.
    checkpoint: latest (the default) or best of a run; or the network's file.
    widths: numbers, channels or printed names; default: all.
    batch_size: images in a batch; default: the run's.
    split: name of the split of the data set; default: test.
    data_dir: folder that has the data now, perhaps other examples of the same
      classes; default: as the configuration says.
    save_detections: folder to which what is detected is written, a file for
      each width, named by its switch; default: none.

  Raises:
    ValueError: the data are not those of the run, see
      `slimjax.data.record.differences`; or nothing is detected.
  """
  workers.refuse_import()
  check_choice(workdir, config, checkpoint)
  if workdir is not None:
    run, model, variables, step = load_run(
      workdir,
      best=checkpoint == 'best',
      say=files.tell if processes.is_primary() else quiet,
    )
    name = f'{workdir}, step {step}'
  else:
    run, model, variables = load_published(config or {}, checkpoint)
    name = checkpoint
  chosen = model.find_widths(widths)
  task, mesh = build_task(run), data_mesh()
  write = getattr(task, 'write_predictions', None)
  if save_detections is not None and write is None:
    raise ValueError(f'{type(task).__name__} has no detections to save')
  say = print if processes.is_primary() else quiet
  with alive(say, lambda: 'reading the data'):
    dataset = processes.together(
      lambda: open_data(run, split, workdir, data_dir, say)
    )
  evaluator = Evaluator(
    model,
    task,
    mesh,
    dataset,
    widths=chosen,
    batch_size=batch_size or run.eval_batch_size,
    split=split,
    say=say,
  )
  totals = evaluator.totals(replicate(variables, mesh))
  results = results_of(model, task, evaluator.scores(totals), dataset)
  if processes.is_primary():
    if write is not None and save_detections is not None:
      folder = files.expand(save_detections, 'the folder of the detections')
      files.make_folder(folder)
      for width, total in totals.items():
        path = folder / f'{model.switch(width)}.json'
        write(total, dataset.splits[split], path)
    title = f'{name}: {results[0].examples} examples, each scored once'
    print_results(results, task.metrics, title)
    line = published_errors(run, chosen, split)
    if line:
      print(line)
  return results


def open_data(
  run: configuration.Run,
  split: str,
  workdir: epath.PathLike | None,
  data_dir: epath.PathLike | None,
  say: Callable[[str], None],
) -> Dataset:
  """Returns the data set of a run, from another folder if one is given.

  Args:
    run: configuration of the run.
    split: name of a split that it must have.
    workdir: folder of the run, whose data they must be; None for a published
      network.
    data_dir: another folder of the data, which may have other examples of the
      same classes; None for the run's own.
    say: function that is told how the examples differ.

  Raises:
    ValueError: the data are not those of the run.
  """
  if data_dir is not None:
    data = {**run.data, 'data_dir': os.fspath(data_dir)}
    run = dataclasses.replace(run, data=data)
  dataset = build_dataset(run)
  if split not in dataset.splits:
    raise app.UsageError(
      f'--split={split}: the run has {", ".join(dataset.splits)}'
    )
  if workdir is not None:
    check_data(workdir, dataset, [split] if data_dir is None else [])
  if workdir is not None and data_dir is not None:
    for line in data_differences(workdir, dataset, [split]):
      say(f'scored on other data than the run: {line}')
  return dataset


def check_choice(
  workdir: epath.PathLike | None, config: Any, checkpoint: str
) -> None:
  """Raises app.UsageError unless a run or a published network is asked for."""
  if (workdir is None) == (config is None):
    raise app.UsageError(
      'give --workdir of a run, or --config and --checkpoint of a published'
      ' network'
    )
  if workdir is not None and checkpoint not in _NAMED:
    raise app.UsageError(
      f'--checkpoint={checkpoint}: a run has latest and best; to load a file'
      ' give --config, not --workdir'
    )
  if config is not None and checkpoint in _NAMED:
    raise app.UsageError('--config needs --checkpoint=FILE (.pt, .npz, ...)')


def published_errors(
  run: configuration.Run, widths: Sequence[Width], split: str
) -> str | None:
  """Returns a line to compare with, if these are the published data."""
  row = published.find(run)
  if row is None or split != 'test' or not published.same_data(row, run):
    return None
  errors = [
    f'{row.errors[width]} % at {label(width)}'
    for width in widths
    if width in row.errors
  ]
  return f'published: {row.title}, {", ".join(errors)} ({row.source})'
