"""The table at the end of a run, on terminals of any width."""

import pytest

from slimjax.tasks import Classification
from slimjax.tasks.detection.task import Detection
from slimjax.training.results import print_results
from slimjax.training.results import Result
from slimjax.variables.profile import Profile


def printed(task, columns, monkeypatch, capsys):
  """Returns the lines of a table in which every number has all its digits."""
  monkeypatch.setenv('COLUMNS', str(columns))
  scores = {metric.name: 31.24 for metric in task.metrics}
  results = [
    Result(width, Profile(123_000_000, 44_300_000, 0, 0), scores, 100)
    for width in (0.25, tuple(range(1, 50)))
  ]
  print_results(results, task.metrics, 'a detector on photos')
  return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
  'task, columns, bordered',
  [(Detection(), 80, False), (Detection(), 120, True),
   (Classification(), 80, True)],
)  # fmt: skip
def test_all_of_the_table_fits(task, columns, bordered, monkeypatch, capsys):
  lines = printed(task, columns, monkeypatch, capsys)
  assert max(map(len, lines)) <= columns
  assert any('┃' in line for line in lines) == bordered
  (header,) = (line for line in lines if 'MACs' in line)
  for metric in task.metrics:
    assert metric.title in header
  assert 'parameters' in header
  rows = [line for line in lines if '123 M' in line]
  assert len(rows) == 2
  for row in rows:
    assert row.count('31.24 %') == len(task.metrics)
    assert '44.3 M' in row
