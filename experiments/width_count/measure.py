"""What does a step cost with one, two, four, eight, sixteen widths?

    python experiments/width_count/measure.py [--json=result.json]

Compiles the step of each number of widths, evenly spaced from 0.25 to 1.0, and
times the steps in turns. See README.md.
"""

import argparse
import pathlib
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from speed.jax_training import JaxTrainer
from speed.jax_training import temporary_bytes
from speed.task import make_batch

import slimjax
from slimjax import files
from slimjax.runtime.measuring import describe_device

COUNTS = (1, 2, 4, 8, 16)


def widths_of(count):
  """Returns so many widths; the widest alone if it is one."""
  spaced = np.linspace(1.0, 0.25, count).tolist()
  return tuple(sorted(round(width, 4) for width in spaced))


def build(name, count, batch):
  """Returns a trainer, and what can be said before it runs."""
  size = batch['image'].shape[1]
  wall, processor = time.perf_counter(), time.process_time()
  trainer = JaxTrainer(name, widths_of(count), batch)
  wall = time.perf_counter() - wall
  processor = time.process_time() - processor
  macs = [
    slimjax.profile_model(trainer.model, width=width, image_size=size).macs
    for width in widths_of(count)
  ]
  return trainer, {
    'widths': count,
    'macs': sum(macs) / macs[-1],
    'programs': len(trainer.parts),
    'ready_s': wall,
    'ready_processor_s': processor,
    'temporary_mb': temporary_bytes(trainer.parts) / 1e6,
  }


def time_steps(trainers, rounds):
  """Returns the seconds of a step of each, by round; they take turns."""
  times = [[] for _ in trainers]
  for trainer in trainers:
    trainer.step()
  for _ in range(rounds):
    for trainer, taken in zip(trainers, times, strict=True):
      start = time.perf_counter()
      trainer.step()
      taken.append(time.perf_counter() - start)
  return times


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='mobilenet_v1')
  parser.add_argument('--image_size', type=int, default=64)
  parser.add_argument('--batch_size', type=int, default=16)
  parser.add_argument('--counts', type=int, nargs='+', default=COUNTS)
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  batch = make_batch(arguments.batch_size, arguments.image_size)
  built = [build(arguments.model, c, batch) for c in arguments.counts]
  times = time_steps([trainer for trainer, _ in built], arguments.rounds)
  first = times[0]
  table = Table(
    *('widths', 'MACs', 'step, ms', 'step', 'temporary, MB', 'until ready, s'),
    title=f'S-{arguments.model}, {arguments.batch_size} at'
    f' {arguments.image_size} px',
  )
  rows = []
  for (_, facts), taken in zip(built, times, strict=True):
    ratios = [a / b for a, b in zip(taken, first, strict=True)]
    row = {
      **facts,
      'step_ms': 1e3 * statistics.median(taken),
      'step_ratio': statistics.median(ratios),
    }
    rows.append(row)
    table.add_row(
      str(row['widths']),
      f'{row["macs"]:.2f}',
      f'{row["step_ms"]:.0f}',
      f'{row["step_ratio"]:.2f}',
      f'{row["temporary_mb"]:.1f}',
      f'{row["ready_s"]:.1f} ({row["ready_processor_s"]:.1f} of processors)',
    )
  Console(width=90).print(table)
  if arguments.json:
    results = {
      'device': describe_device('jax'),
      'model': arguments.model,
      'image_size': arguments.image_size,
      'batch_size': arguments.batch_size,
      'rows': rows,
    }
    files.write_json(arguments.json, results, indent=1)


if __name__ == '__main__':
  main()
