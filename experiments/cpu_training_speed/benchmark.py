"""Times slimmable training steps of slimjax and PyTorch side by side on a CPU.

    python experiments/cpu_training_speed/benchmark.py --json result.json

The ratio is slimjax's time over PyTorch's in the same round, median (quartiles)
over the rounds: below 1 slimjax is faster. `others` is how many cores other
processes kept busy meanwhile: numbers are worth nothing unless it is near 0.
See README.md.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
import dataclasses
import importlib.metadata
import json
import multiprocessing
import pathlib
import platform
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import check  # noqa: E402
from side_by_side import SideBySide  # noqa: E402
from side_by_side import Spread  # noqa: E402
from side_by_side import Timing  # noqa: E402
import sides  # noqa: E402
from sides import Cell  # noqa: E402

CELLS = (
  Cell('mobilenet_v1', image_size=128, batch_size=8),
  Cell('mobilenet_v1', image_size=64, batch_size=16),
  Cell('resnet50', image_size=128, batch_size=8),
  Cell('resnet50', image_size=64, batch_size=16),
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'numpy')


def environment() -> dict:
  """What the numbers depend on."""
  cpu = platform.processor()
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    names = [
      line.partition(':')[2].strip()
      for line in info.read_text().splitlines()
      if line.startswith('model name')
    ]
    cpu = names[0] if names else cpu
  return {
    'cpu': cpu,
    'cores': sides.cores(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in PACKAGES},
    'commit': commit(),
    'time': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
  }


def commit() -> str:
  """The commit of the code, with '-dirty' if it differs from it."""

  def git(*args):
    command = ['git', '-C', str(HERE), *args]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() if not result.returncode else None

  head = git('rev-parse', '--short=12', 'HEAD')
  if head is None:
    return 'unknown'
  return head + ('-dirty' if git('status', '--porcelain') else '')


def time_steps(cell: Cell, rounds: int, parts: list[str], same_process: bool):
  """Returns the timings of the parts; all of them if `parts` is empty."""
  both = {
    'PyTorch': (sides.torch_parts, (cell,)),
    'slimjax': (sides.jax_parts, (cell,)),
  }
  with SideBySide(both, same_process=same_process) as side_by_side:
    return [
      side_by_side.time(part, rounds) for part in parts or side_by_side.parts
    ]


def time_depthwise(cell: Cell, rounds: int):
  """Returns the timings of the depthwise layers; native XLA is slow."""
  three = {
    'PyTorch': (sides.torch_depthwise_parts, (cell,)),
    'slimjax': (sides.jax_depthwise_parts, (cell, False)),
    'XLA native': (sides.jax_depthwise_parts, (cell, True)),
  }
  with SideBySide(three) as side_by_side:
    return [
      side_by_side.time(part, rounds, warmup=1, run_s=0.02)
      for part in side_by_side.parts
    ]


def show(spread: Spread, digits: int) -> str:
  """'median (low - high)'."""
  values = (spread.median, spread.low, spread.high)
  return '{} ({} - {})'.format(*(f'{value:.{digits}f}' for value in values))


def table(title: str, first: str, timings: list[Timing]) -> Table:
  """One line per part: milliseconds of each side, ratios to the first."""
  result = Table(title=title, title_justify='left')
  result.add_column(first)
  sides_, others = list(timings[0].ms), list(timings[0].ratio)
  for label in sides_:
    result.add_column(f'{label}, ms', justify='right')
  for label in others:
    result.add_column(f'{label} / {sides_[0]}', justify='right')
  result.add_column('others', justify='right')
  for timing in timings:
    result.add_row(
      timing.part,
      *(show(timing.ms[label], 1) for label in sides_),
      *(show(timing.ratio[label], 2) for label in others),
      f'{timing.foreign:.2f}',
    )
  return result


def total_row(cell: Cell, timings: list[Timing]) -> list[str]:
  """The sum over all depthwise layers of the network, medians only."""
  counts = {k: v[-1] for k, v in sides.depthwise_shapes(cell).items()}
  sums = {
    label: sum(counts[t.part] * t.ms[label].median for t in timings)
    for label in timings[0].ms
  }
  base, *others = sums.values()
  return [
    f'all {sum(counts.values())} layers',
    *(f'{value:.1f}' for value in sums.values()),
    *(f'{value / base:.2f}' for value in others),
  ]


def in_process(function, *args):
  """Calls in a fresh process, so that this one loads neither library."""
  context = multiprocessing.get_context('spawn')
  with ProcessPoolExecutor(1, mp_context=context) as pool:
    return pool.submit(function, *args).result()


def parse(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument(
    '--quick', action='store_true', help='5 rounds at 128 px, unchecked'
  )
  parser.add_argument('--json', type=pathlib.Path, help='write the numbers')
  parser.add_argument('--model', choices=sorted({c.name for c in CELLS}))
  parser.add_argument('--part', action='append', default=[], help='only this')
  parser.add_argument('--check', action='store_true', help='check, do not time')
  parser.add_argument(
    '--same-process', action='store_true', help='both libraries in one process'
  )
  return parser.parse_args(argv)


def main(argv=None):
  args = parse(argv)
  rounds = 5 if args.quick else args.rounds
  cells = [
    cell
    for cell in CELLS
    if args.model in (None, cell.name)
    and not (args.quick and cell.image_size != 128)
  ]
  console = Console(width=None if sys.stdout.isatty() else 150)
  facts = environment()
  console.print(', '.join(f'{key} {value}' for key, value in facts.items()))

  checks = {}
  for name in dict.fromkeys(cell.name for cell in cells):
    if args.quick and not args.check:
      break
    checks[name] = in_process(check.run, name)
    console.print(f'same network, {name}: {checks[name]}')
  if args.check:
    return

  results, depthwise = [], []
  for cell in cells:
    title = f'S-{cell.name}, batch {cell.batch_size} at {cell.image_size} px'
    timings = time_steps(cell, rounds, args.part, args.same_process)
    console.print(table(title, 'part', timings))
    results.append({'cell': cell, 'timings': timings})
    if cell.name == 'mobilenet_v1' and not args.part:
      timings = time_depthwise(cell, rounds)
      title = f'{title}: depthwise convolution, forward and backward'
      lines = table(title, 'channels x size / stride', timings)
      lines.add_section()
      lines.add_row(*total_row(cell, timings))
      console.print(lines)
      depthwise.append({'cell': cell, 'timings': timings})
  if args.json:
    numbers = {
      'environment': facts,
      'same_process': args.same_process,
      'checks': checks,
      'steps': results,
      'depthwise': depthwise,
    }
    text = json.dumps(numbers, default=dataclasses.asdict, indent=1)
    args.json.write_text(text + '\n')


if __name__ == '__main__':
  main()
