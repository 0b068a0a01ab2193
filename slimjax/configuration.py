"""Configurations: their sections become keyword arguments, and nothing else.

Every section is passed whole to one function, so that a key that nothing reads
is an error, not a surprise. The top level is `Run`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import difflib
import inspect
import json
import types
import typing
from typing import Any

from etils import epath
from ml_collections import config_dict

from slimjax import checks
from slimjax import files
from slimjax.naming import near

SECTIONS = (
  'model',
  'data',
  'task',
  'plan',
  'optimizer',
  'schedule',
  'loss',
  'init',
)
# What may differ when a run resumes: 'free' values say where and how it works,
# not what it does; those that are 'said' change the run from there on, and the
# log names them.
_MAY_DIFFER = {
  'config.compilation_cache_dir': 'free',
  'config.eval_batch_size': 'free',
  'config.checkpoint_every_minutes': 'free',
  'config.data.data_dir': 'free',
  'config.data.workers': 'free',
  'config.log_every_steps': 'said',
  'config.eval_every_epochs': 'said',
  'config.data.max_corrupt': 'said',
  'config.optimizer.clip_norm': 'said',
}


@dataclasses.dataclass(frozen=True)
class Run:
  """The top level of a configuration.

  Attributes:
    seed: seed of initialisation, order and augmentation.
    batch_size: training examples in a step, over all devices.
    eval_batch_size: likewise for evaluation.
    epochs: number of passes over the training split.
    log_every_steps: steps averaged in a line of training metrics.
    eval_every_epochs: epochs between evaluations at every width, each followed
      by a checkpoint.
    compilation_cache_dir: folder that keeps compiled programs for the next
      start; None keeps none. A cache that jax has already is used as it is.
    model: arguments of `slimjax.create_model`.
    data: arguments of `slimjax.data.create_dataset`.
    optimizer: arguments of `slimjax.training.optim.sgd`.
    schedule: arguments of `slimjax.training.optim.create_schedule`.
    loss: further arguments of the task, those of its loss.
    task, plan: names and arguments of the task (default: classification) and
      of the width plan (default: all).
    init: arguments of `slimjax.training.initial.create_init`: the weights that
      the run begins with, and what of them is trained. Default: none.
    checkpoint_every_minutes: minutes after which a checkpoint is saved though
      it is not time to evaluate; 0 saves none between. Default: 10.
  """

  seed: int
  batch_size: int
  eval_batch_size: int
  epochs: int
  log_every_steps: int
  eval_every_epochs: int
  compilation_cache_dir: str | None
  model: Mapping[str, Any]
  data: Mapping[str, Any]
  optimizer: Mapping[str, Any]
  schedule: Mapping[str, Any]
  loss: Mapping[str, Any]
  task: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {'name': 'classification'}
  )
  plan: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: {'name': 'all'}
  )
  init: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  checkpoint_every_minutes: int = 10


def parse(config: config_dict.ConfigDict | Mapping[str, Any]) -> Run:
  """Returns the run that a configuration describes.

  A key that a configuration leaves out gets its default, if it has one.

  Raises:
    ValueError: keys are unknown or missing, or a number is not positive.
  """
  plain = as_plain(config)
  fields = dataclasses.fields(Run)
  check_keys(
    'config',
    plain,
    required=[f.name for f in fields if f.name not in _OPTIONAL],
    allowed=[f.name for f in fields],
  )
  for section in SECTIONS:
    if not isinstance(plain.get(section, {}), dict):
      raise ValueError(
        f'config.{section} must be a section, got'
        f' {checks.shown(plain[section])}'
      )
  for section in ('task', 'plan'):
    found = plain.get(section, {'name': ''})
    if not isinstance(found.get('name'), str):
      raise ValueError(
        f'config.{section}.name must be a text, got'
        f' {checks.shown(found.get("name"))}'
      )
  run = Run(**plain)
  for field in fields:
    value = getattr(run, field.name)
    if field.name == 'compilation_cache_dir' and value is not None:
      checks.text(f'config.{field.name}', value, least=1)
    if field.name not in _RANGES:
      continue
    least, most = _RANGES[field.name]
    checks.whole(f'config.{field.name}', value, least=least, most=most)
  return run


# The seed and the steps are 32-bit numbers of compiled programs; a batch of
# more images than that takes more memory than there is.
_RANGES = {
  'seed': (0, 2**32 - 1),
  'batch_size': (1, 2**20),
  'eval_batch_size': (1, 2**16),
  'epochs': (1, 10**6),
  'log_every_steps': (1, 10**9),
  'eval_every_epochs': (1, 10**6),
  'checkpoint_every_minutes': (0, 10**6),
}


_OPTIONAL = {
  field.name
  for field in dataclasses.fields(Run)
  if field.default_factory is not dataclasses.MISSING
  or field.default is not dataclasses.MISSING
}


def check_keys(where: str, given, *, required, allowed) -> None:
  """Raises ValueError if keys are missing, or are not read by anything."""
  lines = [f'{where}.{key} is missing' for key in required if key not in given]
  for key in given:
    if key not in allowed:
      near = difflib.get_close_matches(key, allowed, n=3)
      lines.append(
        f'{where}.{key} is not read by anything'
        + (f'; is it {" or ".join(near)}?' if near else '')
        + f'; there are {", ".join(allowed)}'
      )
  if lines:
    raise ValueError('; '.join(lines))


def call(
  function: Callable, where: str, section: Mapping[str, Any], **others: Any
) -> Any:
  """Returns `function(**section, **others)`; errors name the section."""
  check_arguments(function, where, section, others)
  _check_types(function, where, section)
  section = {key: _hashable(value) for key, value in section.items()}
  try:
    return function(**section, **others)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from error


def _check_types(
  function: Callable, where: str, section: Mapping[str, Any]
) -> None:
  """Raises ValueError if a value is not of the simple type of its argument."""
  for name, parameter in inspect.signature(function).parameters.items():
    kind = parameter.annotation
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else ()
    kinds = kinds or (kind,)
    none = type(None) in kinds
    found = [kind for kind in kinds if kind in (bool, int, float, str)]
    if name not in section or len(found) != 1 or len(kinds) != 1 + none:
      continue
    if section[name] is not None or not none:
      _TYPES[found[0]](f'{where}.{name}', section[name])


_TYPES: dict[Any, checks.Check] = {
  bool: checks.flag,
  int: checks.whole,
  float: checks.real,
  str: checks.text,
}


def call_named(
  function: Callable,
  where: str,
  section: Mapping[str, Any],
  name: str,
  known: Iterable[str],
  **others: Any,
) -> Any:
  """Returns what `call` does, of a function that the configuration names.

  The section may have been written for something of another name; the error
  then says so, and how such a section is replaced.

  Args:
    function: function that the name stands for.
    where: section of its arguments, such as 'config.data'.
    section: the arguments.
    name: name of the function in the configuration.
    known: names of ours; those most like `name` are in the error.
    **others: further arguments, which are not the configuration's.

  Raises:
    ValueError: the arguments do not fit, or the function refuses them.
  """
  try:
    check_arguments(function, where, section, others)
  except ValueError as error:
    task = where == 'config.loss'
    said = 'config.task.name' if task else f'{where}.name'
    lines = [f"config.task = {{'name': {name!r}}}"] if task else []
    keys = '...' if task else f"'name': {name!r}, ..."
    raise ValueError(
      f'{said} is {name!r}{near(name, known)}\n  {error}\nIf {where} was'
      ' written for another name, replace it whole in a configuration of your'
      ' own, my_config.py:\n  '
      + '\n  '.join(
        [
          'from slimjax.configs import digits  # or another one of ours',
          'def get_config():',
          '  config = digits.get_config()',
          '  with config.unlocked():',
          *(f'    {line}' for line in (*lines, f'{where} = {{{keys}}}')),
          '  return config',
        ]
      )
      + '\nand give --config=my_config.py'
    ) from error
  return call(function, where, section, **others)


def _hashable(value: Any) -> Any:
  """Returns lists as tuples: what they build is a key of compiled programs."""
  return tuple(map(_hashable, value)) if isinstance(value, list) else value


def check_arguments(
  function: Callable,
  where: str,
  section: Mapping[str, Any],
  others: Iterable[str],
) -> None:
  """Raises ValueError if `section` and `others` do not fit the function."""
  parameters = [
    parameter
    for name, parameter in inspect.signature(function).parameters.items()
    if name not in others
  ]
  named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
  allowed = [p.name for p in named]
  if len(named) < len(parameters):  # the function itself checks the rest
    allowed += section
  check_keys(
    where,
    section,
    required=[p.name for p in named if p.default is p.empty],
    allowed=allowed,
  )


def as_plain(config: config_dict.ConfigDict | Mapping[str, Any]) -> dict:
  """Returns the configuration as JSON has it: dicts, lists and plain values."""
  if isinstance(config, config_dict.ConfigDict):
    config = config.to_dict()
  try:
    return json.loads(json.dumps(config))
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(
      f'a configuration holds numbers, texts, lists and sections: {error}'
    ) from error


def write(config: Mapping[str, Any], path: epath.Path) -> None:
  """Writes the configuration as JSON, whole or not at all."""
  files.write_json(path, as_plain(config))


@dataclasses.dataclass(frozen=True)
class Differences:
  """The differences of two configurations, one line per value.

  Attributes:
    refused: values that make it another run; default: none.
    said: values that may change when a run resumes, which the log names;
      default: none.
  """

  refused: list[str] = dataclasses.field(default_factory=list)
  said: list[str] = dataclasses.field(default_factory=list)


def differences(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  defaults: Mapping[str, Any] | None = None,
) -> Differences:
  """Compares two configurations.

  Args:
    old: the configuration before, as read from JSON.
    new: the configuration now, likewise.
    defaults: {'config.section.key': value} of keys that either may leave out;
      default: none.
  """
  found = Differences()
  _compare(old, new, 'config', defaults or {}, found)
  return found


_MISSING = '(none)'


def _compare(old, new, where, defaults, found) -> None:
  allowed = _MAY_DIFFER.get(where)
  if allowed == 'free':
    return
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      path = f'{where}.{key}'
      default = as_plain({'value': defaults.get(path, _MISSING)})['value']
      _compare(
        old.get(key, default), new.get(key, default), path, defaults, found
      )
  elif old != new:
    line = f'{where}: {old} before, {new} now'
    (found.said if allowed == 'said' else found.refused).append(line)
