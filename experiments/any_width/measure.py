"""Does one network answer at every width, also at those it never saw?

    python experiments/any_width/measure.py

See README.md; the options are those of experiments/evidence.py. Each run is
scored at 16 widths that are evenly spaced over its range.
"""

import dataclasses
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
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import load_run
from slimjax.variables import select
from slimjax.variables.calibrating import STATISTICS
from slimjax.variables.slicing import take_width
from slimjax.widths import switch_name

POINTS = 16


@dataclasses.dataclass(frozen=True)
class RandomOnly:
  """The widest, which teaches, and random widths: no thinnest (an ablation)."""

  model: SlimNet
  widths: tuple[float, ...]
  seed: int
  random: int = 3
  bounds: tuple[float, ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'bounds', self.widths[:1])

  def __call__(self, step):
    widest, thinnest = self.widths
    generator = np.random.Generator(np.random.Philox(key=[self.seed, step]))
    drawn = generator.uniform(thinnest, widest, self.random)
    return (widest, *sorted(drawn.tolist(), reverse=True))


def universal(config, **loss):
  """Returns a configuration as a US-Net over its range of widths."""
  low, high = config.model.widths[0], config.model.widths[-1]
  config.model.widths = (low, high)
  config.model.shared = ('norm',)
  with config.unlocked():
    config.plan = {'name': 'sandwich'}
  config.loss.inplace_distillation = True
  config.loss.update(loss)
  return config


def random_only(config):
  config = universal(config)
  with config.unlocked():
    config.plan = {'name': f'{pathlib.Path(__file__).stem}:RandomOnly'}
  return config


def score(path: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns the errors of a run at 16 widths, calibrated and not, by width.

  They are kept in the folder of the run.
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
    new,
    batches=10,
    batch_size=len(dataset.splits['train']),
  )
  # Otherwise there would be the statistics of the next wider one, sliced.
  sliced = {}
  for width in new:
    wider = min(w for w in model.widths if w > width)
    selected = select(variables, model.switch(wider))
    trees = take_width(model, selected, width=width)
    sliced[switch_name(width)] = trees[STATISTICS]
  plain = {**calibrated, STATISTICS: {**calibrated[STATISTICS], **sliced}}
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
    for name, trees in (('calibrated', calibrated), ('not calibrated', plain))
  }
  files.write_json(done, found)
  return found


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  sys.path.insert(0, str(experiment.folder))  # RandomOnly is a plan of ours
  name = experiment.get(0).model.name
  variants = {
    'fixed switches': (f'{name}_slimmable', lambda config: config),
    'any width': (f'{name}_universal', universal),
    'any width, labels': (
      f'{name}_universal_labels',
      lambda config: universal(config, inplace_distillation=False),
    ),
    'any width, no thinnest': (f'{name}_universal_random', random_only),
  }
  errors: dict[str, evidence.Errors] = {}
  for variant, (folder, change) in variants.items():
    for seed in range(experiment.seeds):
      config = change(experiment.get(seed))
      found = score(experiment.train(folder, config))
      for kind, by_width in found.items():
        of_kind = errors.setdefault(f'{variant}, {kind}', {})
        for width, error in by_width.items():
          of_kind.setdefault(width, []).append(error)
  shown = {
    title: of_kind
    for title, of_kind in errors.items()
    if title.endswith(', calibrated')
  }
  plot(experiment.out / 'errors.png', shown, name)
  print(table(errors))
  pairs = (
    ('any width, calibrated', 'fixed switches, calibrated'),
    ('any width, labels, calibrated', 'any width, calibrated'),
    ('any width, no thinnest, calibrated', 'any width, calibrated'),
  )
  experiment.write(
    {
      'errors': errors,
      **{
        f'{after} - {before}': evidence.compare(errors[before], errors[after])
        for before, after in pairs
      },
    }
  )


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
      f'{statistics.mean(errors[t][width]):.2f} ±'
      f' {statistics.stdev(errors[t][width]):.2f}'
      for t in titles
    ]
    lines.append(f'| {width} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def plot(
  path: pathlib.Path, errors: dict[str, evidence.Errors], name: str
) -> None:
  """Saves the mean errors over the widths, a line per variant."""
  figure = plots.figure((7, 4.5))
  axes = figure.add_subplot()
  for title, of_one in errors.items():
    widths = [float(width) for width in of_one]
    means = [statistics.mean(values) for values in of_one.values()]
    axes.plot(
      widths, means, marker='o', label=title.removesuffix(', calibrated')
    )
  axes.set(
    xlabel='width',
    ylabel='test error, %',
    title=f'{name} on few digits, at widths trained and not',
  )
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.legend()
  plots.save(figure, path)


if __name__ == '__main__':
  main()
