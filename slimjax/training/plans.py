"""Which widths a training step has: a pure function of the step.

A plan is a frozen object: `plan(step)` gives the widths of a step, widest
first, and `plan.widths` all that it ever gives, so that the number of programs
is known before the first step. A run that resumes asks it again.
"""

from collections.abc import Callable
import dataclasses
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


# Plans by the name in a configuration; they are called with `widths` (all that
# the model has, widest first) and the other keys of the section `plan`.
PLANS: dict[str, Callable[..., WidthPlan]] = {'all': AllWidths}
