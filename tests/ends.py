"""What a run left in its workdir, and whether two runs ended the same."""

import jax
import numpy as np

from slimjax.training.checkpoint import Checkpoints
from slimjax.training.log import read_metrics

TIMING = ('images_per_second', 'step_ms', 'input_wait')


def lines(workdir):
  """Returns what is logged, without what time it took."""
  return [
    {key: value for key, value in record.items() if key not in TIMING}
    for record in read_metrics(workdir)
  ]


def saved(workdir):
  """Returns the steps of the whole checkpoints; a draft's name is no number."""
  folder = workdir / 'checkpoints'
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def state(workdir):
  """Returns the step and every array of the last checkpoint, by path."""
  with Checkpoints(workdir / 'checkpoints', read_only=True) as checkpoints:
    step = checkpoints.latest
    restored = checkpoints._manager.restore(step)['state']
  leaves, _ = jax.tree.flatten_with_path(restored)
  arrays = {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}
  return step, arrays


def files(folder):
  """Returns the bytes of every file below a folder, by its path there."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def assert_same_end(workdir, reference, *, last):
  """Asserts that two runs ended with the same bits.

  Args:
    workdir: workdir of one run.
    reference: workdir of the other.
    last: step at which both must have ended.
  """
  step, arrays = state(workdir)
  expected_step, expected = state(reference)
  assert step == expected_step == last
  assert arrays.keys() == expected.keys()
  different = [
    name
    for name, array in expected.items()
    if array.tobytes() != arrays[name].tobytes()
  ]
  assert different == []
  assert lines(workdir) == lines(reference)
  results = (workdir / 'results.json').read_text()
  assert results == (reference / 'results.json').read_text()
  assert saved(workdir) == saved(reference)
