"""Damages bundles in many ways, and uses them: nothing may be silently wrong.

    python experiments/fault_injection/bundles.py --out=runs/faults --seed=1

Writes a bundle of a tiny network, damages a copy of it for each trial, most
with hashes that fit again, loads, verifies and asks it; likewise tables of
benchmarks. Prints the table of README.md; OUT/bundles.json has every trial.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(sys.path[0], 'tests')))

import bundles as shared
import jax
import manifest_damages
import numpy as np
import program_damages
import table_damages
import tiny_net
import trials

import slimjax
from slimjax import cli
from slimjax import runtime
from slimjax.data import digits

WIDTHS = (0.25, 0.5)
# A value of these fields is a description, which may be any of its type.
_DESCRIPTIONS = (
  'preprocessing',
  'validation',
  'versions',
  'source',
  'measured',
  'model',
  'headline',
  'class_names',
  'sha256',
  'files',
  'decode',
  'outputs',
)


def write_base(path: pathlib.Path) -> None:
  """Writes the bundle that is damaged: both formats, any batch, latencies."""
  data = digits.create()
  model = slimjax.create_model(tiny_net.NAME, num_classes=10, widths=WIDTHS)
  variables = slimjax.init(model, jax.random.key(0), image_size=shared.SIZE)
  runtime.export(
    model,
    shared.randomised(model, variables),
    path,
    image_size=shared.SIZE,
    preprocess=data.preprocess,
    preprocessing=data.preprocessing,
    class_names=data.class_names,
    decode=data.decode,
    errors={0.25: 9.0, 0.5: 4.0},
    validation={'data': 'digits', 'examples': 360},
    source={'run': 'runs/digits', 'step': 660},
    outputs='logits',
    sample=digits.load('test')['image'][:4],
    platforms=('cpu',),
    formats=('jax', 'onnx'),
  )
  table = runtime.load(path).benchmark(rounds=3, batch_sizes=(1, 2))
  runtime.record(table, path)
  table.save(path.with_name('table.json'))


@functools.cache
def images() -> np.ndarray:
  return digits.load('train')['image'][:4]


@functools.cache
def expected(base: pathlib.Path, backend: str) -> dict[Any, np.ndarray]:
  return _answers(runtime.load(base, backend=backend, batch_sizes=()))


def _answers(net: runtime.Network) -> dict[Any, np.ndarray]:
  return {w: np.asarray(net(images(), width=w)) for w in net.widths}


def run(
  base: pathlib.Path, folder: pathlib.Path, damage: Any, backend: str
) -> tuple[str, str]:
  """Returns the outcome of using a damaged copy of the bundle."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(base, folder)
  damage(folder)
  try:
    net = runtime.load(folder, backend=backend, prepare='use', batch_sizes=())
    net.verify()
    found = _answers(net)
    net.memory()
    predictor = slimjax.load(folder, backend=backend)
    said = f'{predictor!r} {predictor.predict(images())[0]}'
  except Exception as error:
    return _of_error(error, folder)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  same = {*found} == {*expected(base, backend)} and all(
    shared.close(found[w], answer, 1e-3)
    for w, answer in expected(base, backend).items()
  )
  strange = _strange(runtime.bundle.read_manifest(base), net.manifest)
  if same and not strange:
    return trials.RIGHT, said
  return trials.WRONG, f'other answers: {not same}; other fields: {strange}'


def _of_error(error: Exception, path: pathlib.Path) -> tuple[str, str]:
  """Returns whether an error is one that a user can act on."""
  text = str(error)
  named = str(path) in text or path.name in text
  if cli.is_user_error(error) and named and len(text.splitlines()) <= 15:
    return trials.REFUSED, text
  return trials.BARE, f'{type(error).__name__}: {text[:500]}'


def _strange(one: Any, other: Any) -> list[str]:
  """Returns the fields that differ, and could not be any of their type."""
  changed = []
  for field in dataclasses.fields(one):
    old, new = getattr(one, field.name), getattr(other, field.name)
    if old == new or field.name in _DESCRIPTIONS:
      continue
    if field.name == 'widths' and len(old) == len(new):
      for a, b in zip(old, new, strict=True):
        changed += [f'widths.{name}' for name in _strange(a, b)]
    elif not _may_be(field.name, new):
      changed.append(field.name)
  return changed


def _may_be(name: str, value: Any) -> bool:
  """Returns whether a number could have been measured or counted."""
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if name in ('macs', 'params'):
    return number and isinstance(value, int) and value >= 0
  if name in ('error', 'latency_ms'):
    low = 0 if name == 'latency_ms' else -math.inf
    return value is None or (number and low < value < math.inf)
  if name == 'input_range':
    return value is None or value[0] < value[1]
  return name == 'default_width' and value in WIDTHS


def run_table(
  base: pathlib.Path, path: pathlib.Path, damage: Any
) -> tuple[str, str]:
  """Returns the outcome of reading and using a damaged table."""
  content = base.with_name('table.json').read_bytes()
  path.write_bytes(damage(content))
  try:
    table = runtime.Table.load(path)
    controller = runtime.Controller(table, budget_ms=5.0)
    said = controller.explain()
  except Exception as error:
    return _of_error(error, path)
  return trials.WRONG, said


def make(seed: int, out: pathlib.Path) -> list[trials.Trial]:
  """Returns all trials, the same for the same seed."""
  base, folder = out / 'base', out / f'trial_{os.getpid()}'
  found = []
  for kind, name, damage, backend in (
    *manifest_damages.make(np.random.default_rng([seed, 0]), base),
    *program_damages.make(np.random.default_rng([seed, 1]), base),
  ):
    act = functools.partial(run, base, folder, damage, backend)
    found.append(trials.Trial(kind, name, act))
  content = json.loads((out / 'table.json').read_text())
  path = out / f'table_{os.getpid()}.json'
  for kind, name, damage in table_damages.make(
    np.random.default_rng([seed, 2]), content
  ):
    act = functools.partial(run_table, base, path, damage)
    found.append(trials.Trial(kind, name, act))
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--start', type=int)
  options = parser.parse_args()
  out = options.out.resolve()
  if not (out / 'table.json').exists():
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / 'base', ignore_errors=True)
    write_base(out / 'base')
  jax.config.update('jax_compilation_cache_dir', str(out / 'cache'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  made = make(options.seed, out)
  if options.start is not None:
    trials.work(made, options.start)
    return
  arguments = [f'--out={out}', f'--seed={options.seed}']
  found = trials.supervise(__file__, arguments)
  lines = [
    {'kind': t.kind, 'damage': t.name, 'outcome': outcome, 'text': text}
    for t, (outcome, text) in zip(made, found, strict=True)
  ]
  (out / 'bundles.json').write_text(json.dumps(lines, indent=1))
  print(trials.table(made, found))


if __name__ == '__main__':
  main()
