"""Configurations: their sections become keyword arguments, and nothing else.

Every section is passed whole to one function, so that a key nobody reads is an
error, not a surprise. The top level is `Run`.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import inspect
import json
from typing import Any

from etils import epath
from ml_collections import config_dict

SECTIONS = ('model', 'data', 'optimizer', 'schedule', 'loss')
# What may differ when a run goes on: where it is at work, not what it does.
_FREE = (
  'config.compilation_cache_dir',
  'config.eval_batch_size',
  'config.data.data_dir',
  'config.data.workers',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """The top level of a configuration.

  Attributes:
    seed: of initialisation, order and augmentation.
    batch_size: training examples in a step, over all devices.
    eval_batch_size: likewise for evaluation.
    epochs: passes over the training split.
    log_every_steps: steps averaged in a line of training metrics.
    eval_every_epochs: epochs between evaluations at every width, each followed
      by a checkpoint.
    compilation_cache_dir: where compiled programs are kept for the next start;
      None keeps none. A cache that jax has been told of already is used as is.
    model: arguments of `slimjax.create_model`.
    data: of `slimjax.data.create_dataset`.
    optimizer: arguments of `slimjax.optim.sgd`.
    schedule: arguments of `slimjax.optim.create_schedule`.
    loss: label_smoothing and inplace_distillation.
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


def parse(config: config_dict.ConfigDict | Mapping[str, Any]) -> Run:
  """The run a configuration describes.

  Raises:
    ValueError: keys are unknown or missing, or a number is not positive.
  """
  plain = as_plain(config)
  fields = [field.name for field in dataclasses.fields(Run)]
  check_keys('config', plain, required=fields, allowed=fields)
  for section in SECTIONS:
    if not isinstance(plain[section], dict):
      raise ValueError(f'config.{section} must be a section')
  run = Run(**plain)
  for name in fields:
    value = getattr(run, name)
    if name in SECTIONS or name == 'compilation_cache_dir':
      continue
    least = 0 if name == 'seed' else 1
    if not isinstance(value, int) or value < least:
      raise ValueError(
        f'config.{name} must be a whole number from {least} up, got {value!r}'
      )
  return run


def check_keys(where: str, given, *, required, allowed) -> None:
  """Raises ValueError if keys are missing, or are not read by anything."""
  lines = [f'{where}.{key} is missing' for key in required if key not in given]
  lines += [
    f'{where}.{key} is not read by anything; there are {", ".join(allowed)}'
    for key in given
    if key not in allowed
  ]
  if lines:
    raise ValueError('; '.join(lines))


def call(
  function: Callable, where: str, section: Mapping[str, Any], **others: Any
) -> Any:
  """`function(**section, **others)`, with errors that name the section."""
  check_arguments(function, where, section, others)
  try:
    return function(**section, **others)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from error


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
  """The configuration as JSON has it: dicts, lists, numbers, strings."""
  if isinstance(config, config_dict.ConfigDict):
    config = config.to_dict()
  return json.loads(json.dumps(config))


def write(config: Mapping[str, Any], path: epath.Path) -> None:
  """Writes the configuration as JSON, whole or not at all."""
  draft = path.with_name(path.name + '.draft')
  draft.write_text(json.dumps(as_plain(config), indent=2) + '\n')
  draft.replace(path)


def differences(old: Any, new: Any, where: str = 'config') -> list[str]:
  """One line for each value that differs and makes another run."""
  if where in _FREE:
    return []
  if isinstance(old, dict) and isinstance(new, dict):
    return [
      line
      for key in sorted({*old, *new})
      for line in differences(
        old.get(key, '(none)'), new.get(key, '(none)'), f'{where}.{key}'
      )
    ]
  return [] if old == new else [f'{where}: {old} before, {new} now']
