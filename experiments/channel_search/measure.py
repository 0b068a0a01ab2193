"""Are searched channels better than uniform ones, at equal MACs or latency?

    python experiments/channel_search/measure.py

See README.md; the options are those of experiments/evidence.
"""

import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence
import numpy as np

from slimjax import files
from slimjax import nets
from slimjax import units
from slimjax.models import create_model
from slimjax.searching import latency
from slimjax.searching.command import search_run
from slimjax.searching.costs import macs_of
from slimjax.searching.results import NETS

FEW_DIGITS = evidence.ROOT / 'configs' / 'few_digits.py'
MODEL = 'resnet14'  # the first to compile
# The range of the supernet, and the uniform widths that give the targets.
RANGE = (0.125, 0.5)
TARGETS = (0.25, 0.375)
IMAGE_SIZE = 32
# 200 to train on, 100 to search with, the other digits to test on.
IMAGES, HELD_OUT = 300, 100
EPOCHS = 40
# Images in a request whose latency counts: of one image that of so small a
# network is what its launches take.
REQUEST = 32
# The most that is asked for, of the latency of the whole network.
SHARE = 0.8
UNIFORM, BY_MACS, BY_MS = 'uniform', 'searched by MACs', 'searched by latency'
FOLDERS = {BY_MACS: 'channel_search_macs', BY_MS: 'channel_search_ms'}


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments, FEW_DIGITS)
  path = experiment.workdir / 'channel_search_table.json'
  model = create_model(MODEL, num_classes=10, widths=RANGE)
  table = device_table(path, model, quick=experiment.quick)
  uniform = [model.channels(width) for width in TARGETS]
  macs = macs_of(model, IMAGE_SIZE)
  # A uniform width may be slower than the whole network.
  whole = SHARE * table([model.full_channels])
  targets = {
    BY_MACS: {'target_macs': macs(uniform).tolist()},
    BY_MS: {'target_ms': np.minimum(table(uniform), whole).tolist()},
  }
  errors = {name: {} for name in (UNIFORM, *targets)}
  times = {name: {} for name in errors}
  found = {name: [] for name in targets}
  for seed in range(experiment.seeds):
    supernet = experiment.train(
      'channel_search_supernet',
      configured(experiment, seed, RANGE, supernet=True),
    )
    config = configured(experiment, seed, TARGETS)
    add_errors(errors[UNIFORM], experiment.train('channel_search', config))
    channels = {UNIFORM: uniform}
    for name, target in targets.items():
      folder = FOLDERS[name]
      out = experiment.workdir / f'{folder}_nets_seed{seed}'
      if not (out / NETS).exists():
        search_run(supernet, out, device_table=path, **target)
      content = json.loads((out / NETS).read_text())
      found[name].append(content['nets'])
      # The largest is the first in the file.
      channels[name] = [*nets.read_nets(out / NETS).values()][::-1]
      config = configured(experiment, seed, tuple(channels[name]))
      add_errors(errors[name], experiment.train(folder, config))
    kept = experiment.workdir / f'channel_search_times_seed{seed}.json'
    for name, of_one in measured(kept, model, channels).items():
      for width, ms in zip(TARGETS, of_one, strict=True):
        times[name].setdefault(str(width), []).append(ms)
  compared = {
    f'{name} - {UNIFORM}': evidence.compare(errors[UNIFORM], errors[name])
    for name in targets
  }
  evidence.plot(
    experiment.out / 'errors.png',
    'retrained, at the cost of the uniform width',
    errors,
  )
  for name in targets:
    print(evidence.table(UNIFORM, errors[UNIFORM], name, errors[name]))
  print(table_of_costs(macs, uniform, found, times))
  print(f'the table on networks it was not fitted on: {table.check}')
  experiment.write(
    {
      'targets': {**targets[BY_MACS], **targets[BY_MS]},
      'errors': errors,
      **compared,
      'measured_ms': times,
      'table': table.check,
      'found': found,
    }
  )


def configured(experiment, seed, widths, *, supernet=False):
  """Returns the configuration of a supernet, or of networks to train."""
  config = experiment.get(seed)
  config.model.update(name=MODEL, widths=tuple(widths))
  config.data.train_images = IMAGES
  config.data.held_out = HELD_OUT
  config.epochs = 2 if experiment.quick else EPOCHS
  config.eval_every_epochs = config.epochs
  config.schedule.peak_lr = 0.03
  if supernet:
    config.model.shared = ('norm',)
    config.plan = {'name': 'sandwich', 'random': 2, 'per_layer': True}
    config.loss.inplace_distillation = True
  return config


def device_table(path, model, *, quick):
  """Returns latencies of this device; they are measured once."""
  if not path.exists():
    table = latency.measure(
      model,
      image_size=IMAGE_SIZE,
      batch_size=REQUEST,
      grid=2 if quick else 4,
      nets=4 if quick else 12,
      say=print,
    )
    files.make_folder(path.parent)
    table.save(path)
  return latency.LatencyTable.load(path)


def measured(path, model, channels):
  """Returns milliseconds of whole networks by name, taking turns; kept."""
  if not path.exists():
    flat = [one for of_name in channels.values() for one in of_name]
    ms = latency.time_nets(
      model, flat, image_size=IMAGE_SIZE, batch_size=REQUEST, rounds=20
    )
    several = len(TARGETS)
    files.write_json(
      path,
      {
        name: ms[several * place : several * (place + 1)]
        for place, name in enumerate(channels)
      },
    )
  return json.loads(path.read_text())


def add_errors(errors, path):
  """Adds the test errors of a run, by the uniform widths of equal cost."""
  results = json.loads((path / 'results.json').read_text())
  results.sort(key=lambda row: row['macs'])
  for width, row in zip(TARGETS, results, strict=True):
    errors.setdefault(str(width), []).append(row['top1_error'])


def table_of_costs(macs, uniform, found, times):
  """Returns MACs and measured milliseconds in Markdown, means of the seeds."""
  lines = [
    '| width | ' + ' | '.join(f'{n}: MACs | ms' for n in times) + ' |',
    '|---' * (1 + 2 * len(times)) + '|',
  ]
  for place, width in enumerate(TARGETS):
    cells = []
    for name, by_width in times.items():
      of_seeds = [macs([uniform[place]])[0]]
      if name in found:
        of_seeds = [some[-1 - place]['macs'] for some in found[name]]
      cells.append(units.count(statistics.mean(map(float, of_seeds))))
      cells.append(evidence.spread(by_width[str(width)]))
    lines.append(f'| {width} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
