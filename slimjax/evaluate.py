"""Evaluates a run, or the authors' PyTorch checkpoint, at each width.

python -m slimjax.evaluate --workdir=runs/digits [--widths=0.25,1.0]
python -m slimjax.evaluate --config=configs/resnet50.py --checkpoint=FILE.pt
"""

from collections.abc import Mapping
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import functools
import json
import os
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import jax
from ml_collections import config_flags
import numpy as np

from slimjax import configuration
from slimjax.training import processes
from slimjax.analysis import published
from slimjax.training.checkpoint import Checkpoints
from slimjax.variables.torch_names import load_torch
from slimjax.data import create_dataset
from slimjax.data.batches import Share
from slimjax.data.dataset import Dataset
from slimjax.data.prefetch import Prefetched
from slimjax.tasks.metrics import summarise
from slimjax.models import create_model
from slimjax.models.net import SlimNet
from slimjax.variables.profile import profile_model
from slimjax.training.log import print_table
from slimjax.training.log import Row
from slimjax.training.steps import data_mesh
from slimjax.training.steps import make_eval_step
from slimjax.training.steps import replicate
from slimjax.training.steps import shard
from slimjax.variables.format import extract
from slimjax.variables.format import Variables
from slimjax.widths import canonical
from slimjax.widths import Width

Results = dict[Width, dict[str, float]]


class Evaluator:
  """Scores every example of a split once, at each of some widths.

  The weights of a width are taken out of the shared ones first: its compiled
  function takes no slices. Compiled once, called as often as wanted.
  """

  def __init__(
    self,
    model: SlimNet,
    mesh: jax.sharding.Mesh,
    dataset: Dataset,
    *,
    widths: Sequence[Width],
    batch_size: int,
    split: str = 'test',
  ):
    """
    Args:
      model: the slimmable one.
      mesh: of the devices to use.
      dataset: whose split.
      widths: to evaluate.
      batch_size: any; rounded up to a multiple of the devices.
      split: of the data set.
    """
    self._model = model
    self._mesh = mesh
    self._dataset = dataset
    self._split = split
    self._batch_size = -(-batch_size // mesh.size) * mesh.size
    self._steps: dict[Width, Any] = {
      width: make_eval_step(
        model.clone(widths=(width,)), mesh, preprocess=dataset.preprocess
      )
      for width in widths
    }
    self._compiled = False

  def __call__(self, variables: Variables) -> Results:
    """{width: {'loss', 'top1_error', 'top5_error', 'examples'}}.

    Every image is read once for all widths; nothing is waited for until all are
    on their way. What can not be decoded is not among the examples.
    """
    weights = {
      width: extract(self._model, variables, width=width)[1]
      for width in self._steps
    }
    totals: dict[Width, Any] = {}
    pending: list[dict[Width, Any]] = []
    with Prefetched(
      self._dataset.eval_batches(
        self._split,
        self._batch_size,
        share=Share(jax.process_index(), jax.process_count()),
      ),
      functools.partial(shard, mesh=self._mesh),
    ) as batches:
      for batch in batches:
        self._compile(weights, batch)
        pending.append(
          {w: step(weights[w], batch) for w, step in self._steps.items()}
        )
        if len(pending) > processes.run_ahead():
          _add(totals, pending.pop(0))
    for metrics in pending:
      _add(totals, metrics)
    return {
      width: {
        **summarise({name: tuple(total) for name, total in sums.items()}),
        'examples': int(sums['top1'][1]),
      }
      for width, sums in totals.items()
    }

  def _compile(self, weights, batch) -> None:
    """All widths side by side, in threads, the first time."""
    if self._compiled:
      return
    lowered = [step.lower(weights[w], batch) for w, step in self._steps.items()]
    with ThreadPoolExecutor() as pool:
      programs = pool.map(lambda program: program.compile(), lowered)
      self._steps = dict(zip(self._steps, programs, strict=True))
    self._compiled = True


def _add(totals: dict[Width, Any], metrics: dict[Width, Any]) -> None:
  for width, sums in metrics.items():
    total = totals.setdefault(width, {})
    for name, sum_count in sums.items():
      # float64, so that counts stay exact
      total[name] = total.get(name, 0) + np.asarray(sum_count, np.float64)


def rows(model: SlimNet, results: Results, image_size: int) -> list[Row]:
  """The table of some results, thinnest first."""
  return [
    Row(
      width=width,
      profile=profile_model(model, width=width, image_size=image_size),
      top1_error=result['top1_error'],
      top5_error=result['top5_error'],
      examples=int(result['examples']),
    )
    for width, result in results.items()
  ]


def load_run(
  workdir: epath.PathLike, *, best: bool = False
) -> tuple[configuration.Run, SlimNet, Variables, int]:
  """Configuration, model, variables and step of a run's checkpoint.

  Args:
    workdir: of `slimjax.train`.
    best: the checkpoint with the least validation error, not the latest.

  Raises:
    FileNotFoundError: there is no run, or it has no whole checkpoint yet.
  """
  workdir = epath.Path(workdir)
  if not (workdir / 'config.json').exists():
    raise FileNotFoundError(
      f'{workdir} holds no run (no config.json); train one with'
      f' python -m slimjax.train --config=... --workdir={workdir}'
    )
  run = configuration.parse(json.loads((workdir / 'config.json').read_text()))
  model = configuration.call(create_model, 'config.model', run.model)
  with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    step = checkpoints.best if best else checkpoints.latest
    if step is None:
      raise FileNotFoundError(f'{workdir} has no whole checkpoint yet')
    variables = checkpoints.restore_variables(step)
  return run, model, variables, step


def load_published(
  config: Mapping[str, Any], checkpoint: epath.PathLike
) -> tuple[configuration.Run, SlimNet, Variables]:
  """Configuration, model, and the variables in one of the authors' checkpoints.

  Args:
    config: says the network and the data; how it is trained is not read.
    checkpoint: see `slimjax.load_torch`.
  """
  run = configuration.parse(config)
  model = configuration.call(create_model, 'config.model', run.model)
  if not epath.Path(checkpoint).exists():
    raise FileNotFoundError(f'there is no checkpoint {checkpoint}')
  return run, model, load_torch(model, os.fspath(checkpoint))


def published_errors(
  run: configuration.Run, widths: Sequence[Width], split: str
) -> str | None:
  """A line to compare with, if these are the published data and images."""
  row = published.find(run)
  if row is None or split != 'test' or not published.same_data(row, run):
    return None
  errors = [
    f'{row.errors[width]} % at {width}'
    for width in widths
    if width in row.errors
  ]
  return f'published: {row.title}, {", ".join(errors)} ({row.source})'


def _load() -> tuple[configuration.Run, SlimNet, Variables, str]:
  """What the flags ask for, and its name."""
  if _WORKDIR.value:
    run, model, variables, step = load_run(
      _WORKDIR.value, best=_CHECKPOINT.value == 'best'
    )
    return run, model, variables, f'{_WORKDIR.value}, step {step}'
  run, model, variables = load_published(_CONFIG.value, _CHECKPOINT.value)
  return run, model, variables, _CHECKPOINT.value


def check_flags(workdir: str | None, config: Any, checkpoint: str) -> None:
  """Raises app.UsageError unless a run or a published network is asked for."""
  if (workdir is None) == (config is None):
    raise app.UsageError(
      'give --workdir of a run, or --config and --checkpoint of a published'
      ' network'
    )
  named = checkpoint in ('latest', 'best')
  if workdir is not None and not named:
    raise app.UsageError(
      f'--checkpoint={checkpoint}: a run has latest and best; to load a file'
      ' give --config, not --workdir'
    )
  if config is not None and named:
    raise app.UsageError('--config needs --checkpoint=FILE (.pt, .npz, ...)')


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  check_flags(_WORKDIR.value, _CONFIG.value, _CHECKPOINT.value)
  with processes.joined():
    run, model, variables, name = _load()
    widths = [
      width for width in (canonical(text) for text in _WIDTHS.value)
    ] or list(model.ordered_widths)
    for width in widths:
      model.switch(width)
    dataset = processes.together(lambda: create_dataset(run.data))
    if _SPLIT.value not in dataset.splits:
      raise app.UsageError(
        f'--split={_SPLIT.value}: the run has {", ".join(dataset.splits)}'
      )
    mesh = data_mesh()
    evaluator = Evaluator(
      model,
      mesh,
      dataset,
      widths=widths,
      batch_size=_BATCH_SIZE.value or run.eval_batch_size,
      split=_SPLIT.value,
    )
    results = evaluator(replicate(variables, mesh))
    table = rows(model, results, dataset.image_size)
    if processes.is_primary():
      print_table(
        table,
        f'{name}: {table[0].examples} examples, each scored once',
      )
      line = published_errors(run, widths, _SPLIT.value)
      if line:
        print(line)


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.')
  _CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Of a published network.', lock_config=True
  )
  _WIDTHS = flags.DEFINE_list('widths', [], 'Default: all the run has.')
  _BATCH_SIZE = flags.DEFINE_integer('batch_size', None, "Default: the run's.")
  _CHECKPOINT = flags.DEFINE_string(
    'checkpoint', 'latest', "Or best; or the file of the authors' network."
  )
  _SPLIT = flags.DEFINE_string('split', 'test', 'Or train, or held_out.')
  processes.define_flags()
  app.run(main)
