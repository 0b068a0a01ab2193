"""Two processes train and score a detector as one does."""

import pytest
from several import started
import small_scenes

from slimjax.train import train_and_evaluate
from slimjax.training.log import read_metrics

TIMINGS = {'images_per_second', 'step_ms', 'input_wait'}
CONFIG = f'--config={small_scenes.__file__}'


@pytest.mark.complete
def test_two_processes_are_one(tmp_path):
  workdir, reference = tmp_path / 'two', tmp_path / 'one'
  # Losses are normalised by device: as many in all as this process has.
  with started(workdir, 2, (CONFIG,), devices=2) as (processes, outputs):
    states = [process.wait(timeout=600) for process in processes]
    assert states == [0, 0], [output.read_text() for output in outputs]
  train_and_evaluate(small_scenes.get_config(), reference)
  found, expected = read_metrics(workdir), read_metrics(reference)
  assert len(found) == len(expected) == 5  # four steps, and the scores
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one.keys() - TIMINGS:
      if isinstance(one[name], float):
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name
      else:
        assert one[name] == other[name], name
