"""Holds what the programs share: flags, configurations by name, short errors.

A program is a module with a docstring that says how it is called, and:

  def main(argv: Sequence[str]) -> None:
    train_and_evaluate(_CONFIG.value, _WORKDIR.value)


  if __name__ == '__main__':
    _CONFIG = cli.define_config()
    _WORKDIR = flags.DEFINE_string('workdir', None, 'Folder.', required=True)
    cli.run(main)
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dis
import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import traceback
import types
from typing import Any

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_dict
from ml_collections import config_flags

from slimjax import configs
from slimjax import naming
from slimjax import nets
from slimjax.configs import common  # type: ignore[attr-defined]

_SOURCE = pathlib.Path(__file__).parent
# Errors of these types that our code raises itself are about what a user gave.
_USER_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
# What absl says of a required flag that is not given.
_REQUIRED = re.compile(r'flag --(\w+)=None: Flag --\1 must have .* None\.')

# A flag that is defined here is the calling program's, and in its --help.
flags.disclaim_key_flags()


def run(main: Callable[[Sequence[str]], Any], *, positionals: str = '') -> None:
  """Parses the flags of sys.argv, runs a program, and ends the process.

  What a user got wrong is told in a few lines on stderr, with exit status 1, or
  2 where the command line itself is wrong; --traceback shows where it was
  raised. Other errors are bugs, and keep their traceback.

  Args:
    main: function of the program's name and the positional arguments.
    positionals: the positional arguments as in a usage line, such as 'BUNDLE',
      or 'WORKDIR...' for one or more; default: none.
  """
  flags.DEFINE_bool(
    'traceback', False, 'Whether an error is shown with its traceback.'
  )

  def parse(arguments: Sequence[str]) -> list[str]:
    with _short_errors():
      rest = flags.FLAGS(_last_overrides(arguments))
      if flags.FLAGS['verbosity'].using_default_value:
        flags.FLAGS.verbosity = logging.WARNING  # type: ignore[assignment]
      return rest

  def checked(argv: Sequence[str]) -> Any:
    with _short_errors():
      _check_positionals(argv[1:], positionals)
      return main(argv)

  app.run(checked, flags_parser=parse)


def define_config(
  name: str = 'config',
  *,
  required: bool = True,
  purpose: str = 'Configuration of the run',
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """Defines a flag that takes a configuration, and overrides of its keys.

  `--config=digits` is one of ours by name, `--config=my/own.py` a file with a
  function `get_config`; `--config.epochs=5` overrides a key. An override that
  is given twice counts as given last. The value is a locked `ConfigDict`.

  Args:
    name: name of the flag; default: config.
    required: whether the program cannot do without; default: yes.
    purpose: begin of the flag's help, without a full stop; default:
      'Configuration of the run'.
    flag_values: flags among which it is defined; default: all others.
  """
  names = ', '.join(configurations())
  holder = config_flags.DEFINE_config_file(
    name,
    None,
    f'{purpose}: a name ({names}), or a file of your own;'
    f' --{name}.KEY=VALUE overrides a key.',
    flag_values=flag_values,
  )
  # The flag finds the overrides and their types; what it overrides is ours.
  flag_values[name].parser = _ConfigParser(name)
  if required:
    flags.register_validator(
      name,
      lambda config: config is not None,
      f'a configuration is needed: a name ({names}), or a file of your own',
      flag_values,
    )
  return holder


def configurations() -> dict[str, pathlib.Path]:
  """Returns the files of our configurations by name, in alphabetical order."""
  files = [
    path
    for folder in configs.__path__
    for path in pathlib.Path(folder).glob('*.py')
  ]
  return {
    path.stem: path
    for path in sorted(files)
    if path.stem not in ('__init__', 'common')
  }


class ConfigError(flags.Error):
  """A configuration cannot be found, is wrong, or lacks an overridden key."""


class _ConfigParser(flags.ArgumentParser):
  """Makes the configuration that a flag's text names."""

  syntactic_help = 'a name, or a path of a Python file'

  def __init__(self, flag: str):
    self._flag = flag

  def parse(self, argument: str) -> config_dict.ConfigDict:
    # As in ml_collections, the text behind a colon goes to `get_config`.
    name, *options = argument.split(':', 1)
    path = self._find(name)
    module = self._load(path)
    make = getattr(module, 'get_config', None)
    if make is None:
      raise ConfigError(f'{path} has no function get_config')
    with self._located(path):
      config = make(*options)
    if not isinstance(config, config_dict.ConfigDict):
      raise ConfigError(
        f'get_config of {path} must return a ConfigDict, got'
        f' {type(config).__name__}'
      )
    _complete(config)
    for key in _overrides(sys.argv, self._flag):
      self._check(config, key)
    config.lock()
    return config

  def flag_type(self) -> str:
    return 'configuration'

  def _find(self, name: str) -> pathlib.Path:
    known = configurations()
    if name in known:
      return known[name]
    path = pathlib.Path(name).expanduser()
    if path.is_file():
      return path
    folder = path.parent
    files = [str(folder / other.name) for other in folder.glob('*.py')]
    # configs/digits.py is digits where the repository is not.
    similar = naming.near(name, files) or naming.near(path.stem, known)
    raise ConfigError(
      f'--{self._flag}={name}: there is no such file in {pathlib.Path.cwd()},'
      f' and no such name; by name there are {", ".join(known)}{similar}'
    )

  def _load(self, path: pathlib.Path) -> types.ModuleType:
    naming.look_here()
    # It has a name of its own, or it would hide a package.
    name = f'{self._flag}_file'
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with self._located(path):
      loader.exec_module(module)
    return module

  @contextlib.contextmanager
  def _located(self, path: pathlib.Path) -> Iterator[None]:
    """Turns an error in a configuration's file into one that names the line."""
    try:
      yield
    except Exception as error:
      lines = [
        f'{frame.filename}, line {frame.lineno}: {frame.line}'
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename) == path
      ]
      text = ''.join(traceback.format_exception_only(error)).strip()
      raise ConfigError(
        '\n  '.join([f'{path} cannot be used', *lines, text])
      ) from error

  def _check(self, config: config_dict.ConfigDict, key: str) -> None:
    """Raises ConfigError if an override is of a key that does not exist."""
    node: Any = config
    where = self._flag
    for part in key.split('.'):
      if not isinstance(node, config_dict.ConfigDict):
        raise ConfigError(
          f'{where} is {node!r}, which has no keys; got --{key}'
        )
      part, bracket, _ = part.partition('[')
      if part not in node:
        raise ConfigError(
          f'{where} has no key {part!r}; there are {", ".join(node)}'
          + naming.near(part, node)
        )
      if bracket:
        return  # An item of a list is ml_collections' to check.
      where = f'{where}.{part}'
      node = node[part]


def _complete(config: config_dict.ConfigDict) -> None:
  """Adds the keys of `init`, with which any configuration may begin.

  A configuration of a user's own, written without them, takes them on the
  command line as ours do.
  """
  with config.unlocked():
    section = config.get('init')
    if section is None:
      section = config.init = config_dict.ConfigDict()
    if isinstance(section, config_dict.ConfigDict):
      ours = common.get_config().init
      for key, value in ours.items(preserve_field_references=True):
        if key not in section:
          section[key] = value


def _overrides(arguments: Sequence[str], flag: str) -> list[str]:
  """Returns the keys that arguments override, such as 'model.widths'."""
  pattern = re.compile(rf'--?(?:no)?{re.escape(flag)}\.([^=]+)')
  matches = [pattern.match(argument) for argument in arguments]
  return [match[1] for match in matches if match]


def _last_overrides(arguments: Sequence[str]) -> list[str]:
  """Returns the arguments without --a.b=VALUE that are given again later.

  Without this, ml_collections joins the tuples that are given for one key.
  """
  kept: dict[str, str] = {}
  for number, argument in enumerate(arguments):
    match = re.match(r'--?(\w+\.[^=]+)=', argument)
    key = match[1] if match else f'={number}'
    kept.pop(key, None)
    kept[key] = argument
  return [_with_channels(argument) for argument in kept.values()]


def _with_channels(argument: str) -> str:
  """Returns --config.model.widths=@nets.json with the channels of the file.

  So the configuration of the run records them.
  """
  key, _, value = argument.partition('=')
  named = key.endswith('.model.widths') and value.startswith(nets.SIGN)
  return f'{key}={tuple(nets.expand(value))!r}' if named else argument


def _check_positionals(given: Sequence[str], usage: str) -> None:
  """Raises app.UsageError unless the arguments are those of a usage line."""
  names = usage.split()
  many = usage.endswith('...')
  if len(given) < len(names):
    raise app.UsageError(
      f'an argument is missing: {names[len(given)].removesuffix("...")}'
    )
  if len(given) > len(names) and not many:
    raise app.UsageError(
      f'unexpected arguments: {" ".join(given[len(names) :])}'
    )


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
  """Ends the process with a few lines after an error of the user's."""
  try:
    yield
  except (app.UsageError, flags.Error) as error:
    _stop(error, 2)
  except KeyboardInterrupt:
    print('error: interrupted', file=sys.stderr)
    sys.exit(130)
  except Exception as error:
    if not is_user_error(error):
      raise
    _stop(error, 1)


def _stop(error: Exception, status: int) -> None:
  if _wants_traceback():
    traceback.print_exception(error)
  else:
    text = _REQUIRED.sub(r'--\1 is needed', str(error))
    hint = '' if error.__cause__ is None else '\n(--traceback shows the cause)'
    print(f'error: {text}{hint}', file=sys.stderr)
  sys.exit(status)


def _wants_traceback() -> bool:
  """Returns the value of --traceback, also where another flag is wrong."""
  flag = flags.FlagValues()
  flags.DEFINE_bool('traceback', False, '', flag_values=flag)
  try:
    flag(sys.argv, known_only=True)
  except flags.Error:
    return False
  return flag.traceback


def is_user_error(error: BaseException) -> bool:
  """Returns whether our code raised an error, about what it was given.

  A ValueError that arises elsewhere, or in a call that our code makes, is a
  bug: only one that a `raise` in our source made counts.
  """
  if not isinstance(error, _USER_ERRORS) or error.__traceback__ is None:
    return False
  where = error.__traceback__
  while where.tb_next is not None:
    where = where.tb_next
  code = where.tb_frame.f_code
  raised = dis.opname[code.co_code[where.tb_lasti]] == 'RAISE_VARARGS'
  return raised and pathlib.Path(code.co_filename).is_relative_to(_SOURCE)
