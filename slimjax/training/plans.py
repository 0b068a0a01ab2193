"""Chooses the widths of a training step: a pure function of the step.

A plan is a frozen object: `plan(step)` gives the widths of a step, widest
first, and `plan.widths` all that it ever gives, so that the number of programs
is known before the first step. A run that resumes asks it again.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

from slimjax.widths import Width


class WidthPlan(Protocol):
  """What the loop asks of a plan.

  Attributes:
    widths: all the widths it ever gives, widest first.
  """

  @property
  def widths(self) -> tuple[Width, ...]: ...

  def __call__(self, step: int) -> tuple[Width, ...]:
    """Returns the widths of a step, widest first.

    Args:
      step: optimiser steps done before it, from 0.
    """


@dataclasses.dataclass(frozen=True)
class AllWidths:
  """Every width in every step, as in the paper's algorithm 1.

  Attributes:
    widths: the model's widths, widest first.
  """

  widths: tuple[Width, ...]

  def __call__(self, step: int) -> tuple[Width, ...]:
    return self.widths


def check_plan(found: Any, known: Sequence[Width], what: str) -> None:
  """Raises ValueError if what a user's name stands for is no width plan.

  Args:
    found: object that it makes.
    known: widths of the model.
    what: key and name in errors, such as "config.plan.name 'a:b'".
  """
  widths = getattr(found, 'widths', None)
  if not callable(found) or not isinstance(widths, tuple) or not widths:
    raise ValueError(
      f'{what}: {type(found).__name__} is no width plan: plan(step) gives the'
      ' widths of a step, plan.widths is the tuple of all that it gives; see'
      ' slimjax.training.plans.WidthPlan'
    )
  strange = [width for width in widths if width not in known]
  if strange:
    raise ValueError(
      f'{what} gives the widths {strange}, which are not among those of the'
      f' model, {tuple(known)}'
    )


# Plans by the name in a configuration; they are called with `widths` (all that
# the model has, widest first) and the other keys of the section `plan`.
PLANS: dict[str, Callable[..., WidthPlan]] = {'all': AllWidths}
