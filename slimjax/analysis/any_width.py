"""Calibrates widths of a run that it was not trained at, and scores them."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import jax

from slimjax import files
from slimjax.analysis.scoring import open_data
from slimjax.data import workers
from slimjax.models.net import SlimNet
from slimjax.training.calibrated import BATCHES
from slimjax.training.calibrated import calibrate_on
from slimjax.training.calibrated import write_calibrated
from slimjax.training.compiling import alive
from slimjax.training.evaluator import Evaluator
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.training.results import results_of
from slimjax.training.runs import build_model
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.widths import find
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width


def calibrate_run(
  workdir: epath.PathLike,
  widths: Sequence[Any],
  *,
  batches: int = BATCHES,
  batch_size: int | None = None,
  augmented: bool = True,
  data_dir: epath.PathLike | None = None,
  best: bool = False,
) -> list[Result]:
  """Calibrates widths, scores them on the test split, and keeps both.

  They stand beside the checkpoint, which stays as it is; evaluation, export and
  prediction of the run then know these widths.

  Args:
    workdir: folder of the run.
    widths: numbers, channels or printed names.
    batches: number of training batches; default: 5.
    batch_size: images in a batch; default: the run's.
    augmented: whether they are augmented as in training; default: yes.
    data_dir: folder that has the data now; default: as the run says.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.

  Raises:
    ValueError: a width does not fit, or was trained.
  """
  workers.refuse_import()
  if jax.process_count() > 1:
    raise ValueError('one process calibrates; start it without --coordinator')
  workdir = files.expand(workdir, 'workdir')
  run, model, variables, step = load_run(workdir, best=best)
  trained = build_model(run).widths
  chosen = _new_widths(model, trained, widths)
  with alive(print, lambda: 'reading the data'):
    dataset = open_data(run, 'test', workdir, data_dir, print)
  size = batch_size or run.batch_size
  kind = 'augmented as in training' if augmented else 'not augmented'
  print(
    f'calibrating {len(chosen)} widths on {batches} batches of {size} training'
    f' images, {kind}',
    flush=True,
  )
  with alive(print, lambda: 'calibrating'):
    variables = calibrate_on(
      model,
      variables,
      dataset,
      chosen,
      batches=batches,
      batch_size=size,
      seed=run.seed,
      augmented=augmented,
    )
  others = [w for w in model.widths if w not in chosen]
  model = model.clone(widths=(*others, *chosen))
  task, mesh = build_task(run), data_mesh()
  evaluator = Evaluator(
    model,
    task,
    mesh,
    dataset,
    widths=[width for width in model.ordered_widths if width in chosen],
    batch_size=run.eval_batch_size,
    say=print,
  )
  scores = evaluator(replicate(variables, mesh))
  about = {
    switch_name(width): {
      'width': width,
      'batches': batches,
      'batch_size': size,
      'augmented': augmented,
      'scores': scores[width],
    }
    for width in chosen
  }
  write_calibrated(workdir, step, jax.device_get(variables), about)
  results = results_of(model, task, scores, dataset)
  title = f'{workdir}, step {step}: calibrated widths'
  print_results(results, task.metrics, title)
  return results


def _new_widths(
  model: SlimNet, trained: Sequence[Width], names: Sequence[Any]
) -> tuple[Width, ...]:
  """Returns the widths that names stand for, none of which was trained."""
  chosen = tuple(dict.fromkeys(find(name, model.widths) for name in names))
  if not chosen:
    raise ValueError('no width is given; give some, such as --widths=0.3,0.6')
  for width in chosen:
    model.channels(width)
    if width in trained:
      raise ValueError(
        f'the run was trained at {label(width)}, which has statistics of its'
        f' own; give widths beside {", ".join(map(label, trained))}'
      )
  return chosen


def calibrate_missing(
  workdir: epath.PathLike, names: Sequence[Any], *, best: bool = False
) -> None:
  """Calibrates those of some widths that a run does not know yet.

  Args:
    workdir: folder of the run.
    names: numbers, channels or printed names.
    best: see `calibrate_run`.
  """
  _, model, _, _ = load_run(workdir, best=best)
  wanted = [find(name, model.widths) for name in names]
  missing = [width for width in wanted if width not in model.widths]
  if missing:
    calibrate_run(workdir, missing, best=best)
