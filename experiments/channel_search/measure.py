"""Are searched channels better than uniform ones of as many MACs?

    python experiments/channel_search/measure.py

See README.md; the options are those of experiments/evidence.py.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

from slimjax import nets
from slimjax.models import create_model
from slimjax.searching.command import search_run
from slimjax.searching.costs import macs_of

MODEL = 'resnet14'  # the first to compile
# The range of the supernet, and the uniform widths that give the targets.
RANGE = (0.125, 0.5)
TARGETS = (0.1875, 0.25, 0.375)
STRATEGIES = ('greedy',)
IMAGE_SIZE = 32
# 200 to train on, 200 to search with, the other digits to test on.
IMAGES, HELD_OUT = 400, 200


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  found = {name: [] for name in STRATEGIES}
  errors = {name: {} for name in ('uniform', *STRATEGIES)}
  for seed in range(experiment.seeds):
    supernet = experiment.train(
      'channel_search_supernet',
      configured(experiment, seed, RANGE, supernet=True),
    )
    uniform = configured(experiment, seed, TARGETS)
    add(errors['uniform'], experiment.train('channel_search_uniform', uniform))
    for name in STRATEGIES:
      out = experiment.workdir / f'channel_search_{name}_nets_seed{seed}'
      search_run(
        supernet,
        out,
        target_macs=[macs for macs, _ in targets(uniform)],
        strategy=name,
      )
      content = json.loads((out / 'nets.json').read_text())
      found[name].append(content)
      widths = nets.read_nets(out / 'nets.json').values()
      config = configured(experiment, seed, tuple(widths))
      path = experiment.train(f'channel_search_{name}', config)
      add(errors[name], path)
  experiment.out.mkdir(parents=True, exist_ok=True)
  plot(experiment.out / 'errors.png', errors)
  for name in STRATEGIES:
    print(evidence.table('uniform', errors['uniform'], name, errors[name]))
  experiment.write(
    {
      'targets': {
        str(w): macs for macs, w in targets(configured(experiment, 0, TARGETS))
      },
      'errors': errors,
      **{
        f'{name} - uniform': evidence.compare(errors['uniform'], errors[name])
        for name in STRATEGIES
      },
      'found': found,
    }
  )


def configured(experiment, seed, widths, *, supernet=False):
  """Returns the configuration of a supernet, or of networks to train."""
  config = experiment.get(seed)
  config.model.update(name=MODEL, widths=tuple(widths))
  config.data.train_images = IMAGES
  config.data.held_out = HELD_OUT
  config.epochs = 2 if experiment.quick else 60
  config.eval_every_epochs = config.epochs
  config.schedule.peak_lr = 0.03
  if supernet:
    config.model.shared = ('norm',)
    config.plan = {'name': 'sandwich', 'random': 2, 'per_layer': True}
    config.loss.inplace_distillation = True
  return config


def targets(config):
  """Returns (MACs, width) of the uniform widths."""
  model = create_model(config.model.name, num_classes=10, widths=tuple(TARGETS))
  macs = macs_of(model, IMAGE_SIZE)
  return [(int(macs([model.channels(w)])[0]), w) for w in TARGETS]


def add(errors, path):
  """Adds the test errors of a run, by the uniform widths of as many MACs."""
  results = json.loads((path / 'results.json').read_text())
  results.sort(key=lambda row: row['macs'])
  for width, row in zip(TARGETS, results, strict=True):
    errors.setdefault(str(width), []).append(row['top1_error'])


def plot(path, errors):
  """Saves test errors by the uniform widths of as many MACs."""
  evidence.plot(path, 'retrained, of as many MACs as the uniform width', errors)


if __name__ == '__main__':
  main()
