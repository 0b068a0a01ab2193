"""Runs a search of any strategy, from a trace on."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

from etils import epath

from slimjax.data.batches import Batch
from slimjax.searching.costs import Cost
from slimjax.searching.evolution import evolve
from slimjax.searching.greedy import greedy
from slimjax.searching.problem import Found
from slimjax.searching.problem import Problem
from slimjax.searching.scoring import Scorer
from slimjax.searching.trace import Trace

# Strategies by name: functions of a problem, a score and a trace.
STRATEGIES: dict[str, Callable[..., list[Found]]] = {
  'greedy': greedy,
  'rise_per_cost': functools.partial(greedy, rule='rise_per_cost'),
  'evolution': evolve,
}


def chosen_cost(
  macs: Cost,
  table: Cost | None,
  target_macs: Sequence[float],
  target_ms: Sequence[float],
) -> Cost:
  """Returns what the targets are of.

  Raises:
    ValueError: there are targets of both or of none, or no table.
  """
  if bool(target_macs) == bool(target_ms):
    raise ValueError('give either target_macs or target_ms')
  if target_macs:
    return macs
  if table is None:
    raise ValueError(
      'target_ms needs a table of latencies, of slimjax.searching.latency'
    )
  return table


def split_batches(batch: Batch, size: int) -> list[Batch]:
  """Returns whole batches of `size` examples; what is left over is left out."""
  examples = len(next(iter(batch.values())))
  return [
    {name: array[start : start + size] for name, array in batch.items()}
    for start in range(0, examples - size + 1, size)
  ]


def run_search(
  problem: Problem,
  scorer: Scorer,
  *,
  strategy: str = 'greedy',
  trace: epath.PathLike | None = None,
  writes: bool = True,
  on_step: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Found]:
  """Returns the networks under some targets, largest first.

  Args:
    problem: what is slimmed, and how far.
    scorer: scorer of the candidates.
    strategy: name of one of `STRATEGIES`; default: greedy.
    trace: file that keeps every step; default: none.
    on_step: function called with each step; default: none.
    writes: whether this process writes the trace; default: yes.

  Raises:
    ValueError: there is no such strategy, or the trace is of another search.
  """
  if strategy not in STRATEGIES:
    raise ValueError(
      f'strategy must be one of {", ".join(STRATEGIES)}, got {strategy!r}'
    )
  about = {**problem.describe(), 'strategy': strategy, **scorer.describe()}
  steps = Trace(trace, about, writes=writes)
  return STRATEGIES[strategy](
    problem, scorer, steps, follow=scorer.follow, on_step=on_step
  )
