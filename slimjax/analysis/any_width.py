"""Calibrates widths of a run that it was not trained at, and scores them."""

from collections.abc import Iterable
from collections.abc import Sequence
import os
from typing import Any

from etils import epath
import jax

from slimjax import configuration
from slimjax import files
from slimjax.analysis.scoring import open_data
from slimjax.data import workers
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.training import processes
from slimjax.training.calibrated import BATCHES
from slimjax.training.calibrated import calibrate_on
from slimjax.training.calibrated import FOLDER
from slimjax.training.calibrated import read_calibrated
from slimjax.training.calibrated import write_calibrated
from slimjax.training.compiling import alive
from slimjax.training.evaluator import Evaluator
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.training.results import results_of
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.variables import Variables
from slimjax.widths import find
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width

# Widths that are calibrated, scored and written at a time; a command that is
# stopped loses no more.
_TOGETHER = 8


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
  prediction of the run then know these widths. Those that are there already,
  from the same batches, are not calibrated again: a command that was stopped
  resumes, and ends with the same bits.

  Args:
    workdir: folder of the run.
    widths: numbers, channels or printed names.
    batches: number of training batches; default: 5.
    batch_size: images in a batch; default: the run's.
    augmented: whether they are augmented as in training; default: yes.
    data_dir: folder that has the data now; default: as the run says.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.

  Returns:
    The scores of all these widths, thinnest first.

  Raises:
    ValueError: a width does not fit, or was trained.
  """
  workers.refuse_import()
  if jax.process_count() > 1:
    raise ValueError('one process calibrates; start it without --coordinator')
  workdir = files.expand(workdir, 'workdir')
  run, model, variables, step = load_run(workdir, best=best, calibrated=False)
  with processes.exclusive(workdir / FOLDER):
    before = read_calibrated(workdir, step)
    chosen = _new_widths(model, before.widths.values(), widths)
    with alive(print, lambda: 'reading the data'):
      dataset = open_data(run, 'test', workdir, data_dir, print)
    settings: dict[str, Any] = {
      'batches': batches,
      'batch_size': batch_size or run.batch_size,
      'augmented': augmented,
      'data_dir': None if data_dir is None else os.fspath(data_dir),
    }
    missing = [w for w in chosen if not before.has(w, settings)]
    if len(missing) < len(chosen):
      print(f'{len(chosen) - len(missing)} widths are calibrated already')
    if missing:
      kind = 'augmented as in training' if augmented else 'not augmented'
      print(
        f'calibrating {len(missing)} widths on {batches} batches of'
        f' {settings["batch_size"]} training images, {kind}',
        flush=True,
      )
    for first in range(0, len(missing), _TOGETHER):
      some = missing[first : first + _TOGETHER]
      with alive(print, lambda: 'calibrating'):
        found = calibrate_on(
          model,
          variables,
          dataset,
          some,
          batches=batches,
          batch_size=settings['batch_size'],
          seed=run.seed,
          augmented=augmented,
        )
      scores = _scores(run, model, found, dataset, some)
      about = {
        switch_name(width): {
          'width': width,
          **settings,
          'scores': scores[width],
        }
        for width in some
      }
      write_calibrated(workdir, step, jax.device_get(found), about)
  known = read_calibrated(workdir, step).about
  scores = {width: known[switch_name(width)]['scores'] for width in chosen}
  task = build_task(run)
  results = results_of(model, task, scores, dataset)
  title = f'{workdir}, step {step}: calibrated widths'
  print_results(results, task.metrics, title)
  return results


def _scores(
  run: configuration.Run,
  model: SlimNet,
  variables: Variables,
  dataset: Dataset,
  widths: Sequence[Width],
) -> dict[Width, dict[str, float]]:
  """Returns the scores of calibrated widths on the test split."""
  mesh = data_mesh()
  evaluator = Evaluator(
    model.clone(widths=(*model.widths, *widths)),
    build_task(run),
    mesh,
    dataset,
    widths=widths,
    batch_size=run.eval_batch_size,
    say=print,
  )
  return evaluator(replicate(variables, mesh))


def _new_widths(
  model: SlimNet, known: Iterable[Width], names: Sequence[Any]
) -> list[Width]:
  """Returns the widths that names stand for, thinnest first.

  Args:
    model: network of the run, with the widths that were trained.
    known: widths that were calibrated before.
    names: numbers, channels or printed names.

  Raises:
    ValueError: there is none, or one does not fit or was trained.
  """
  trained = model.widths
  chosen = {find(name, (*trained, *known)) for name in names}
  if not chosen:
    raise ValueError('no width is given; give some, such as --widths=0.3,0.6')
  for width in chosen:
    model.channels(width)
    if width in trained:
      raise ValueError(
        f'the run was trained at {label(width)}, which has statistics of its'
        f' own; give widths beside {", ".join(map(label, trained))}'
      )
  return sorted(chosen, key=lambda width: (model.channels(width), label(width)))


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
