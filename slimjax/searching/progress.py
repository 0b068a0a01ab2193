"""Shows a search while it goes on: a bar, or lines."""

from collections.abc import Mapping
import sys
from typing import Any

import rich.progress

from slimjax.searching.problem import Problem


class Progress:
  """Shows a bar on a terminal, plain lines elsewhere; nothing if disabled."""

  def __init__(self, *, enabled: bool = True):
    """Shows nothing yet.

    Args:
      enabled: whether this process shows anything; default: yes.
    """
    self._enabled = enabled
    self._problem: Problem | None = None
    self._bar: rich.progress.Progress | None = None
    self._task: Any = None
    self._first = 0.0

  def begin(self, problem: Problem) -> None:
    """Shows what is searched."""
    self._problem = problem
    (self._first,) = map(float, problem.cost([problem.start]))
    targets = ', '.join(map(problem.text, problem.targets))
    self.say(
      f'{len(problem.units)} units, from {problem.text(self._first)} to'
      f' {targets}'
    )
    if self._enabled and sys.stdout.isatty():
      self._bar = rich.progress.Progress(
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn('{task.description}'),
      )
      span = self._first - problem.targets[-1]
      self._task = self._bar.add_task('scoring', total=span)
      self._bar.start()

  def step(self, step: Mapping[str, Any]) -> None:
    """Shows where the search stands: cost, score, what was chosen."""
    assert self._problem is not None
    cost = self._problem.text(step['cost'])
    text = f'step {step["step"]}  {cost}  score {step["score"]:.4f}'
    if 'chosen' in step:
      text += f'  less of {step["chosen"]}'
    if self._bar is not None:
      done = self._first - step['cost']
      self._bar.update(self._task, completed=done, description=text)
    else:
      self.say(text)

  def say(self, text: str) -> None:
    """Shows a line."""
    if self._bar is not None:
      self._bar.console.print(text, highlight=False)
    elif self._enabled:
      print(text, flush=True)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: Any) -> None:
    if self._bar is not None:
      self._bar.stop()
