"""Is a cascade as accurate as the widest network, in less time?

    python experiments/cascade/measure.py runs/fashion

Takes a finished run whose data have held-out images. They choose the thresholds
of several cascades, for wanted accuracies and for allowed times; then every
width and every cascade answers the same test images, in turns on the same
machine, and all of the test images once. Writes result.json and curve.png
beside this file (or under --out). See README.md.
"""

import argparse
import functools
import itertools
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import slimjax
from slimjax import files
from slimjax import plots
from slimjax import runtime
from slimjax.runtime.measuring import describe_device
from slimjax.runtime.measuring import time_in_turns
from slimjax.training.runs import build_dataset
from slimjax.training.runs import load_run
from slimjax.widths import label

HERE = pathlib.Path(__file__).resolve().parent
# Points of accuracy, held-out, that a cascade may have less than the widest.
LESS = (0.0, 0.1, 0.5, 1.0, 2.0)
# Mean costs, as shares of the widest's, within which one is as good as it can.
SHARES = (0.25, 0.35, 0.5, 0.75)


def of_all(network, images):
  """Returns the logits of images at every width, in batches."""
  size = network.batch_sizes[-1]
  return {
    width: np.concatenate(
      [
        np.asarray(network(images[i : i + size], width=width))
        for i in range(0, len(images), size)
      ]
    )
    for width in network.widths
  }


def choose(logits, labels, costs):
  """Returns cascades by name, chosen on held-out images."""
  widest = max(costs, key=costs.get)
  best = 100 * np.mean(logits[widest].argmax(-1) == labels)
  wanted = {f'widest - {less}': {'accuracy': best - less} for less in LESS}
  wanted |= {
    f'{share} of the time': {'mean_cost': share * costs[widest]}
    for share in SHARES
  }
  found = {}
  for (name, options), rule in itertools.product(
    wanted.items(), ('margin', 'entropy')
  ):
    try:
      found[f'{name}, {rule}'] = runtime.choose_thresholds(
        logits, labels, costs, confidence=rule, **options
      )
    except ValueError as error:  # the thinnest takes longer than that
      print(f'{name}: {error}')
  return found


def answer_all(policy, batches):
  """Answers one batch after another, each until it is on the host."""
  return [np.asarray(policy(batch)) for batch in batches]


def study(network, held_out, test, *, batch_size, timed, rounds):
  """Returns what the README's table says, by policy.

  Args:
    network: network of a run.
    held_out, test: {'image': ..., 'label': ...} of the splits.
    batch_size: number of images in a request.
    timed: number of test images that are timed.
    rounds: number of turns of each policy; a turn answers them eleven times.
  """
  table = network.benchmark(batch_sizes=(batch_size,), rounds=max(rounds, 3))
  costs = {r.width: r.p50_ms / batch_size for r in table.rows}
  logits = of_all(network, held_out['image'])
  chosen = choose(logits, held_out['label'], costs)
  tested = of_all(network, test['image'])
  rows, policies = {}, {}
  for width in network.widths:
    name = f'width {label(width)}'
    policies[name] = lambda images, width=width: network(images, width=width)
    rows[name] = {'test': _accuracy(tested[width], test['label'])}
  for name, thresholds in chosen.items():
    cascade = runtime.Cascade(network, thresholds=thresholds)
    policies[name] = cascade
    answers = cascade.answer(test['image'])
    stages = range(len(thresholds.widths))
    rows[name] = {
      'widths': [label(width) for width in thresholds.widths],
      'least': thresholds.least,
      'held_out': thresholds.accuracy,
      'test': _accuracy(answers.logits, test['label']),
      'predicted_ms': thresholds.mean_cost,
      'reached': [float(np.mean(answers.stages >= stage)) for stage in stages],
    }
  batches = [
    test['image'][start : min(start + batch_size, timed)]
    for start in range(0, timed, batch_size)
  ]
  calls = {
    name: functools.partial(answer_all, policy, batches)
    for name, policy in policies.items()
  }
  times = time_in_turns(calls, rounds=rounds)
  means = {name: turns.mean(1) / timed for name, turns in times.items()}
  widest = means[f'width {label(network.widths[-1])}']
  for name, row in rows.items():
    row['ms'] = float(np.median(means[name]))
    row['of_widest'] = float(np.median(means[name] / widest))
  return {
    'device': describe_device(network.backend),
    'versions': table.versions,
    'batch_size': batch_size,
    'images': {'held_out': len(held_out['label']), 'test': len(test['label'])},
    'timed': timed,
    'rounds': rounds,
    'policies': rows,
  }


def _accuracy(logits, labels):
  return 100 * float(np.mean(logits.argmax(-1) == labels))


def print_table(result):
  print('| policy | widths | test | of the widest | reach each width |')
  print('|---|---|---|---|---|')
  for name, row in result['policies'].items():
    reached = ', '.join(f'{100 * r:.0f} %' for r in row.get('reached', ()))
    widths = ', '.join(row.get('widths', ()))
    print(
      f'| {name} | {widths} | {row["test"]:.2f} % | {row["of_widest"]:.2f} |'
      f' {reached} |'
    )


def plot(result, path):
  """Saves accuracy against mean time: single widths, and cascades."""
  figure = plots.figure((6.4, 4))
  axes = figure.add_subplot(title='Test accuracy against mean time of an image')
  rows = result['policies']
  kinds = {
    'single widths': ('o-', [n for n in rows if 'widths' not in rows[n]]),
    'cascades, margin': ('s', [n for n in rows if n.endswith('margin')]),
    'cascades, entropy': ('^', [n for n in rows if n.endswith('entropy')]),
  }
  for kind, (style, names) in kinds.items():
    points = sorted((rows[n]['of_widest'], rows[n]['test']) for n in names)
    if points:
      axes.plot(*zip(*points, strict=True), style, label=kind)
  axes.set(xlabel='mean time, of the widest', ylabel='test accuracy, %')
  axes.grid(alpha=0.3)
  axes.legend()
  plots.save(figure, path)


def examples(dataset, split):
  """Returns a whole split as the network takes it."""
  found = dataset.splits[split].read_eval(np.arange(len(dataset.splits[split])))
  return {name: np.asarray(found[name]) for name in ('image', 'label')}


def main(arguments=None):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('workdir', help='folder of the run')
  parser.add_argument('--out', type=pathlib.Path, default=HERE)
  parser.add_argument('--batch_size', type=int, default=1)
  parser.add_argument('--timed', type=int, default=200, help='images')
  parser.add_argument('--rounds', type=int, default=5)
  given = parser.parse_args(arguments)
  run, _, _, step = load_run(given.workdir)
  dataset = build_dataset(run)
  if 'held_out' not in dataset.splits:
    parser.error(
      'the run has no held-out images to choose thresholds by; train with'
      ' --config.data.held_out=2000'
    )
  network = slimjax.load(given.workdir, batch_sizes=(1, 64)).network
  result = study(
    network,
    examples(dataset, 'held_out'),
    examples(dataset, 'test'),
    batch_size=given.batch_size,
    timed=given.timed,
    rounds=given.rounds,
  )
  print_table(result)
  given.out.mkdir(parents=True, exist_ok=True)
  plot(result, given.out / 'curve.png')
  result = {'data': dataset.describe(), 'step': step, **result}
  files.write_json(given.out / 'result.json', result, indent=1)


if __name__ == '__main__':
  main()
