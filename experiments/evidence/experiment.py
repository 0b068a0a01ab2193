"""Runs what the experiments on the paper's claims share.

The task is configs/few_fashion.py, or another that the experiment names. A run
is one training, of one seed, in a folder of its own under --workdir; the seed
also draws which images train. A run that is finished is not repeated, one that
was stopped resumes, and experiments share runs: give them the same --workdir.
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import importlib.metadata
import json
import pathlib
import runpy
import shutil
import subprocess
from typing import Any

from evidence.comparing import compare
from evidence.comparing import Errors
from evidence.comparing import table
from evidence.pictures import plot
from slimjax import configuration
from slimjax import files
from slimjax.runtime.measuring import describe_device
from slimjax.train import train_and_evaluate
from slimjax.training.log import read_metrics
from slimjax.training.runs import defaults

ROOT = pathlib.Path(__file__).resolve().parents[2]
FEW_FASHION = ROOT / 'configs' / 'few_fashion.py'
QUICK_MODEL = 'resnet14'  # the first to compile
EIGHT = (0.125, 0.175, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What the command line says.

  Attributes:
    folder: folder of the experiment.
    workdir: folder of the runs.
    out: folder of result.json and the pictures.
    seeds: number of runs of everything.
    config: file of the configuration that the runs vary.
    own: file of the configuration that the folder's result is of.
    data_dir: folder of the data; None leaves it to the configuration.
    networks: names of the networks that are compared with ones alone; empty
      leaves them to the experiment.
    alone_widths: widths that are also trained alone; empty: all.
    quick: whether networks are tiny, only to see that everything works.
    used: folders of the runs so far.
  """

  folder: pathlib.Path
  workdir: pathlib.Path
  out: pathlib.Path
  seeds: int
  config: pathlib.Path
  own: pathlib.Path
  data_dir: str | None
  networks: tuple[str, ...]
  alone_widths: tuple[float, ...]
  quick: bool
  used: set[pathlib.Path] = dataclasses.field(default_factory=set)

  @classmethod
  def parse(
    cls,
    script: str,
    arguments: list[str] | None,
    own: pathlib.Path = FEW_FASHION,
  ) -> 'Experiment':
    """Reads a script's arguments.

    Args:
      script: the script's `__file__`.
      arguments: arguments of the script; None takes those of sys.argv.
      own: file of the configuration that the experiment is about; default:
        configs/few_fashion.py.
    """
    folder = pathlib.Path(script).resolve().parent
    parser = argparse.ArgumentParser(
      description=f'See {folder.name}/README.md.'
    )
    add = parser.add_argument
    add('--workdir', type=pathlib.Path, help='folder of the runs')
    add('--out', type=pathlib.Path, help='folder of result.json and pictures')
    add('--seeds', type=int, help='number of runs of everything; default: 5')
    add('--config', type=pathlib.Path, default=own)
    add('--data_dir', help='folder of the data, if the configuration has none')
    add('--networks', default='', help='networks to compare, with commas')
    add('--alone', default='', help='widths trained alone too; default: all')
    add('--quick', action='store_true', help='tiny, only to see that it works')
    given = parser.parse_args(arguments)
    if given.seeds is not None and given.seeds < 1:
      parser.error('--seeds must be at least 1')
    # Runs of one configuration are shared, those of two are not.
    task = '' if own == FEW_FASHION else f'_{own.stem}'
    workdir = given.workdir or pathlib.Path('runs') / (
      f'evidence{task}_quick' if given.quick else f'evidence{task}'
    )
    # A quick result, or one of another configuration, is not the folder's.
    config = given.config.resolve()
    keeps = not given.quick and config == own
    return cls(
      folder=folder,
      workdir=workdir,
      out=given.out or (folder if keeps else workdir / folder.name),
      seeds=given.seeds or (2 if given.quick else 5),
      config=config,
      own=own,
      data_dir=given.data_dir,
      networks=tuple(filter(None, given.networks.split(','))),
      alone_widths=tuple(map(float, filter(None, given.alone.split(',')))),
      quick=given.quick,
    )

  @property
  def published(self) -> bool:
    """Returns whether the configuration is not the experiment's own."""
    return self.config != self.own

  def get(self, seed: int, **model: Any) -> Any:
    """Returns the configuration of a seed, with options of the model."""
    config = runpy.run_path(str(self.config))['get_config']()
    config.seed = seed
    if 'split_seed' in config.data:
      config.data.split_seed = seed
    if self.data_dir is not None:
      config.data.data_dir = self.data_dir
    config.model.update(model)
    if self.quick:
      part = 'backbone' if 'backbone' in config.model else 'name'
      config.model[part] = QUICK_MODEL
      config.model.widths = tuple(w / 4 for w in config.model.widths[:2])
      config.batch_size = 32
      config.epochs = 1
      config.eval_every_epochs = 1
      config.log_every_steps = 1
      if config.data.name == 'idx':  # any set of files will do
        config.data.update(train_images=None, held_out=16)
      elif config.data.name == 'digit_scenes':
        config.data.update(train_scenes=32, test_scenes=4)
    return config

  def train(self, name: str, config: Any, **hooks: Any) -> pathlib.Path:
    """Returns the folder of a finished run; trains it if it is not finished."""
    path = self.workdir / f'{name}_seed{config.seed}'
    self.used.add(path)
    done = path / 'results.json'
    if done.exists():
      found = configuration.differences(
        json.loads((path / 'config.json').read_text()),
        configuration.as_plain(config),
        defaults(config),
      )
      lines = found.refused + found.said
      if lines:
        raise ValueError(
          f'{path} is a run with another configuration; take another'
          ' --workdir:\n  ' + '\n  '.join(lines)
        )
      return path
    print(f'--- {path}', flush=True)
    path.mkdir(parents=True, exist_ok=True)
    files.write_text(path / 'commit.txt', _commit())
    if train_and_evaluate(config, path, **hooks) is None:
      raise SystemExit('stopped; the same command resumes')
    for old in sorted(
      (p for p in (path / 'checkpoints').iterdir() if p.name.isdigit()),
      key=lambda p: int(p.name),
    )[:-1]:
      shutil.rmtree(old)  # the last is enough of so many runs
    return path

  def errors(
    self,
    name: str,
    get: Callable[[int], Any],
    *,
    score: str = 'top1_error',
    **hooks: Any,
  ) -> Errors:
    """Returns test errors of a variant, or other scores of it.

    Args:
      name: begin of the names of its runs' folders.
      get: function that gives the configuration of a seed.
      score: name of the score in results.json; default: the top-1 error.
      **hooks: see `slimjax.train.train_and_evaluate`.
    """
    found: Errors = {}
    for seed in range(self.seeds):
      path = self.train(name, get(seed), **hooks)
      for width, error in errors_of(path, score).items():
        found.setdefault(width, []).append(error)
    return found

  def individual(
    self, prefix: str, widths: Any, get: Callable[[int, float], Any]
  ) -> Errors:
    """Returns test errors of networks trained alone.

    Args:
      prefix: begin of the names of their runs' folders.
      widths: widths of the networks.
      get: function that gives the configuration of a seed and a width.
    """
    found: Errors = {}
    for width in widths:
      name = f'{prefix}_alone_{width}'
      found.update(self.errors(name, lambda seed, w=width: get(seed, w)))
    return found

  def models(self) -> list[str]:
    """Returns the names of the models that are compared with ones alone."""
    name = self.get(0).model.name
    if self.networks:
      return list(self.networks)
    return [name] if self.published or self.quick else [name, 'resnet14']

  def both(self, name: str) -> tuple[Errors, Errors]:
    """Returns test errors of networks trained alone, and of the slimmable one.

    Args:
      name: name of the model.
    """
    individual = self.individual(
      name,
      self.alone_widths or self.get(0).model.widths,
      lambda seed, width: self.alone(seed, width, name=name),
    )
    slimmable = self.errors(
      f'{name}_slimmable', lambda seed: self.get(seed, name=name)
    )
    return individual, slimmable

  def alone(self, seed: int, width: float, **model: Any) -> Any:
    """Returns the configuration of a network trained alone."""
    config = self.get(seed, **model)
    config.model.widths = (width,)
    config.eval_every_epochs = config.epochs
    return config

  def conclude(self, title: str, errors: Mapping[str, Errors]) -> None:
    """Writes picture, table and result.json of two variants."""
    (first, before), (second, after) = errors.items()
    plot(self.out / 'errors.png', title, errors)
    print(table(first, before, second, after))
    self.write(
      {'errors': errors, f'{second} - {first}': compare(before, after)}
    )

  def write(self, result: Mapping[str, Any], name: str = 'result.json') -> None:
    """Writes a file of OUT, with the commits and machine of the runs."""
    commits = {(path / 'commit.txt').read_text() for path in self.used}
    record = {
      'commits': sorted(commits),
      'machine': describe_device('jax'),
      'jax': importlib.metadata.version('jax'),
      'seeds': self.seeds,
      **result,
    }
    self.out.mkdir(parents=True, exist_ok=True)
    files.write_json(self.out / name, record, indent=1)


def errors_of(
  path: pathlib.Path, score: str = 'top1_error'
) -> dict[str, float]:
  """Returns test errors of a finished run, or another score, by width."""
  hint = 'Run the same script again: it trains what is missing'
  results = files.read_json(path / 'results.json', hint)
  return {str(row['width']): row[score] for row in results}


def curve(path: pathlib.Path, split: str, name: str) -> dict[str, list]:
  """Returns one metric of a run: {width: [[epoch, value], ...]}."""
  found: dict[str, list] = {}
  for record in read_metrics(path):
    if record['split'] == split:
      points = found.setdefault(str(record['width']), [])
      points.append([record['epoch'], record[name]])
  return found


def _commit() -> str:
  def git(*arguments):
    command = ['git', '-C', str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode else 'unknown'

  dirty = git('status', '--porcelain', '--untracked-files=no')
  return git('rev-parse', '--short=12', 'HEAD') + '-dirty' * bool(dirty)
