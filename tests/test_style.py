"""One tool for lint and format, one for types; both find nothing."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  'command', [['ruff', 'check'], ['ruff', 'format', '--check'], ['mypy']]
)
def test_nothing_to_complain_of(command):
  result = subprocess.run(
    [sys.executable, '-m', *command],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
