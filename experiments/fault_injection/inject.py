"""Spoils calls that touch files in every program, and sees what is lost.

python experiments/fault_injection/inject.py [--points=240] [--seed=0]
  [--workdir=runs/faults]

A program is run once to see its calls; then once for each point, in which one
of the calls fails; then once more, when it must end as if nothing had been.
Writes call_sites.json beside this file.
"""

import argparse
from collections.abc import Callable
import dataclasses
import hashlib
import json
import pathlib
import random
import shutil
from typing import Any

import children
import traced

HERE = children.HERE
FAULTS = ('full', 'denied', 'memory', 'kill')
_TIMING = ('images_per_second', 'step_ms', 'input_wait')


@dataclasses.dataclass(frozen=True)
class Program:
  """A command and what it must leave.

  Attributes:
    name: name of the program.
    arguments: its arguments; `{box}` is the folder it works in.
    given: folder of what the box holds before it; None is an empty one.
    left: box -> what must be the same afterwards, as JSON has it.
  """

  name: str
  arguments: tuple[str, ...]
  given: pathlib.Path | None
  left: Callable[[pathlib.Path, str], Any]

  def call(
    self, box: pathlib.Path, before: Callable[[], Any] = lambda: None
  ) -> Callable[[], Any]:
    return children.program(
      self.name.partition(' ')[0],
      *(argument.format(box=box) for argument in self.arguments),
      before=before,
    )

  def prepare(self, box: pathlib.Path) -> None:
    shutil.rmtree(box, ignore_errors=True)
    if self.given is None:
      box.mkdir(parents=True)
    else:
      shutil.copytree(self.given, box)


def digest_of(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def digest(path: pathlib.Path) -> str:
  """Returns the hash of what a file says."""
  data = path.read_bytes()
  if path.suffix == '.safetensors':
    # The entries of its header come in any order.
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    data = json.dumps(header, sort_keys=True).encode() + data[8 + length :]
  return digest_of(data)


def left_by_training(box: pathlib.Path, _: str) -> Any:
  """Returns the bits of all checkpoints, the lines and the table of a run."""
  run = box / 'run'
  lines = [json.loads(x) for x in (run / 'metrics.jsonl').open()]
  kept = [{k: v for k, v in x.items() if k not in _TIMING} for x in lines]
  return {
    'checkpoints': arrays(run / 'checkpoints', box.parent / 'arrays.txt'),
    'metrics': kept,
    'results': json.loads((run / 'results.json').read_text()),
  }


def arrays(folder: pathlib.Path, output: pathlib.Path) -> Any:
  """Returns hashes of the arrays of each checkpoint, read in a child."""

  def read() -> None:
    import jax

    from slimjax.training import saved

    found = {}
    for step in saved.steps_in(saved.absolute(folder)):
      state = saved.read_state(saved.absolute(folder) / str(step))
      leaves, _ = jax.tree.flatten_with_path(state)
      found[step] = {
        jax.tree_util.keystr(path): digest_of(x.tobytes()) for path, x in leaves
      }
    print(json.dumps(found))

  return json.loads(children.run(read, output).text.splitlines()[-1])


def left_by_reading(box: pathlib.Path, text: str) -> Any:
  """Returns what was printed, and the files of the run."""
  # How long it waits for a busy machine is said on lines of their own.
  said = [line for line in text.splitlines() if not line.startswith('still ')]
  return {'said': said, **left_unchanged(box, text)}


def left_unchanged(box: pathlib.Path, _: str) -> Any:
  """Returns the files of a run that none but training may change."""
  run = box / 'run'
  names = [p for p in sorted(run.rglob('*')) if p.is_file()]
  return {
    str(path.relative_to(run)): digest(path)
    for path in names
    if path.relative_to(run).parts[0] not in ('features', 'calibrated', 'lock')
  }


def left_by_writing(*places: str) -> Callable[[pathlib.Path, str], Any]:
  """Returns what tells the files that a program writes, and the run's own."""

  def left(box: pathlib.Path, text: str) -> Any:
    written = {
      str(path.relative_to(box)): digest(path)
      for place in places
      for path in sorted((box / place).rglob('*'))
      if path.is_file()
    }
    assert written, text
    return {**left_unchanged(box, text), **written}

  return left


def programs(root: pathlib.Path) -> list[Program]:
  """Returns the programs, after the runs that they are given."""
  config = (f'--config={HERE}/config.py', '--workdir={box}/run')
  finished, stopped = root / 'finished', root / 'stopped'
  train = Program('train', config, None, left_by_training)
  if not (finished / 'run' / 'results.json').exists():
    train.prepare(finished)
    end = children.run(train.call(finished), root / 'finished.txt')
    assert end.kind == 'done', end.text
  if not stopped.exists():
    shutil.copytree(finished, stopped)
    for name in ('results.json', 'error_vs_macs.png', 'checkpoints/4'):
      path = stopped / 'run' / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  run = '--workdir={box}/run'
  picture = root / 'three.png'
  if not picture.exists():
    children.run(lambda: _draw(picture), root / 'picture.txt')
  return [
    train,
    dataclasses.replace(train, name='train resumed', given=stopped),
    Program('evaluate', (run,), finished, left_by_reading),
    Program(
      'predict',
      ('{box}/run', str(picture), '--json'),
      finished,
      left_by_reading,
    ),
    Program(
      'export',
      (run, '--out={box}/bundle', '--platforms=cpu'),
      finished,
      left_by_writing('bundle'),
    ),
    Program(
      'calibrate',
      (run, '--widths=0.75', '--batches=1'),
      finished,
      left_by_writing('run/calibrated'),
    ),
    Program('visualize', (run,), finished, left_by_writing('run/features')),
    Program('verify', ('{box}/run',), finished, left_by_reading),
  ]


def _draw(path: pathlib.Path) -> None:
  from PIL import Image

  from slimjax.data import digits

  Image.fromarray(digits.load('test')['image'][3]).save(path)


def sites(program: Program, box: pathlib.Path) -> tuple[list[traced.Site], Any]:
  """Returns the calls of a program, and what it leaves when none fails."""
  program.prepare(box)
  seen = box.parent / 'sites.jsonl'

  def look() -> None:
    file = seen.open('w', buffering=1)
    see = lambda site: file.write(json.dumps(dataclasses.asdict(site)) + '\n')
    traced.watch(box, see)

  end = children.run(program.call(box, look), box.parent / 'traced.txt')
  assert end.kind == 'done', end.text
  lines = seen.read_text().splitlines()
  found = [traced.Site(**json.loads(line)) for line in lines]
  return found, program.left(box, end.text)


def strike(
  program: Program, box: pathlib.Path, site: traced.Site, fault: str, good: Any
) -> dict[str, Any]:
  """Returns what became of a program in which one call failed."""
  program.prepare(box)

  record: dict[str, Any] = {
    'program': program.name,
    'fault': fault,
    'site': f'{site.event} {site.path} #{site.number}',
  }
  spoil = lambda: traced.spoil(box, site, fault)
  end = children.run(program.call(box, spoil), box.parent / 'struck.txt')
  record['first'] = end.kind
  if end.kind == 'sentence':
    record['said'] = end.text.rpartition('error: ')[2].strip()
  elif end.kind not in ('done', 'killed'):
    record['said'] = end.text[-3000:]
  # Where the first was told that nothing is wrong, its answer must be right.
  if end.kind == 'done':
    record['wrong'] = _differences(good, program.left(box, end.text))
  again = children.run(program.call(box), box.parent / 'again.txt')
  record['again'] = again.kind
  if again.kind == 'done':
    text = again.text
    record['lost'] = _differences(good, program.left(box, text))
  else:
    record['again_said'] = again.text[-3000:]
  return record


def _differences(good: Any, found: Any) -> list[str]:
  if isinstance(good, dict) and isinstance(found, dict):
    return [
      f'{key}: {line}' if line else str(key)
      for key in sorted({*good, *found}, key=str)
      for line in (
        _differences(good[key], found[key])
        if key in good and key in found
        else ['only one has it']
      )
    ]
  return [] if good == found else [f'{str(good)[:80]} != {str(found)[:80]}']


def main() -> None:
  parser = argparse.ArgumentParser(description='See README.md.')
  parser.add_argument('--points', type=int, default=240)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--only', default='', help='names of programs, a,b; default: all'
  )
  parser.add_argument('--workdir', type=pathlib.Path, default='runs/faults')
  given = parser.parse_args()
  root = given.workdir.resolve()
  root.mkdir(parents=True, exist_ok=True)
  box, rng = root / 'box', random.Random(given.seed)
  records = root / f'points-{given.seed}.jsonl'
  chosen = [
    program
    for program in programs(root)
    if not given.only or program.name in given.only.split(',')
  ]
  traces = {p.name: (p, *sites(p, box)) for p in chosen}
  # Of calls alike but for their number, three are enough.
  points = []
  for name, (_, found, _) in traces.items():
    few = [site for site in dict.fromkeys(found) if site.number < 3]
    print(f'{name}: {len(found)} calls, of which {len(few)} differ', flush=True)
    pairs = [(name, site, fault) for site in few for fault in FAULTS]
    points += [p for p in pairs if p[2] != 'full' or p[1].writes]
  rng.shuffle(points)
  with records.open('w') as file:
    for number, (name, site, fault) in enumerate(points[: given.points], 1):
      program, _, good = traces[name]
      record = strike(program, box, site, fault, good)
      file.write(json.dumps(record) + '\n')
      file.flush()
      print(number, json.dumps(record)[:300], flush=True)


if __name__ == '__main__':
  main()
