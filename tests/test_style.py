"""One tool for lint and format, one for types; both find nothing."""

import subprocess
import sys

from places import ROOT
import pytest


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
