"""What a run left in its workdir, and whether two runs ended the same."""

from etils import epath
import jax
import numpy as np

from slimjax.training.log import read_metrics
from slimjax.training.saved import absolute
from slimjax.training.saved import read_state
from slimjax.training.saved import steps_in
from slimjax.training.saved import variables_of

TIMING = ('images_per_second', 'step_ms', 'input_wait')


def lines(workdir):
  """Returns what is logged, without what time it took."""
  return [
    {key: value for key, value in record.items() if key not in TIMING}
    for record in read_metrics(workdir)
  ]


def saved(workdir):
  """Returns the steps of the whole checkpoints; a draft's name is no number."""
  return steps_in(epath.Path(workdir) / 'checkpoints')


def variables(workdir, step):
  """Returns the variables of a checkpoint."""
  return variables_of(read_state(absolute(workdir / f'checkpoints/{step}')))


def state(workdir):
  """Returns the step and every array of the last checkpoint, by path."""
  step = saved(workdir)[-1]
  restored = read_state(absolute(workdir / f'checkpoints/{step}'))
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
