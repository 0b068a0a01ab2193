"""Runs what the experiments on the paper's claims share.

The task is configs/few_digits.py, or another that the experiment names. A run
is one training, of one seed, in a folder of its own under --workdir; the seed
also draws which images train. A run that is finished is not repeated, one that
was stopped resumes, and experiments share runs: give them the same --workdir.

Differences are paired by seed. Their p-values are those of a two-sided paired
t-test, of each width alone and of the mean over the widths: nothing is
corrected for testing several. Of a single seed there is neither a spread nor a
p-value, and the tables say so.
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
import statistics
import subprocess
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scipy import stats

from slimjax import configuration
from slimjax import files
from slimjax import plots
from slimjax.runtime.measuring import describe_device
from slimjax.train import train_and_evaluate
from slimjax.training.log import read_metrics
from slimjax.training.runs import defaults

ROOT = pathlib.Path(__file__).resolve().parents[1]
FEW_DIGITS = ROOT / 'configs' / 'few_digits.py'
QUICK_MODEL = 'resnet14'  # the first to compile
EIGHT = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
Errors = dict[str, list[float]]  # by width, in the order of the seeds


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
    own: pathlib.Path = FEW_DIGITS,
  ) -> 'Experiment':
    """Reads a script's arguments.

    Args:
      script: the script's `__file__`.
      arguments: arguments of the script; None takes those of sys.argv.
      own: file of the configuration that the experiment is about; default:
        configs/few_digits.py.
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
    task = '' if own == FEW_DIGITS else f'_{own.stem}'
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
      config.model.name = QUICK_MODEL
      config.model.widths = tuple(w / 4 for w in config.model.widths[:2])
      config.epochs = 1
      config.eval_every_epochs = 1
      config.log_every_steps = 1
      if config.data.name == 'idx':  # any set of files will do
        config.data.update(train_images=None, held_out=16)
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
    self, name: str, get: Callable[[int], Any], **hooks: Any
  ) -> Errors:
    """Returns test errors of a variant.

    Args:
      name: begin of the names of its runs' folders.
      get: function that gives the configuration of a seed.
      **hooks: see `slimjax.train.train_and_evaluate`.
    """
    found: Errors = {}
    for seed in range(self.seeds):
      path = self.train(name, get(seed), **hooks)
      for width, error in errors_of(path).items():
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

  def both(self, name: str, *, factor: float = 1.0) -> tuple[Errors, Errors]:
    """Returns test errors of networks trained alone, and of the slimmable one.

    Args:
      name: name of the model.
      factor: factor of the learning rate; default: 1.
    """

    def scaled(config):
      config.schedule.peak_lr *= factor
      return config

    prefix = _prefix(name, factor)
    individual = self.individual(
      prefix,
      self.alone_widths or self.get(0).model.widths,
      lambda seed, width: scaled(self.alone(seed, width, name=name)),
    )
    slimmable = self.errors(
      f'{prefix}_slimmable', lambda seed: scaled(self.get(seed, name=name))
    )
    return individual, slimmable

  def eight(self, name: str, *, factor: float = 1.0) -> Errors:
    """Returns test errors of the slimmable one with eight widths (table 4)."""

    def get(seed):
      config = self.get(seed, name=name, widths=EIGHT)
      if self.quick:
        config.model.widths = (0.0625, 0.125, 0.1875)
      config.schedule.peak_lr *= factor
      return config

    return self.errors(f'{_prefix(name, factor)}_slimmable8', get)

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


def _prefix(name: str, factor: float) -> str:
  return name if factor == 1.0 else f'{name}_rate{factor}'


def errors_of(path: pathlib.Path) -> dict[str, float]:
  """Returns test errors of a finished run by width."""
  hint = 'Run the same script again: it trains what is missing'
  results = files.read_json(path / 'results.json', hint)
  return {str(row['width']): row['top1_error'] for row in results}


def curve(path: pathlib.Path, split: str, name: str) -> dict[str, list]:
  """Returns one metric of a run: {width: [[epoch, value], ...]}."""
  found: dict[str, list] = {}
  for record in read_metrics(path):
    if record['split'] == split:
      points = found.setdefault(str(record['width']), [])
      points.append([record['epoch'], record[name]])
  return found


def compare(before: Errors, after: Errors) -> dict[str, dict[str, Any]]:
  """Returns what `after` changes, at each common width and in their mean.

  Of a single seed the standard error and the p-value are None.
  """
  before, after = _with_mean(before, after), _with_mean(after, before)
  compared: dict[str, dict[str, Any]] = {}
  for width in before:
    pairs = zip(before[width], after[width], strict=True)
    differences = [b - a for a, b in pairs]
    if len(differences) < 2:
      compared[width] = {
        'difference': differences[0],
        'standard_error': None,
        'p': None,
      }
      continue
    deviation = statistics.stdev(differences)
    compared[width] = {
      'difference': statistics.mean(differences),
      'standard_error': deviation / len(differences) ** 0.5,
      'p': float(stats.ttest_1samp(differences, 0.0).pvalue)
      if deviation
      else float(not any(differences)),
    }
  return compared


def _with_mean(errors: Errors, other: Errors) -> Errors:
  """Returns the widths that both have, and the mean over them of each seed."""
  common = {width: errors[width] for width in errors if width in other}
  if len(common) < 2:
    return common
  mean = [statistics.mean(s) for s in zip(*common.values(), strict=True)]
  return {**common, 'mean': mean}


def table(first: str, before: Errors, second: str, after: Errors) -> str:
  """Returns both and their differences in Markdown, for the README."""
  compared = compare(before, after)
  before, after = _with_mean(before, after), _with_mean(after, before)
  lines = [
    f'| width | {first} | {second} | difference | p |',
    '|---|---|---|---|---|',
  ]
  for width, row in compared.items():
    change, p = f'{row["difference"]:+.2f}', 'one seed'
    if row['p'] is not None:
      change += f' ± {row["standard_error"]:.2f}'
      p = '< 0.001' if row['p'] < 0.001 else f'{row["p"]:.3f}'
    lines.append(
      f'| {width} | {spread(before[width])} | {spread(after[width])}'
      f' | {change} | {p} |'
    )
  return '\n'.join(lines)


def plot(path: pathlib.Path, title: str, variants: Mapping[str, Errors]):
  """Saves test errors by width with their deviations, a colour per variant."""
  figure, axes = _figure(title)
  widths = sorted(
    {w for errors in variants.values() for w in errors}, key=float
  )
  for number, (name, errors) in enumerate(variants.items()):
    offset = 0.12 * (number - (len(variants) - 1) / 2)
    x = [widths.index(w) + offset for w in errors]
    axes.errorbar(
      x,
      [statistics.mean(e) for e in errors.values()],
      [_deviation(e) for e in errors.values()],
      marker='o',
      linestyle='none',
      capsize=3,
      label=name,
    )
    for place, values in zip(x, errors.values(), strict=True):
      axes.plot(
        [place] * len(values), values, '.', color='0.5', alpha=0.6, markersize=4
      )
  axes.set_xticks(range(len(widths)), [f'{w}x' for w in widths])
  axes.set(xlabel='width', ylabel='test error, %')
  axes.set_ylim(bottom=0)
  axes.legend()
  _save(figure, path)


def plot_curves(
  path: pathlib.Path,
  title: str,
  variants: Mapping[str, Mapping[str, list]],
  ylabel: str,
):
  """Saves [[epoch, value], ...] by variant (a style) and width (a colour)."""
  figure, axes = _figure(title)
  widths = sorted({w for lines in variants.values() for w in lines}, key=float)
  for style, (variant, lines) in zip(
    ('-', '--'), variants.items(), strict=True
  ):
    for width, points in lines.items():
      axes.plot(
        *zip(*points, strict=True),
        style,
        color=f'C{widths.index(width)}',
        label=f'{variant}, {width}x',
      )
  axes.set(xlabel='epoch', ylabel=ylabel)
  axes.set_ylim(bottom=0)
  figure.legend(loc='outside right upper', fontsize='small')
  _save(figure, path)


def _deviation(errors: list[float]) -> float:
  return statistics.stdev(errors) if len(errors) > 1 else 0.0


def spread(errors: list[float]) -> str:
  """Returns mean and deviation, as tables show them."""
  text = f'{statistics.mean(errors):.2f}'
  return text + (f' ± {_deviation(errors):.2f}' if len(errors) > 1 else '')


def _figure(title):
  figure = plots.figure((6.4, 4))
  axes = figure.add_subplot(title=title)
  axes.grid(alpha=0.3)
  return figure, axes


def _save(figure, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  plots.save(figure, path)
  print(f'wrote {path}')


def _commit() -> str:
  def git(*arguments):
    command = ['git', '-C', str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode else 'unknown'

  dirty = git('status', '--porcelain', '--untracked-files=no')
  return git('rev-parse', '--short=12', 'HEAD') + '-dirty' * bool(dirty)
