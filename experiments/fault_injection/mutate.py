"""Damages checkpoints by chance, and sees who notices.

python experiments/fault_injection/mutate.py [--count=140] [--seed=0]
  [--workdir=runs/faults]

Each mutation is made in a copy of a finished run, which is then read, resumed
and given to one more program. Writes a line on
each mutation to WORKDIR/mutations-SEED.jsonl.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import shutil
import sys
from typing import Any

import children
import inject

from slimjax import cli

# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7), version 3.
_OVERRIDE, _VERSION = 0b110, 0x20080522
MUTATIONS = (
  'flip',
  'truncate',
  'delete',
  'empty',
  'zeros',
  'exchange',
  'permissions',
  'folder deleted',
  'folder emptied',
  'step without anything',
  'steps exchanged',
)
_OTHERS = ('evaluate', 'predict', 'export', 'calibrate', 'visualize', 'verify')


def mutate(folder: pathlib.Path, kind: str, rng: random.Random) -> str:
  """Damages the checkpoints in a folder, and returns where."""
  paths = sorted(folder.rglob('*'))
  found = [path for path in paths if path.is_file()]
  folders = [path for path in paths if path.is_dir()]
  path, other = rng.sample(found, 2)
  part = rng.choice(folders)
  name = str(path.relative_to(folder))
  data = bytearray(path.read_bytes())
  if kind == 'flip':
    where = rng.randrange(len(data))
    data[where] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f'{name}, byte {where}'
  if kind == 'truncate':
    length = rng.randrange(len(data))
    os.truncate(path, length)
    return f'{name}, to {length} of {len(data)} bytes'
  if kind == 'delete':
    path.unlink()
  elif kind == 'empty':
    path.write_bytes(b'')
  elif kind == 'zeros':
    where = rng.randrange(len(data))
    data[where : where + 512] = bytes(len(data[where : where + 512]))
    path.write_bytes(data)
    return f'{name}, from byte {where}'
  elif kind == 'exchange':
    content = other.read_bytes()
    other.write_bytes(data)
    path.write_bytes(content)
    return f'{name} and {other.relative_to(folder)}'
  elif kind == 'permissions':
    path = rng.choice(paths)
    path.chmod(0)
    return str(path.relative_to(folder))
  elif kind == 'folder deleted':
    shutil.rmtree(part)
    return str(part.relative_to(folder))
  elif kind == 'folder emptied':
    shutil.rmtree(part)
    part.mkdir()
    return str(part.relative_to(folder))
  elif kind == 'step without anything':
    number = rng.choice([0, 1, 3, 6, 1000])
    (folder / str(number)).mkdir()
    return str(number)
  elif kind == 'steps exchanged':
    first, second = sorted(int(p.name) for p in folder.iterdir())[-2:]
    (folder / str(first)).rename(folder / 'aside')
    (folder / str(second)).rename(folder / str(first))
    (folder / 'aside').rename(folder / str(second))
    return f'{first} and {second}'
  return name


def bound(function: Any) -> Any:
  """Returns a function that obeys permissions, which root does not."""

  def call() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)  # of the interface; itself
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    libc.capget(header, sets)
    for number in range(3):
      sets[number] &= ~_OVERRIDE
    if libc.capset(header, sets):
      raise OSError(ctypes.get_errno(), 'capset')
    return function()

  return call


def judge_reading(box: pathlib.Path, good: Any, wrap: Any) -> str:
  """Returns right, told, wrong or how else a child ends that reads the run."""

  def read() -> None:
    import jax
    import numpy as np

    from slimjax.training.runs import load_run

    _, _, variables, step = load_run(box / 'run')
    leaves, _ = jax.tree.flatten_with_path(variables)
    found = {
      jax.tree_util.keystr(path): inject.digest_of(np.asarray(x).tobytes())
      for path, x in leaves
    }
    print(json.dumps([step, found]))

  def main() -> None:
    sys.argv = ['read']
    cli.run(lambda _: read())

  end = children.run(wrap(main), box.parent / 'read.txt')
  if end.kind != 'done':
    return end.kind
  step, found = json.loads(end.text.splitlines()[-1])
  expected = good['checkpoints'][str(step)]
  if any(expected[name] != bits for name, bits in found.items()):
    return 'WRONG'
  newest = max(good['checkpoints'], key=int)
  if str(step) == newest:
    return 'right'
  if not (box / 'run' / 'checkpoints' / newest).exists():
    return 'right, of those that are there'
  return 'right, told' if 'is damaged' in end.text else 'SILENT'


def judge_resuming(
  program: inject.Program, box: pathlib.Path, good: Any, wrap: Any
) -> str:
  """Returns same or sentence, or what else became of a run that resumes."""
  end = children.run(wrap(program.call(box)), box.parent / 'resumed.txt')
  if end.kind != 'done':
    return end.kind
  found = program.left(box, end.text)
  newest = max(good['checkpoints'], key=int)
  if found['checkpoints'][newest] != good['checkpoints'][newest]:
    return 'WRONG'
  for name in ('metrics', 'results'):
    if found[name] != good[name]:
      return 'WRONG'
  return 'same'


def main() -> None:
  parser = argparse.ArgumentParser(description='See README.md.')
  parser.add_argument('--count', type=int, default=140)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--kinds', default='', help='as a,b; default: all')
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/faults')
  given = parser.parse_args()
  root = given.workdir.resolve()
  root.mkdir(parents=True, exist_ok=True)
  programs = {program.name: program for program in inject.programs(root)}
  train, finished = programs['train'], root / 'finished'
  good = train.left(finished, '')
  rng, box = random.Random(given.seed), root / 'box'
  kinds = given.kinds.split(',') if given.kinds else MUTATIONS
  with (root / f'mutations-{given.seed}.jsonl').open('w') as file:
    for number in range(given.count):
      kind = kinds[number % len(kinds)]
      wrap = bound if kind == 'permissions' else lambda function: function
      shutil.rmtree(box, ignore_errors=True)
      shutil.copytree(finished, box)
      where = mutate(box / 'run' / 'checkpoints', kind, rng)
      other = programs[_OTHERS[number // len(kinds) % len(_OTHERS)]]
      # Calibration adds to what is read, and training changes it.
      read = judge_reading(box, good, wrap)
      end = children.run(wrap(other.call(box)), root / 'other.txt')
      record = {
        'kind': kind,
        'where': where,
        'read': read,
        other.name: end.kind,
        'resumed': judge_resuming(train, box, good, wrap),
      }
      file.write(json.dumps(record) + '\n')
      file.flush()
      print(number, json.dumps(record), flush=True)


if __name__ == '__main__':
  main()
