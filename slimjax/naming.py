"""Finds what a configuration names: one of ours, or something of a user's."""

from collections.abc import Iterable
from collections.abc import Mapping
import difflib
import importlib
import os
import pkgutil
import sys
from typing import Any


def resolve(name: str, known: Mapping[str, Any], what: str) -> Any:
  """Returns what a name stands for: a class, or a function that makes one.

  Args:
    name: a key of `known`, or 'package.module:Name' of a user's own code, which
      is imported from the folder that the program is started in, or from
      wherever else Python finds it.
    known: ours by name; an empty name is not listed.
    what: key of the name in errors, such as 'config.model.name'.

  Raises:
    ValueError: there is nothing of that name, or it cannot be called.
  """
  if isinstance(name, str) and name and name in known:
    return known[name]
  if isinstance(name, str) and ':' in name:
    return _import(name, what)
  names = [key for key in known if key]
  raise ValueError(
    f'unknown {what} {name!r}; there are {", ".join(names)}{near(name, names)}'
    f'{colon_hint(name)}'
  )


def near(name: str, names: Iterable[str]) -> str:
  """Returns '; is it NAME or NAME?' of the names most like one, or ''."""
  found = difflib.get_close_matches(str(name), list(names), n=3)
  return f'; is it {" or ".join(found)}?' if found else ''


def colon_hint(name: str) -> str:
  """Returns how a name such as 'my_package.nets.Net' is written, or ''."""
  module, _, attribute = str(name).rpartition('.')
  parts = [*module.split('.'), attribute]
  if not module or not all(part.isidentifier() for part in parts):
    return ''
  return f"; a name of your own has a colon: '{module}:{attribute}'"


def name_of(thing: Any) -> str | None:
  """Returns the 'package.module:Name' by which `resolve` finds a thing.

  Args:
    thing: a class or a function.

  Returns:
    None where there is no such name: it was made inside a function, or in the
    script or notebook that runs.
  """
  module = getattr(thing, '__module__', None) or '__main__'
  name = getattr(thing, '__qualname__', '')
  if module == '__main__' or not name.isidentifier():
    return None
  found = getattr(sys.modules.get(module), name, None)
  return f'{module}:{name}' if found is thing else None


def look_here() -> str:
  """Returns the current folder, from which modules can be imported now.

  `python -m` looks there first by itself, a console script does not.
  """
  here = os.getcwd()
  if here not in sys.path and '' not in sys.path:
    sys.path.insert(0, here)
  return here


def _import(name: str, what: str) -> Any:
  module_name, _, attribute = name.partition(':')
  parts = [*module_name.split('.'), attribute]
  if not all(part.isidentifier() for part in parts):
    raise ValueError(
      f"{what} {name!r}: a name of your own is written 'package.module:Name',"
      " such as 'my_package.nets:Tiny'"
    )
  here = look_here()
  importlib.invalidate_caches()
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    # What the module itself fails to import is an error of its own.
    missing = error.name or ''
    if not f'{module_name}.'.startswith(f'{missing}.'):
      raise
    raise ValueError(
      f'{what} {name!r}: there is no module {missing}, neither in {here} nor'
      f' installed{near(missing, _beside(missing, here))}'
    ) from error
  if not hasattr(module, attribute):
    names = [key for key in vars(module) if not key.startswith('_')]
    raise ValueError(
      f'{what} {name!r}: {module_name} ({module.__file__}) has no'
      f' {attribute}{near(attribute, names)}'
    )
  found = getattr(module, attribute)
  if not callable(found):
    raise ValueError(
      f'{what} {name!r} is {found!r}; a class or a function is needed'
    )
  return found


def _beside(module_name: str, here: str) -> list[str]:
  """Returns the modules in the folder where one was looked for."""
  parent, _, _ = module_name.rpartition('.')
  folders = getattr(
    sys.modules.get(parent), '__path__', [] if parent else [here]
  )
  prefix = f'{parent}.' if parent else ''
  return [prefix + module.name for module in pkgutil.iter_modules(folders)]
