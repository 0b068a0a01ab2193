"""How long does it take from the command to the first step?

    python experiments/startup/measure.py [--json=result.json]

Starts training in fresh processes, twice with one folder of compiled programs:
empty (cold), then filled (warm). The phases are told apart by the lines that a
run writes, by the time when they arrive. Each run is killed after its first
step. See README.md.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from slimjax import files  # noqa: E402

# Names of networks, and what they are trained with on the digits.
NETWORKS = {
  'mobilenet_v1': (),
  'resnet50': ('--config.model.name=resnet50', '--config.batch_size=16'),
}
# A phase ends with the line that matches.
PHASES = (
  ('data, network, costs', re.compile(r'drawing the weights')),
  ('weights, folder', re.compile(r'compiling .* \(1 of')),
  ('tracing, compiling', re.compile(r'the first step starts after ([\d.]+) s')),
  ('first step', re.compile(r'step +1/')),
)
IMPORT = 'start, imports'


def follow(command, environment):
  """Returns seconds by phase of one run, which it ends after the first step.

  Raises:
    RuntimeError: the run ended before; the message has its output.
  """
  start = time.perf_counter()
  process = subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  ends, lines, inside = [], [], 0.0
  try:
    for line in process.stdout:
      now = time.perf_counter() - start
      lines.append(line)
      found = PHASES[len(ends)][1].search(line)
      if not found:
        continue
      if found.groups():  # what the run counted since its imports were done
        inside = now - float(found.group(1))
      ends.append(now)
      if len(ends) == len(PHASES):
        break
    else:
      raise RuntimeError(f'the run ended early:\n{"".join(lines)}')
  finally:
    process.kill()
    process.wait()
    process.stdout.close()
  begins = [inside, *ends]
  return {
    IMPORT: inside,
    **{
      name: end - begin
      for (name, _), begin, end in zip(PHASES, begins, ends, strict=False)
    },
    'to the first step': ends[-2],
    'in all': ends[-1],
  }


def environment():
  """Returns the variables of a run, which a cache named outside is not in."""
  kept = {
    k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'
  }
  return {**kept, 'PYTHONPATH': str(ROOT)}


def command(workdir, cache, options=()):
  """Returns the command of a run on the digits."""
  return [
    *(sys.executable, '-u', '-m', 'slimjax.train', '--config=digits'),
    f'--workdir={workdir}',
    f'--config.compilation_cache_dir={cache}',
    '--config.log_every_steps=1',
    *options,
  ]


def cold_and_warm(options):
  """Returns the phases of a run that compiles, and of one after it."""
  with tempfile.TemporaryDirectory() as folder:
    return {
      state: follow(
        command(f'{folder}/{state}', f'{folder}/cache', options), environment()
      )
      for state in ('cold', 'warm')
    }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', default=','.join(NETWORKS))
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  results = {}
  for name in arguments.networks.split(','):
    results[name] = cold_and_warm(NETWORKS[name])
    table = Table('s', 'cold', 'warm', title=f'S-{name} on digits')
    cold, warm = results[name]['cold'], results[name]['warm']
    for phase, seconds in cold.items():
      table.add_row(phase, f'{seconds:.1f}', f'{warm[phase]:.1f}')
    Console(width=80).print(table)
  if arguments.json:
    files.write_json(arguments.json, results, indent=1)


if __name__ == '__main__':
  main()
