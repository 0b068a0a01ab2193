"""The command line: names, configurations, errors that a user reads."""

import configparser
import runpy
import subprocess
import sys
import textwrap

from absl import app
from absl import flags
from places import ROOT
import pytest

import slimjax
from slimjax import __main__ as programs
from slimjax import cli
from slimjax import naming
from slimjax import units


def write(path, text):
  path.write_text(textwrap.dedent(text))
  return path


@pytest.fixture
def here(tmp_path, monkeypatch):
  """Returns the folder of programs, which is not on sys.path yet."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.path', [p for p in sys.path if p])
  before = set(sys.modules)
  yield tmp_path
  for name in set(sys.modules) - before:
    del sys.modules[name]


# Names.


def test_a_name_is_one_of_ours():
  known = {'mobilenet_v1': int, 'resnet50': str, '': float}
  assert naming.resolve('resnet50', known, 'model') is str
  message = "^unknown model 'vgg'; there are mobilenet_v1, resnet50$"
  with pytest.raises(ValueError, match=message):
    naming.resolve('vgg', known, 'model')
  with pytest.raises(ValueError, match='resnet50; is it resnet50\\?'):
    naming.resolve('resnet5', known, 'model')
  for wrong in ('', 3, ['resnet50'], None):
    with pytest.raises(ValueError, match='unknown model'):
      naming.resolve(wrong, known, 'model')


def test_a_name_is_imported_from_the_current_folder(here):
  (here / 'own_package').mkdir()
  write(here / 'own_package/__init__.py', '')
  write(here / 'own_package/nets.py', 'class Tiny: pass\nSIZE = 3\n')
  write(here / 'own_package/broken.py', 'import not_installed_anywhere\n')

  def resolve(name):
    return naming.resolve(name, {}, 'config.model.name')

  assert resolve('own_package.nets:Tiny').__name__ == 'Tiny'
  for name, message in {
    'own_package.nets:Tiney': r'nets\.py\) has no Tiney; is it Tiny\?',
    'own_package.nets:SIZE': 'is 3; a class or a function is needed',
    'own_package.net:Tiny': (
      'no module own_package.net, .*; is it own_package.nets'
    ),
    'own_packag.nets:Tiny': f'no module own_packag, neither in {here} nor'
    ' installed; is it own_package',
    'own_package/nets.py:Tiny': "is written 'package.module:Name'",
    'own_package.nets:': "is written 'package.module:Name'",
    ':Tiny': "is written 'package.module:Name'",
  }.items():
    with pytest.raises(ValueError, match=f'^config.model.name.*{message}'):
      resolve(name)
  with pytest.raises(ModuleNotFoundError, match='not_installed_anywhere'):
    resolve('own_package.broken:Tiny')


# Configurations.

OWN = """
  from slimjax.configs import digits

  def get_config(epochs='7'):
    config = digits.get_config()
    config.epochs = int(epochs)
    return config
  """


@pytest.fixture
def parse(monkeypatch):
  def parse(*arguments, **options):
    monkeypatch.setattr('sys.argv', ['program', *arguments])
    values = flags.FlagValues()
    holder = cli.define_config(flag_values=values, **options)
    values(cli._last_overrides(sys.argv))
    return holder.value

  return parse


def test_a_configuration_by_name_or_file(here, parse):
  own = write(here / 'own.py', OWN)
  assert parse('--config=digits').schedule.name == 'cosine'
  assert parse('--config', 'resnet50').epochs == 100
  assert parse('--config=own.py').epochs == 7
  assert parse(f'--config={own}').epochs == 7
  assert parse('--config=own.py:9').epochs == 9
  assert parse(f'--config={ROOT}/configs/digits.py').epochs == 30
  assert parse(required=False) is None
  with pytest.raises(flags.Error, match='a configuration is needed: a name'):
    parse()


def test_overrides(parse):
  config = parse(
    '--config=digits',
    '--config.epochs=2',
    '--config.epochs=5',
    '--config.model.widths=(0.25,)',
    '--config.model.widths=(0.5,1.0)',
    '--config.optimizer.clip_norm=2.5',
    '--noconfig.optimizer.nesterov',
    '--config.model.remat',
  )
  assert config.epochs == 5
  assert config.model.widths == (0.5, 1.0)
  assert config.optimizer.clip_norm == 2.5
  assert not config.optimizer.nesterov
  assert config.model.remat
  with pytest.raises(AttributeError, match='locked'):
    config.batchsize = 3
  for override, message in {
    'batchsize=3': "config has no key 'batchsize'; there are .*, seed.*; is it"
    ' batch_size',
    'model.width=1': "config.model has no key 'width'; .*; is it widths?",
    'epochs.x=1': 'config.epochs is 30, which has no keys',
    'epochs=five': 'config.epochs=five: invalid literal',
  }.items():
    with pytest.raises(flags.Error, match=message) as error:
      parse('--config=digits', f'--config.{override}')
    assert '\n' not in str(error.value)


def test_a_configuration_that_does_not_exist(here, parse):
  write(here / 'own.py', OWN)
  for name, near in {
    'didgits': 'digits',
    'configs/digits.py': 'digits',
    'on.py': 'own.py',
  }.items():
    with pytest.raises(
      flags.Error,
      match=f'--config={name}: there is no such file in {here}, and no such'
      f' name; by name there are .*digits, .*; is it {near}',
    ):
      parse(f'--config={name}')


def test_an_error_in_a_configuration_names_its_line(here, parse):
  for text, message in {
    OWN.replace('digits.get_config()', 'digits.get_config().modle'): (
      r'own.py, line 5: config = .*\n  AttributeError: .*modle'
    ),
    OWN.replace('digits', 'digit'): "line 2: .*\n  ImportError: .*'digit'",
    'def get_config(:\n': r'own.py.*, line 1\n(.*\n)*SyntaxError',
    'get = 1': 'own.py has no function get_config',
    'def get_config(): pass': 'must return a ConfigDict, got NoneType',
  }.items():
    write(here / 'own.py', text)
    with pytest.raises(flags.Error, match=message):
      parse('--config=own.py')


# Programs.


def test_only_what_our_code_raises_is_a_users_error():
  def caught(function):
    with pytest.raises(Exception) as error:  # noqa: PT011
      function()
    return error.value

  assert cli.is_user_error(caught(lambda: naming.resolve('x', {}, 'model')))
  # Raised by others, by a call that our code makes, or of another type.
  assert not cli.is_user_error(caught(lambda: int('x')))
  assert not cli.is_user_error(caught(lambda: units.count(float('nan'))))
  assert not cli.is_user_error(caught(lambda: slimjax.nothing))


def test_an_interruption_is_a_line(capsys):
  with pytest.raises(SystemExit) as ended, cli._short_errors():
    raise KeyboardInterrupt
  assert ended.value.code == 130
  assert capsys.readouterr().err == 'error: interrupted\n'


def test_positional_arguments():
  for usage, right, wrong in (
    ('', (), 'a'),
    ('BUNDLE', ('a',), ()),
    ('BUNDLE', ('a',), 'ab'),
    ('RUN...', 'abc', ()),
  ):
    cli._check_positionals(right, usage)
    with pytest.raises(app.UsageError):
      cli._check_positionals(wrong, usage)


PROGRAM = """
  from absl import flags

  from slimjax import cli
  from slimjax import naming

  def main(argv):
    if _CONFIG.value.epochs == 1:
      raise ValueError('a bug')
    print(naming.resolve('x:y', {}, 'model'))

  if __name__ == '__main__':
    _CONFIG = cli.define_config()
    flags.DEFINE_string('workdir', None, 'Folder.', required=True)
    cli.run(main)
  """


@pytest.mark.parametrize(
  'arguments, status, begin, lines',
  [
    ('--config=digits', 1, "error: model 'x:y': there is no module x", 2),
    ('--config=digits --traceback=True', 1, 'Traceback', None),
    ('--config=digits --config.epochs=1', 1, 'Traceback', None),
    ('--config=digit', 2, 'error: --config=digit: there is no such file', 1),
    ('--config=digits --config.a=3', 2, "error: config has no key 'a'", 1),
    ('--config=digits --confg=1', 2, 'error: Unknown command line flag', 1),
    ('--config=digits more', 2, 'error: unexpected arguments: more', 1),
    ('', 2, 'error: flag --config=None: a configuration is needed', 1),
    ('--config=digits --workdir', 2, 'error: --workdir is needed', 1),
  ],
)
def test_errors_are_short(tmp_path, arguments, status, begin, lines):
  """The program imports no jax, and takes a quarter of a second."""
  program = write(tmp_path / 'program.py', PROGRAM)
  workdir = [] if arguments.endswith('--workdir') else ['--workdir=x']
  given = arguments.removesuffix('--workdir').split()
  done = subprocess.run(
    [sys.executable, program, *given, *workdir],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stderr
  assert begin in done.stderr
  if lines:
    assert done.stderr.startswith(begin)
    assert len(done.stderr.splitlines()) == lines


@pytest.mark.parametrize(
  'arguments, wanted',
  [
    ('--traceback', True),
    ('-traceback --confg=1', True),
    ('--traceback=1', True),
    ('--traceback=False', False),
    ('--traceback --notraceback', False),
    ('--workdir=traceback', False),
    ('--traceback=perhaps', False),
  ],
)
def test_a_traceback_is_shown_where_it_is_asked_for(
  monkeypatch, arguments, wanted
):
  monkeypatch.setattr('sys.argv', ['program', *arguments.split()])
  assert cli._wants_traceback() is wanted


@pytest.fixture
def slimjax_main(monkeypatch, capsys):
  def call(*arguments):
    monkeypatch.setattr('sys.argv', ['slimjax', *arguments])
    status = programs.main()
    return status, ''.join(capsys.readouterr())

  return call


def test_the_programs_are_listed(slimjax_main):
  for arguments in ([], ['--help'], ['-h'], ['help']):
    status, text = slimjax_main(*arguments)
    assert status == 0
    assert text.startswith(f'slimjax {slimjax.__version__}: ')
    for name in programs.PROGRAMS:
      (line,) = (
        line for line in text.splitlines() if line.startswith(f'  {name} ')
      )
      assert line.endswith('.')
  assert slimjax_main('--version') == (0, f'{slimjax.__version__}\n')
  status, text = slimjax_main('trian')
  assert status == 2
  assert text.endswith('; is it train?\n')
  assert text.startswith("error: unknown program 'trian'; there are train,")


def test_a_program_by_name_is_that_module(slimjax_main, monkeypatch):
  seen = []
  monkeypatch.setattr(
    runpy, 'run_module', lambda *args, **kw: seen.append((args, [*sys.argv]))
  )
  assert slimjax_main('train', '--config=digits') == (0, '')
  assert seen == [(('slimjax.train',), ['train', '--config=digits'])]


# Packaging.


def test_every_package_is_installed():
  """`find:` takes what has an `__init__.py`, and `configs` by its mapping."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  assert setup['options']['packages'] == 'find:'
  assert setup['options.packages.find']['include'] == 'slimjax*'
  assert setup['options']['package_dir'].strip() == 'slimjax.configs = configs'
  folders = {path.parent for path in (ROOT / 'slimjax').rglob('*.py')}
  assert ROOT / 'slimjax/configs' in folders
  for folder in [*folders, ROOT / 'configs']:
    assert (folder / '__init__.py').exists(), folder
  data = {
    ROOT / package.replace('.', '/') / name.strip()
    for package, names in setup['options.package_data'].items()
    for name in names.split(',')
  }
  others = {
    path
    for path in (ROOT / 'slimjax').rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
  }
  assert data == others
