"""Evaluates a run at each width.

python -m slimjax.evaluate --workdir=runs/digits [--widths=0.25,1.0]
"""

from collections.abc import Callable
from collections.abc import Sequence
import json

from absl import app
from absl import flags
from absl import logging
from etils import epath
import jax
import numpy as np

from slimjax import configuration
from slimjax.checkpoint import Checkpoints
from slimjax.data import DATASETS
from slimjax.data.arrays import Arrays
from slimjax.data.arrays import padded_batches
from slimjax.metrics import summarise
from slimjax.models import create_model
from slimjax.models.common import SlimNet
from slimjax.profile import profile_model
from slimjax.reporting import print_table
from slimjax.reporting import Row
from slimjax.steps import data_mesh
from slimjax.steps import make_eval_step
from slimjax.steps import replicate
from slimjax.steps import shard
from slimjax.variables import extract
from slimjax.variables import Variables
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
    arrays: Arrays,
    *,
    widths: Sequence[Width],
    batch_size: int,
    preprocess: Callable[[jax.Array], jax.Array],
  ):
    """
    Args:
      model: the slimmable one.
      mesh: of the devices to use.
      arrays: the split.
      widths: to evaluate.
      batch_size: any; rounded up to a multiple of the devices.
      preprocess: images of the split -> floating images.
    """
    self._model = model
    self._mesh = mesh
    self._arrays = arrays
    self._batch_size = -(-batch_size // mesh.size) * mesh.size
    self._steps = {
      width: make_eval_step(
        model.clone(widths=(width,)), mesh, preprocess=preprocess
      )
      for width in widths
    }

  def __call__(self, variables: Variables) -> Results:
    """{width: {'loss', 'top1_error', 'top5_error', 'examples'}}."""
    results = {}
    for width, step in self._steps.items():
      _, weights = extract(self._model, variables, width=width)
      totals: dict[str, np.ndarray] = {}
      batches = padded_batches(
        self._arrays,
        self._batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
      )
      for batch in batches:
        metrics = step(weights, shard(batch, self._mesh))
        for name, sum_count in metrics.items():
          # float64, so that counts stay exact
          totals[name] = totals.get(name, 0) + np.asarray(sum_count, np.float64)
      results[width] = {
        **summarise({name: tuple(total) for name, total in totals.items()}),
        'examples': int(totals['top1'][1]),
      }
    return results


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


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  run, model, variables, step = load_run(
    _WORKDIR.value, best=_CHECKPOINT.value == 'best'
  )
  widths = [
    width for width in (canonical(text) for text in _WIDTHS.value)
  ] or list(model.ordered_widths)
  for width in widths:
    model.switch(width)
  dataset = DATASETS[run.data['name']]
  mesh = data_mesh()
  evaluator = Evaluator(
    model,
    mesh,
    dataset.load('test'),
    widths=widths,
    batch_size=_BATCH_SIZE.value or run.eval_batch_size,
    preprocess=dataset.preprocess,
  )
  results = evaluator(replicate(variables, mesh))
  table = rows(model, results, dataset.IMAGE_SIZE)
  print_table(
    table,
    f'{_WORKDIR.value}, step {step}: {table[0].examples} examples, each scored'
    ' once',
  )


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.', required=True)
  _WIDTHS = flags.DEFINE_list('widths', [], 'Default: all the run has.')
  _BATCH_SIZE = flags.DEFINE_integer('batch_size', None, "Default: the run's.")
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Which one.'
  )
  app.run(main)
