"""Evolves channels under a target, as a second strategy beside the greedy one.

Regularised evolution (Real et al., AAAI 2019, arXiv 1802.01548) with a limit on
the cost: the best few of a population are crossed and mutated, what costs more
than the target is slimmed at random units until it does not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from slimjax.searching.problem import Channels
from slimjax.searching.problem import Found
from slimjax.searching.problem import Problem
from slimjax.searching.problem import Score
from slimjax.searching.trace import Trace


def evolve(
  problem: Problem,
  score: Score,
  trace: Trace,
  *,
  population: int = 32,
  parents: int = 8,
  generations: int = 20,
  mutation: float = 0.1,
  seed: int = 0,
  follow: Callable[[Channels], Any] = lambda channels: None,
  on_step: Callable[[dict[str, Any]], Any] | None = None,
) -> list[Found]:
  """Returns the best network found under each target, largest first.

  Args:
    problem: what is slimmed, and how far; channels are its steps from the
      start.
    score: see `greedy`.
    trace: generations done before; new ones are added.
    population: networks of a generation; default: 32.
    parents: the best ones, of which the next is made; default: 8.
    generations: generations of each target, with the first; default: 20.
    mutation: probability that a unit is drawn anew; default: 0.1.
    seed: seed of all draws; default: 0.
    follow, on_step: see `greedy`; the bound stays the whole network.
  """
  follow(problem.start)
  told: list[dict[str, Any]] = []
  for number in range(generations * len(problem.targets)):
    target = problem.targets[number // generations]
    if number < len(trace):
      record = list(trace)[number]
    else:
      record = _generation(
        problem,
        score,
        target,
        told[-1]['best'] if number % generations else [],
        # A generation is a function of (seed, its number) and its parents.
        np.random.default_rng((seed, number)),
        (population, parents, mutation),
      )
      record['step'] = number
      trace.add(record)
    told.append(record)
    if on_step is not None:
      on_step(record)
  last = told[generations - 1 :: generations]
  return [
    Found(tuple(r['channels']), r['cost'], r['score'], target)
    for target, r in zip(problem.targets, last, strict=True)
  ]


def _generation(problem, score, target, best, random, sizes) -> dict[str, Any]:
  """Returns the best of a generation: [[score, steps of each unit], ...]."""
  population, parents, mutation = sizes
  most = np.array(_most(problem))
  children: list[np.ndarray] = []
  while len(children) < population:
    if best:
      pair = random.integers(0, len(best), 2)
      one, other = (np.array(best[i][1]) for i in pair)
      child = np.where(random.random(len(most)) < 0.5, one, other)
      fresh = random.random(len(most)) < mutation
      child = np.where(fresh, random.integers(0, most + 1), child)
    else:
      child = random.integers(0, most + 1)
    children.append(_under(problem, child, most, target, random))
  counts = np.array([_channels(problem, child) for child in children])
  scores = score(counts)
  # What was found before stays, so that the best never gets worse.
  ranked = [*best]
  for value, child in zip(scores, children, strict=True):
    ranked.append([float(value), child.tolist()])
  unique: list[Any] = []
  for one in sorted(ranked):
    if one[1] not in [other[1] for other in unique]:
      unique.append(one)
  unique = unique[:parents]
  channels = _channels(problem, np.array(unique[0][1]))
  (cost,) = problem.cost([channels])
  return {
    'channels': [int(c) for c in channels],
    'score': unique[0][0],
    'cost': cost.item(),
    'best': unique,
  }


def _most(problem: Problem) -> list[int]:
  """Returns the steps that each unit can lose."""
  thinnest = problem.thinnest()
  return [
    (problem.start[places[0]] - thinnest[places[0]]) // step
    for places, step in zip(problem.units, problem.steps, strict=True)
  ]


def _under(problem, steps, most, target, random) -> np.ndarray:
  """Returns the steps with more of them, until the cost is under the target."""
  steps = steps.copy()
  while problem.cost([_channels(problem, steps)])[0] > target:
    left = np.flatnonzero(steps < most)
    steps[random.choice(left)] += 1
  return steps


def _channels(problem: Problem, lost: np.ndarray) -> Channels:
  channels = [*problem.start]
  for places, step, n in zip(problem.units, problem.steps, lost, strict=True):
    for place in places:
      channels[place] -= int(n) * step
  return tuple(channels)
