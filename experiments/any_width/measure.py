"""Does one network answer at every width, also at those it never saw?

    python experiments/any_width/measure.py

See README.md; the options are those of experiments/evidence. Each run is
scored at 16 widths that are evenly spaced over its range.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence
import numpy as np

from slimjax import files
from slimjax import plots
from slimjax.models.net import SlimNet
from slimjax.training.calibrated import calibrate_on
from slimjax.training.evaluator import Evaluator
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.plans import sandwich
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.variables import select
from slimjax.variables.calibrating import STATISTICS
from slimjax.variables.slicing import take_width
from slimjax.widths import switch_name

POINTS = 16
# Programs for random widths: fewer than usual, as they compile for longer than
# they run here.
BOUNDS = 2


@dataclasses.dataclass(frozen=True)
class RandomOnly:
  """Random widths alone, neither end of the range in every step (an ablation).

  Attributes:
    model: the network.
    widths: the widest alone has a program of its own, which is not run.
    seed: seed of the run.
    random: number of widths in a step; default: 4.
    bounds: widths inside which they run.
  """

  model: SlimNet
  widths: tuple[float, ...]
  seed: int
  random: int = 4
  bounds: tuple[float, ...] = ()

  def __post_init__(self):
    set_ = functools.partial(object.__setattr__, self)
    set_('bounds', sandwich(self.model, self.widths, 0, bounds=BOUNDS).bounds)
    set_('widths', self.widths[:1])

  def __call__(self, step):
    thinnest, widest = self.model.widths
    generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
    drawn = generator.uniform(thinnest, widest, self.random)
    return tuple(sorted(drawn.tolist(), reverse=True))


def universal(experiment, seed, *, distillation=True, plan='sandwich'):
  """Returns the configuration of a US-Net over the range of the widths."""
  config = experiment.get(seed)
  widths = config.model.widths
  config.model.update(widths=(widths[0], widths[-1]), shared=('norm',))
  config.loss.inplace_distillation = distillation
  with config.unlocked():
    config.plan = {'name': plan}
    if plan == 'sandwich':
      config.plan.bounds = BOUNDS
  return config


def random_only(experiment, seed):
  """Returns the configuration of `RandomOnly`, which learns from the labels."""
  plan = f'{pathlib.Path(__file__).stem}:RandomOnly'
  return universal(experiment, seed, distillation=False, plan=plan)


# How a network is trained: the begin of its runs' folders, and what gives its
# configuration.
FIXED, SANDWICH = 'fixed switches', 'any width'
LABELS, RANDOM = 'any width, from labels', 'any width, random only'
VARIANTS = {
  FIXED: ('slimmable', evidence.Experiment.get),
  SANDWICH: ('any_width_sandwich', universal),
  LABELS: (
    'any_width_labels', functools.partial(universal, distillation=False),
  ),
  RANDOM: ('any_width_random', random_only),
}  # fmt: skip
AFTER, BEFORE = 'calibrated', 'not calibrated'


def score(path: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns the errors of a run at 16 widths, calibrated and not, by width.

  They are kept in the folder of the run. Fixed switches keep the statistics of
  their training, all other widths are calibrated. Without that, a width has the
  statistics of the next wider one that was trained, sliced.
  """
  done = path / 'any_width.json'
  if done.exists():
    return json.loads(done.read_text())
  run, model, variables, _ = load_run(path)
  dataset, task, mesh = build_dataset(run), build_task(run), data_mesh()
  ends = model.ordered_widths[0], model.ordered_widths[-1]
  widths = [float(width) for width in np.round(np.linspace(*ends, POINTS), 4)]
  new = [width for width in widths if width not in model.widths]
  calibrated = calibrate_on(
    model,
    variables,
    dataset,
    widths if model.shared else new,
    batches=10,
    batch_size=min(500, len(dataset.splits['train'])),
  )
  sliced = {}
  for width in new:
    wider = min(w for w in model.widths if w > width)
    selected = select(variables, model.switch(wider))
    trees = take_width(model, selected, width=width)
    sliced[switch_name(width)] = trees[STATISTICS]
  before = {**calibrated, STATISTICS: {**variables[STATISTICS], **sliced}}
  evaluator = Evaluator(
    model.clone(widths=(*model.widths, *new)),
    task,
    mesh,
    dataset,
    widths=widths,
    batch_size=run.eval_batch_size,
  )
  found = {
    name: {
      str(width): scores['top1_error']
      for width, scores in evaluator(replicate(trees, mesh)).items()
    }
    for name, trees in ((AFTER, calibrated), (BEFORE, before))
  }
  files.write_json(done, found)
  return found


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  sys.path.insert(0, str(experiment.folder))  # RandomOnly is a plan of ours
  errors: dict[str, evidence.Errors] = {}
  before: dict[str, evidence.Errors] = {}
  base = experiment.get(0).model
  for variant, (folder, configured) in VARIANTS.items():
    for seed in range(experiment.seeds):
      config = configured(experiment, seed)
      path = experiment.train(f'{base.name}_{folder}', config)
      found = score(path)
      for kept, kind in ((errors, AFTER), (before, BEFORE)):
        of_variant = kept.setdefault(variant, {})
        for width, error in found[kind].items():
          of_variant.setdefault(width, []).append(error)
  errors['alone'] = experiment.individual(
    base.name, base.widths, experiment.alone
  )
  experiment.out.mkdir(parents=True, exist_ok=True)
  title = f'{base.name} on {experiment.config.stem}, at widths trained and not'
  plot(experiment.out / 'errors.png', title, errors)
  columns = {**errors, f'{SANDWICH}, {BEFORE}': before[SANDWICH]}
  print(table(columns))
  pairs = (
    (SANDWICH, FIXED),
    (SANDWICH, 'alone'),
    (FIXED, 'alone'),
    (LABELS, SANDWICH),
    (RANDOM, LABELS),
  )
  compared = {
    f'{one} - {other}': evidence.compare(errors[other], errors[one])
    for one, other in pairs
  }
  for title, rows in compared.items():
    print(f'{title}: {change(rows["mean"])} over {len(rows) - 1} widths')
  experiment.write({'errors': errors, BEFORE: before, 'comparisons': compared})


def change(row) -> str:
  """Returns a mean difference in percent in words, with its error and p."""
  text = f'{row["difference"]:+.2f}'
  if row['p'] is not None:
    text += f' ± {row["standard_error"]:.2f}, p = {row["p"]:.3f}'
  return text


def table(errors: dict[str, evidence.Errors]) -> str:
  """Returns mean and deviation over the seeds in Markdown, a row per width."""
  titles = list(errors)
  widths = list(next(iter(errors.values())))
  lines = [
    '| width | ' + ' | '.join(titles) + ' |',
    '|---' * (len(titles) + 1) + '|',
  ]
  for width in widths:
    cells = [
      evidence.spread(errors[title][width]) if width in errors[title] else ''
      for title in titles
    ]
    lines.append(f'| {width} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def plot(
  path: pathlib.Path, title: str, errors: dict[str, evidence.Errors]
) -> None:
  """Saves the mean errors over the widths, a line per variant."""
  figure = plots.figure((7, 4.5))
  axes = figure.add_subplot()
  for name, of_one in errors.items():
    widths = [float(width) for width in of_one]
    means = [statistics.mean(values) for values in of_one.values()]
    alone = name == 'alone'
    axes.plot(
      widths, means, '*' if alone else '.-', zorder=2 + alone, label=name
    )
  axes.set(xlabel='width', ylabel='test error, %', title=title)
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.legend()
  plots.save(figure, path)


if __name__ == '__main__':
  main()
