"""Runs a program by name: `slimjax train` is `python -m slimjax.train`."""

import ast
import importlib.util
import pathlib
import runpy
import sys

import slimjax
from slimjax import naming

PROGRAMS = (
  'train',
  'evaluate',
  'calibrate',
  'search',
  'predict',
  'export',
  'benchmark',
  'report',
  'visualize',
  'verify',
)


def main() -> int:
  """Runs the program that sys.argv names, and returns the exit status."""
  name, *arguments = sys.argv[1:] or ['--help']
  if name in ('--help', '-h', 'help'):
    print(usage())
    return 0
  if name == '--version':
    print(slimjax.__version__)
    return 0
  if name not in PROGRAMS:
    print(
      f'error: unknown program {name!r}; there are {", ".join(PROGRAMS)}'
      + naming.near(name, PROGRAMS),
      file=sys.stderr,
    )
    return 2
  sys.argv = [name, *arguments]
  runpy.run_module(f'slimjax.{name}', run_name='__main__', alter_sys=True)
  return 0


def usage() -> str:
  """Returns the programs, with a line on each, and the version."""
  lines = [f'  {name:<10} {_first_line(name)}' for name in PROGRAMS]
  return '\n'.join(
    [
      f'slimjax {slimjax.__version__}: {slimjax.__doc__}',
      '',
      'slimjax PROGRAM [--FLAGS], or python -m slimjax.PROGRAM [--FLAGS]',
      '',
      *lines,
      '',
      'slimjax PROGRAM --help lists the flags of a program.',
    ]
  )


def _first_line(name: str) -> str:
  """Returns how a program's docstring begins; importing it would take long."""
  spec = importlib.util.find_spec(f'slimjax.{name}')
  assert spec is not None
  assert spec.origin is not None
  text = pathlib.Path(spec.origin).read_text()
  return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]


if __name__ == '__main__':
  sys.exit(main())
