"""Greedy slimming: the unit whose step costs the least accuracy loses it.

Yu and Huang, "AutoSlim" (arXiv 1903.11728): from the widest network on, score
every network that lacks one step of one unit's channels, on fixed images, keep
the best, and record it when it is the first under a target.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from slimjax.searching.problem import Channels
from slimjax.searching.problem import Found
from slimjax.searching.problem import Problem
from slimjax.searching.problem import Score
from slimjax.searching.trace import Trace

# How a unit is chosen: by the least score, as published, or by the least rise
# of the score for what a step saves.
RULES = ('score', 'rise_per_cost')


def greedy(
  problem: Problem,
  score: Score,
  trace: Trace,
  *,
  rule: str = 'score',
  follow: Callable[[Channels], Any] = lambda channels: None,
  on_step: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Found]:
  """Returns the first network under each target, largest first.

  Args:
    problem: what is slimmed, and how far.
    score: function that scores channels [n, layers]; less is better.
    trace: steps done before; new ones are added.
    rule: 'score' (default) keeps the candidate of the least score, as
      published; 'rise_per_cost' the one whose score rises least for what it
      saves. Of equal ones the first unit is taken.
    follow: function called with the current channels before each is scored,
      such as `Scorer.follow`; also for steps done before. Default: none.
    on_step: function called with each step, also those done before; default:
      none.

  Raises:
    ValueError: there is no such rule, or a target was not reached.
  """
  if rule not in RULES:
    raise ValueError(f'rule must be one of {", ".join(RULES)}, got {rule!r}')
  channels = problem.start
  follow(channels)
  before: list[dict[str, Any]] = []

  def done(step: dict[str, Any]) -> None:
    before.append(step)
    if on_step is not None:
      on_step(step)

  for step in trace:
    follow(tuple(step['channels']))
    done(step)
  if not before:
    (now,), (cost,) = score([channels]), problem.cost([channels])
    step = _record(0, channels, now, cost)
    trace.add(step)
    done(step)
  while before[-1]['cost'] > problem.targets[-1]:
    step = _step(problem, before[-1], score, rule)
    follow(tuple(step['channels']))
    trace.add(step)
    done(step)
  return found(problem, before)


def found(problem: Problem, steps: list[dict[str, Any]]) -> list[Found]:
  """Returns the first step under each target that was reached."""
  results = []
  for target in problem.targets:
    under = [step for step in steps if step['cost'] <= target]
    if under:
      first = under[0]
      results.append(
        Found(
          channels=tuple(first['channels']),
          cost=first['cost'],
          score=first['score'],
          target=target,
        )
      )
  return results


def _step(
  problem: Problem, last: dict[str, Any], score: Score, rule: str
) -> dict[str, Any]:
  """Returns the next step."""
  channels = tuple(last['channels'])
  counts, allowed = problem.slimmed(channels)
  if not np.any(allowed):
    raise ValueError(
      f'the target {problem.text(problem.targets[-1])} was not reached: all'
      f' units have their fewest channels at {problem.text(last["cost"])}'
    )
  costs = problem.cost(counts)
  saved = last['cost'] - costs
  scores = np.full(len(counts), np.inf)
  scores[allowed] = score(counts[allowed])
  ranks = scores
  if rule == 'rise_per_cost':
    ranks = _rise_per_cost(scores - last['score'], saved, allowed)
  chosen = int(np.argmin(ranks))
  others = np.delete(ranks, chosen)
  gap = float(np.min(others) - ranks[chosen]) if len(others) else np.inf
  return {
    **_record(
      last['step'] + 1,
      tuple(counts[chosen].tolist()),
      scores[chosen],
      costs[chosen],
    ),
    'chosen': problem.names[chosen],
    'gap': gap if np.isfinite(gap) else None,
    'scores': [float(s) if np.isfinite(s) else None for s in scores],
  }


def _rise_per_cost(
  rises: np.ndarray, saved: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
  """Returns ranks, lowest first: of steps that raise nothing the largest."""
  ranks = np.full(len(rises), np.inf)
  for i in np.flatnonzero(allowed):
    if rises[i] <= 0:
      ranks[i] = -saved[i]
    elif saved[i] > 0:
      ranks[i] = rises[i] / saved[i]
  return ranks


def _record(
  step: int, channels: Channels, score: float, cost: float
) -> dict[str, Any]:
  # What is counted stays whole; it is the same when it is read again.
  cost = cost.item() if hasattr(cost, 'item') else cost
  return {
    'step': step,
    'channels': [int(c) for c in channels],
    'score': float(score),
    'cost': cost,
  }
