"""Processes that wait at a place of a run until a test lets them go on."""

from tiny_net import RUN_MODULE


def held(name, when):
  """Returns arguments of a python that runs a module, and waits in a call.

  It says so, and waits for the file WORKDIR.go.

  Args:
    name: name of the method, below slimjax.training.
    when: expression of its arguments `a` and the number `n` of the call.
  """
  code = f"""
import itertools, pathlib, sys, time
from slimjax.training import evaluator, progress
was, numbers = {name}, itertools.count(1)
def held(*a):
  n = next(numbers)
  if {when}:
    print('held', flush=True)
    workdir, = [x.split('=')[1] for x in sys.argv if x.startswith('--workdir=')]
    while not pathlib.Path(workdir + '.go').exists():
      time.sleep(0.01)
  return was(*a)
{name} = held
{RUN_MODULE}
"""
  return '-c', code


def held_in_step(step):
  """Returns arguments of a python that waits after a step of training."""
  return held('progress.Progress.step', f'a[1] == {step}')


def is_held(output):
  """Returns whether it waits; `output` is the file of what it says."""
  return 'held\n' in output.read_text()
