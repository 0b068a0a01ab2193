"""Times slimmable training steps of slimjax and PyTorch in turns on a CPU.

    python experiments/cpu_training_speed/measure.py --json=result.json

The ratio is slimjax's time over PyTorch's in the same round, median (quartiles)
over the rounds: below 1 slimjax is faster. `others` is how many cores other
processes kept busy meanwhile: numbers are worth nothing unless it is near 0.
See README.md.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
import dataclasses
import importlib.metadata
import multiprocessing
import pathlib
import platform
import subprocess
import sys

from rich.console import Console
from rich.table import Table

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import check  # noqa: E402
import sides  # noqa: E402
from sides import Cell  # noqa: E402
from speed.side_by_side import cores  # noqa: E402
from speed.side_by_side import SideBySide  # noqa: E402
from speed.side_by_side import Timing  # noqa: E402

from slimjax import files  # noqa: E402

CELLS = (
  Cell('mobilenet_v1', image_size=128, batch_size=8),
  Cell('mobilenet_v1', image_size=64, batch_size=16),
  Cell('resnet50', image_size=128, batch_size=8),
  Cell('resnet50', image_size=64, batch_size=16),
)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'torch', 'numpy')


def environment() -> dict:
  """Returns what the numbers depend on."""
  git = ['git', '-C', str(HERE), 'describe', '--always', '--dirty']
  found = subprocess.run(git, capture_output=True, text=True, check=False)
  info = pathlib.Path('/proc/cpuinfo')
  names = [
    line.partition(':')[2].strip()
    for line in (info.read_text().splitlines() if info.exists() else ())
    if line.startswith('model name')
  ]
  return {
    'cpu': names[0] if names else platform.processor(),
    'cores': cores(),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in PACKAGES},
    'commit': found.stdout.strip() or 'unknown',
  }


def time_parts(cell: Cell, rounds: int, parts: list[str]) -> list[Timing]:
  """Returns the timings of the parts; of all if `parts` is empty."""
  both = {
    'PyTorch': (sides.torch_parts, (cell,)),
    'slimjax': (sides.jax_parts, (cell,)),
  }
  with SideBySide(both) as side_by_side:
    return [
      side_by_side.time(part, rounds) for part in parts or side_by_side.parts
    ]


def table(cell: Cell, timings: list[Timing]) -> Table:
  """Returns a line per part: milliseconds of each side, and their ratio."""
  result = Table(
    'part',
    title=f'S-{cell.name}, {cell.batch_size} at {cell.image_size} px',
    title_justify='left',
  )
  for column in ('PyTorch, ms', 'slimjax, ms', 'slimjax / PyTorch', 'others'):
    result.add_column(column, justify='right')
  for timing in timings:
    result.add_row(
      timing.part,
      *(timing.ms(side).show(1) for side in timing.seconds),
      timing.ratio('slimjax', 'PyTorch').show(2),
      f'{timing.foreign:.2f}',
    )
  return result


def in_process(function, *args):
  """Calls in a fresh process, so that this one loads neither library."""
  context = multiprocessing.get_context('spawn')
  with ProcessPoolExecutor(1, mp_context=context) as pool:
    return pool.submit(function, *args).result()


def parse(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=20)
  parser.add_argument('--json', type=pathlib.Path, help='file for the numbers')
  parser.add_argument('--model', choices=sorted({c.name for c in CELLS}))
  parser.add_argument('--image_size', type=int, choices=(64, 128))
  parser.add_argument('--part', action='append', default=[], help='only this')
  parser.add_argument('--check', action='store_true', help='check, do not time')
  parser.add_argument(
    '--unchecked', action='store_true', help='time at once, checked before'
  )
  return parser.parse_args(argv)


def main(argv=None):
  arguments = parse(argv)
  cells = [
    cell
    for cell in CELLS
    if arguments.model in (None, cell.name)
    and arguments.image_size in (None, cell.image_size)
  ]
  console = Console(width=None if sys.stdout.isatty() else 120)
  facts = environment()
  console.print(', '.join(f'{key} {value}' for key, value in facts.items()))
  checks, results = {}, []
  if not arguments.unchecked:
    for name in dict.fromkeys(cell.name for cell in cells):
      checks[name] = in_process(check.run, name)
      console.print(f'the same network, {name}: {checks[name]}')
  if arguments.check:
    return
  for cell in cells:
    timings = time_parts(cell, arguments.rounds, arguments.part)
    console.print(table(cell, timings))
    results.append(
      {
        'cell': dataclasses.asdict(cell),
        'timings': [timing.as_json('PyTorch') for timing in timings],
      }
    )
  if arguments.json:
    numbers = {'environment': facts, 'checks': checks, 'steps': results}
    files.write_json(arguments.json, numbers, indent=1)


if __name__ == '__main__':
  main()
