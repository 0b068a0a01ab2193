"""Builds what a configuration names; loads finished or stopped runs."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import inspect
import os
from typing import Any

from etils import epath

from slimjax import configuration
from slimjax import files
from slimjax.data import create_dataset
from slimjax.data import find_factory
from slimjax.data.dataset import Dataset
from slimjax.data.record import differences
from slimjax.data.record import read_record
from slimjax.models import create_model
from slimjax.models import MODELS
from slimjax.models.net import SlimNet
from slimjax.naming import resolve
from slimjax.tasks import Task
from slimjax.tasks import TASKS
from slimjax.tasks.base import check_task
from slimjax.training import saved
from slimjax.training.calibrated import NONE
from slimjax.training.calibrated import read_calibrated
from slimjax.training.calibrated import with_calibrated
from slimjax.training.initial import create_init
from slimjax.training.optim import create_schedule
from slimjax.training.optim import sgd
from slimjax.training.plans import check_plan
from slimjax.training.plans import PLANS
from slimjax.training.plans import WidthPlan
from slimjax.variables import Variables
from slimjax.variables.torch_names import load_torch

CONFIG = 'config.json'


def with_classes(run: configuration.Run, dataset: Dataset) -> configuration.Run:
  """Returns a run that knows its number of classes, if need be from the data.

  Raises:
    ValueError: config.model.num_classes is None, and the data have no classes.
  """
  if run.model.get('num_classes', 0) is not None:
    return run
  if not dataset.num_classes:
    raise ValueError(
      f'config.model.num_classes must be given: {dataset.name} has no classes'
    )
  model = {**run.model, 'num_classes': dataset.num_classes}
  return dataclasses.replace(run, model=model)


def build_model(run: configuration.Run) -> SlimNet:
  """Returns the network of a run."""
  if run.model.get('num_classes', 0) is None:
    raise ValueError(
      'config.model.num_classes is None: training finds it in the data; here'
      ' give it, --config.model.num_classes=N'
    )
  return configuration.call(create_model, 'config.model', run.model)


def build_dataset(run: configuration.Run) -> Dataset:
  """Returns the data set of a run."""
  return create_dataset(run.data)


def data_differences(
  workdir: epath.PathLike,
  dataset: Dataset,
  splits: Sequence[str] | None = None,
) -> list[str]:
  """Returns how a data set differs from what a run knows of its own.

  Args:
    workdir: folder of the run; one by older code knows nothing.
    dataset: the data set as it is now.
    splits: names of splits whose examples are compared; default: all.
  """
  record = read_record(workdir)
  return [] if record is None else differences(record, dataset, splits=splits)


def check_data(
  workdir: epath.PathLike,
  dataset: Dataset,
  splits: Sequence[str] | None = None,
) -> None:
  """Raises ValueError with a line for each thing; see `data_differences`."""
  lines = data_differences(workdir, dataset, splits)
  if lines:
    raise ValueError(
      f'the data are not those that the run in {workdir} was trained on:\n  '
      + '\n  '.join(lines)
      + '\nPut them back as they were, name where they lie now'
      ' (config.data.data_dir), or train again with another --workdir.'
    )


def build_task(run: configuration.Run) -> Task:
  """Returns the task of a run."""
  options = dict(run.task)
  name = options.pop('name')
  make = resolve(name, TASKS, 'config.task.name')
  section = {**options, **run.loss}
  task = configuration.call_named(make, 'config.loss', section, name, TASKS)
  check_task(task, f'config.task.name {name!r}')
  return task


def build_plan(run: configuration.Run, model: SlimNet) -> WidthPlan:
  """Returns the width plan of a run."""
  options = dict(run.plan)
  name, widths = options.pop('name'), model.ordered_widths[::-1]
  make = resolve(name, PLANS, 'config.plan.name')
  offered = {'widths': widths, 'model': model, 'seed': run.seed}
  taken = inspect.signature(make).parameters
  plan = configuration.call_named(
    make,
    'config.plan',
    options,
    name,
    PLANS,
    **{key: value for key, value in offered.items() if key in taken},
  )
  check_plan(plan, widths, f'config.plan.name {name!r}')
  return plan


def defaults(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what the keys that a configuration leaves out stand for.

  Args:
    config: the configuration, as JSON has it.

  Returns:
    {'config.section.key': value}.
  """
  run = configuration.parse(config)
  makers = {
    'model': resolve(run.model['name'], MODELS, 'config.model.name'),
    'data': find_factory(run.data.get('name', '')),
    'loss': resolve(run.task['name'], TASKS, 'config.task.name'),
    'plan': resolve(run.plan['name'], PLANS, 'config.plan.name'),
    'schedule': create_schedule,
    'optimizer': sgd,
    'init': create_init,
  }
  found: dict[str, Any] = {
    'config.task': dict(run.task),
    'config.plan': dict(run.plan),
    'config.init': {},
  }
  for section, make in makers.items():
    for name, parameter in inspect.signature(make).parameters.items():
      # Only what JSON has can stand in a configuration.
      with contextlib.suppress(TypeError, ValueError):
        value = configuration.as_plain({name: parameter.default})[name]
        found[f'config.{section}.{name}'] = value
  return found


def read_config(
  workdir: epath.Path, say: Callable[[str], Any]
) -> dict[str, Any] | None:
  """Returns a run's configuration as JSON, or None if there is no run.

  Every checkpoint holds a copy, which counts if the file is lost or damaged.

  Args:
    workdir: folder of the run.
    say: function that is told if the copy had to be taken.

  Raises:
    ValueError: the file is lost or damaged, and no checkpoint has a copy.
    ReadError: the file cannot be read now.
  """
  path, folder = workdir / CONFIG, workdir / 'checkpoints'
  hint = 'Put it back from a copy'
  try:
    config = files.read_json(path, hint)
    if isinstance(config, dict):
      return config
    trouble = f'{path} holds no configuration. {hint}'
  except FileNotFoundError:
    if not saved.was_there(folder):
      return None
    trouble = f'{path} is missing, though there are checkpoints. {hint}'
  except files.ReadError:
    raise
  except ValueError as error:
    trouble = str(error)
  for step in saved.steps_in(folder)[::-1]:
    with contextlib.suppress(saved.DamageError):
      saved.check(folder / str(step))
      copy = saved.read_position(folder / str(step)).get('config')
      if isinstance(copy, dict):
        say(f'{trouble.rpartition(". ")[0]}; taken from the checkpoint {step}')
        return copy
  raise ValueError(trouble)


def load_run(
  workdir: epath.PathLike,
  *,
  best: bool = False,
  calibrated: bool = True,
  say: Callable[[str], Any] = files.tell,
) -> tuple[configuration.Run, SlimNet, Variables, int]:
  """Returns configuration, model, variables and step of a run's checkpoint.

  Args:
    workdir: folder of the run.
    best: whether to take the checkpoint with the least validation error; by
      default the latest. Damaged ones are passed over.
    calibrated: whether widths that were calibrated for it are among those of
      the model; default: yes.
    say: function that is told of what is damaged; default: on stderr.

  Raises:
    FileNotFoundError: there is no run, or it has no checkpoint yet.
    ValueError: none of its checkpoints is whole, or its configuration is not.
    ReadError: something cannot be read now.
  """
  workdir = files.expand(workdir, 'workdir')
  config = read_config(workdir, say)
  if config is None:
    raise FileNotFoundError(
      f'{workdir} holds no run (no {CONFIG}); train one with'
      f' python -m slimjax.train --config=... --workdir={workdir}'
    )
  run = configuration.parse(config)
  model = build_model(run)
  variables, step = saved.read_variables(
    workdir / 'checkpoints', say, best=best
  )
  found = read_calibrated(workdir, step) if calibrated else NONE
  return run, *with_calibrated(model, variables, found), step


def load_published(
  config: Mapping[str, Any], checkpoint: epath.PathLike
) -> tuple[configuration.Run, SlimNet, Variables]:
  """Returns configuration, model, and the variables of an authors' checkpoint.

  Args:
    config: configuration that names the network and the data; how it is trained
      is not read.
    checkpoint: see `slimjax.load_torch`.
  """
  run = configuration.parse(config)
  model = build_model(run)
  path = files.expand(checkpoint, 'checkpoint')
  if not path.exists():
    raise FileNotFoundError(f'there is no checkpoint {checkpoint}')
  return run, model, load_torch(model, os.fspath(path))
