"""Overrides configurations with nonsense: one clear error, and nothing written.

    python experiments/fault_injection/configurations.py --out=runs/faults

Starts a run of the digits with each override, as `slimjax.train` does, up to
where its folder is opened: what gets there is accepted. Prints the table of
README.md; OUT/configurations.json has every trial.
"""

import argparse
import functools
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(sys.path[0], 'tests')))

import jax
import numpy as np
import tiny_net
import trials

from slimjax import cli
from slimjax.training import loop

NAN, INF = float('nan'), float('inf')
_NUMBERS = (NAN, INF, -INF, -1.0, 'much', True, None, [1.0], 10**400)
_COUNTS = (0, -1, 1.5, NAN, INF, 'many', True, [3], 2**64, 10**15)
_FLAGS = (0, 1, 'yes', None, [True], NAN)
_TEXTS = (3, True, [], {}, NAN, '\0')

# Keys, and values that make no sense there.
WRONG: dict[str, tuple] = {
  'seed': (-1, 1.5, NAN, 'x', True, None, 2**64, [0]),
  'batch_size': (*_COUNTS, None, 1438),
  'eval_batch_size': (*_COUNTS, 10**10),
  'epochs': _COUNTS,
  'log_every_steps': _COUNTS,
  'eval_every_epochs': _COUNTS,
  'checkpoint_every_minutes': (-1, 0.5, NAN, 'x', True, 10**15),
  'compilation_cache_dir': ('', '/proc/none', '/dev/null/cache', 3, '\0'),
  'model': (None, 3, 'mobilenet_v1', []),
  'model__name': ('', 'mobilenet', 3, None, 'tiny_net:Nothing', 'os:path'),
  'model__num_classes': (0, -1, 9, 10.0, True, 'ten', NAN, 2**40),
  'model__widths': (
    (), 0.5, 'thin', (0.25, 0.25), (100.0,), (True,), (-0.25,), (NAN,), (INF,),
    (0.25, None), ((8, 16),), ((0, 1, 2),), ('wide',), (1e-9,),
    ((8.5, 16, 32),),
  ),
  'model__dtype': ('float64', 'float8_e4m3fn', 'int32', 'fast', 3, None, ''),
  'model__small_stem': _FLAGS,
  'model__remat': _FLAGS,
  'model__axis_name': ('batch', 3, True),
  'model__shared': ('norm', 3, (3,), ('nrom',)),
  'model__typo': (1,),
  'data__name': ('digit', 'Digits', '', 3, None, 'tiny_net:Nothing'),
  'data__max_shift': (*_NUMBERS, 1e9),
  'data__max_degrees': (*_NUMBERS, 1e9),
  'data__max_zoom': (*_NUMBERS, 1.0, 50.0),
  'data__train_images': (0, -1, 1797, 10**9, 1.5, 'all', True, None),
  'data__split_seed': (-1, 1.5, 'x', True, 2**64, None),
  'optimizer__momentum': (*_NUMBERS, 1.0, 2.0),
  'optimizer__nesterov': _FLAGS,
  'optimizer__weight_decay': (*_NUMBERS, 10.0),
  'optimizer__clip_norm': (0, 0.0, -1.0, NAN, INF, 'x', True),
  'optimizer__typo': (1,),
  'schedule__name': ('', 'cosin', 3, None, [], 'multi_step'),
  'schedule__peak_lr': (*_NUMBERS, 0.0, 1e30),
  'schedule__warmup_epochs': (*_NUMBERS, 1e30),
  'schedule__warmup_steps': (-1, 0.5, NAN, 'x', True, None),
  'schedule__warmup_start': (-0.5, 1.5, NAN, 'x', True),
  'schedule__factor': (0.5, NAN, 'x', True),
  'schedule__epochs': ((1, 2), 'x', 3),
  'schedule': (
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': (2, 1)},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': ()},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': ('a',)},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': (1, 1)},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': (NAN,)},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.1, 'epochs': (-3, 1)},
    {'name': 'multi_step', 'peak_lr': 0.1, 'factor': 0.0, 'epochs': (1,)},
    {'name': 'exponential', 'peak_lr': 0.1, 'factor': 0.0},
    {'name': 'exponential', 'peak_lr': 0.1, 'factor': -0.9},
    {'name': 'exponential', 'peak_lr': 0.1, 'factor': 1e9},
    {'name': 'exponential', 'peak_lr': 0.1, 'factor': NAN},
  ),
  'loss__label_smoothing': (*_NUMBERS, 1.0, 5.0),
  'loss__inplace_distillation': _FLAGS,
  'loss__typo': (1,),
  'task': (None, 'classification', {}, {'name': 'clasification'}, {'name': 3}),
  'plan': (
    None, {}, {'name': 'al'}, {'name': []}, {'name': 'all', 'random': 2},
    {'name': 'sandwich', 'random': -1}, {'name': 'sandwich', 'bounds': 0},
    {'name': 'sandwich', 'random': 1.5}, {'name': 'sandwich', 'bounds': 10**9},
  ),
  'init__source': (3, '', '/none', True),
  'init__epsilon': (*_NUMBERS, 0.0),  # of no source
  'init__sort': ('l3', 3, 'l1'),
  'init__freeze': (3, 'nothing_such', '*', ('a', 3)),
  'init__rate_factors': (3, 'stem', 'stem=0', 'stem=nan', 'stem=x', 'no=2'),
  'typo': (1,),
}  # fmt: skip
# Overrides that are all right, to see that a trial can end otherwise.
RIGHT: dict[str, tuple] = {
  'epochs': (1, 1000),
  'model__widths': ((0.25,), (0.125, 0.5), ((8, 16, 32), (16, 32, 64))),
  'model__dtype': ('bfloat16',),
  'optimizer__clip_norm': (1.0, None),
  'optimizer__momentum': (0, 0.5),
  'schedule__warmup_epochs': (0, 3),
  'data__max_shift': (0, 2),
  'loss__label_smoothing': (0, 0.1),
  'compilation_cache_dir': (None,),
}


class AcceptedError(Exception):
  """The run would begin."""


def run(key: str, value: object, right: bool, folder: pathlib.Path):
  """Returns the outcome of a run with one override."""

  def accept(*args, **kwargs):
    raise AcceptedError

  loop.open_session = accept
  jax.config.update('jax_compilation_cache_dir', None)
  shutil.rmtree(folder, ignore_errors=True)
  try:
    # As plain dicts, since ConfigDict turns True into 1.0 by itself.
    config = tiny_net.get_config(epochs=1).to_dict()
    *sections, name = key.split('__')
    functools.reduce(dict.get, sections, config)[name] = value
    loop.train_and_evaluate(config, folder)
  except AcceptedError:
    return (trials.RIGHT if right else trials.WRONG), 'the run would begin'
  except Exception as error:
    text = str(error)
    lines = len(text.splitlines())
    # It names the key or its section, or the path that was given.
    names = {*key.split('__'), str(value).strip('/')}
    clear = cli.is_user_error(error) and lines <= 20
    clear = clear and any(name and name in text for name in names)
    if folder.exists():
      return trials.BARE, f'something was written: {text}'
    if not clear or right:
      return trials.BARE, f'{type(error).__name__}: {text[:700]}'
    return trials.REFUSED, text
  return trials.WRONG, 'the run ended'


def make(seed: int, out: pathlib.Path) -> list[trials.Trial]:
  """Returns all trials, in an order that the seed draws."""
  found = []
  for right, overrides in ((False, WRONG), (True, RIGHT)):
    for key, values in overrides.items():
      for value in values:
        section = key.partition('__')[0] if '__' in key else 'the run'
        act = functools.partial(run, key, value, right, out / 'workdir')
        name = f'{key.replace("__", ".")} = {str(value)[:40]}'
        kind = 'configurations: right' if right else f'configuration: {section}'
        found.append(trials.Trial(kind, name, act))
  order = np.random.default_rng(seed).permutation(len(found))
  return [found[i] for i in order]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--start', type=int)
  options = parser.parse_args()
  out = options.out.resolve()
  out.mkdir(parents=True, exist_ok=True)
  made = make(options.seed, out)
  if options.start is not None:
    trials.work(made, options.start)
    return
  arguments = [f'--out={out}', f'--seed={options.seed}']
  found = trials.supervise(__file__, arguments)
  lines = [
    {'kind': t.kind, 'override': t.name, 'outcome': outcome, 'text': text}
    for t, (outcome, text) in zip(made, found, strict=True)
  ]
  (out / 'configurations.json').write_text(json.dumps(lines, indent=1))
  print(trials.table(made, found))


if __name__ == '__main__':
  main()
