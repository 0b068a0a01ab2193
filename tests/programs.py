"""Runs a program in this process, which has imported and compiled before.

What a process of its own shows (a kill, a signal, an import that must not be
made) still needs one.
"""

import contextlib
import io
import os
import runpy
import sys
import types
from unittest import mock
import warnings

from absl import app
from absl.testing import flagsaver
import pytest

from slimjax.training import processes


def call(module, *arguments, **environment):
  """Does what `python -m MODULE ARGUMENTS` does, and forgets its flags.

  Args:
    module: name of the module.
    *arguments: words of the command line.
    **environment: environment variables to set.

  Returns:
    An object with `returncode`, `stdout` and `stderr`, as of a process.
  """
  app.define_help_flags()  # else the first program's are the only ones
  out, err = io.StringIO(), io.StringIO()
  with (
    flagsaver.flagsaver(),
    mock.patch.object(sys, 'argv', [module, *map(str, arguments)]),
    mock.patch.dict(os.environ, environment),
    # jax has begun, too late to join other processes.
    mock.patch.object(processes, 'joined', contextlib.nullcontext),
    warnings.catch_warnings(),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    # The module may have been imported before.
    warnings.filterwarnings('ignore', '.*found in sys.modules', RuntimeWarning)
    with pytest.raises(SystemExit) as ended:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
  return types.SimpleNamespace(
    returncode=ended.value.code or 0,
    stdout=out.getvalue(),
    stderr=err.getvalue(),
  )
