"""Strategies on costs and scores that are known: no network is run."""

import numpy as np
import pytest
import tiny_net

from slimjax.searching.costs import macs_of
from slimjax.searching.evolution import evolve
from slimjax.searching.greedy import greedy
from slimjax.searching.problem import make_problem
from slimjax.searching.running import chosen_cost
from slimjax.searching.trace import Trace

MODEL = tiny_net.TinyNet(num_classes=10, widths=(0.25, 1.0))
MACS = macs_of(MODEL, 32)
WHOLE = int(MACS([MODEL.full_channels])[0])
TARGETS = (0.7 * WHOLE, 0.3 * WHOLE)
IDEAL = np.array([8, 128, 16])


def score(counts):
  """Returns a loss that is least at IDEAL."""
  apart = np.abs(np.asarray(counts, float) - IDEAL) / MODEL.full_channels
  return np.sum(apart**2, axis=1)


def problem(**options):
  return make_problem(MODEL, MACS, TARGETS, **options)


class Killed(BaseException):
  """Stands for a kill."""


def strategies():
  rise = lambda *args, **hooks: greedy(*args, rule='rise_per_cost', **hooks)
  small = lambda *args, **hooks: evolve(
    *args, population=8, parents=3, generations=3, **hooks
  )
  return {'greedy': greedy, 'rise': rise, 'evolution': small}


@pytest.mark.parametrize('name', strategies())
def test_a_search_that_is_killed_ends_as_it_would_have(name, tmp_path):
  search = strategies()[name]
  whole = Trace(tmp_path / 'whole', problem().describe())
  expected = search(problem(), score, whole)
  told = (tmp_path / 'whole').read_text()

  def kill(step):
    if step['step'] in (0, 1, 4):
      killed.append(step['step'])
      if killed.count(step['step']) == 1:
        raise Killed

  killed = []
  path = tmp_path / 'killed'
  for _ in range(3):
    with pytest.raises(Killed):
      search(problem(), score, Trace(path, problem().describe()), on_step=kill)
  assert search(problem(), score, Trace(path, problem().describe())) == expected
  assert path.read_text() == told
  scored = []
  counted = lambda counts: (scored.append(counts), score(counts))[1]
  again = search(problem(), counted, Trace(path, problem().describe()))
  assert (again, scored) == (expected, [])  # nothing is left to score


@pytest.mark.parametrize('name', strategies())
def test_what_is_found_is_under_its_target(name):
  found = strategies()[name](problem(), score, Trace(None, {}))
  assert [one.target for one in found] == [*TARGETS]
  for one in found:
    assert one.cost == MACS([one.channels])[0] <= one.target
    assert one.score == pytest.approx(score([one.channels])[0])
    assert min(one.channels) >= 8


def test_the_first_of_equal_units_loses():
  steps = []
  greedy(
    problem(),
    lambda counts: np.zeros(len(counts)),
    Trace(None, {}),
    on_step=steps.append,
  )
  chosen = [step['chosen'] for step in steps[1:]]
  left = {name: chosen.count(name) for name in chosen}
  assert chosen == [name for name in left for _ in range(left[name])]
  assert chosen[0] == 'stem'
  assert steps[1]['gap'] == 0


def test_a_rise_counts_by_what_it_saves():
  # The stem saves most; its step raises the score a little more.
  rises = {0: 1.1, 1: 1.0, 2: 1.05}

  def linear(counts):
    lost = np.asarray(MODEL.full_channels) - np.asarray(counts)
    return np.sum(lost * [rises[i] for i in range(3)], axis=1)

  def first(rule):
    steps = []
    greedy(
      problem(step=8), linear, Trace(None, {}), rule=rule, on_step=steps.append
    )
    return steps[1]['chosen']

  saved = [
    WHOLE - MACS([np.array(MODEL.full_channels) - 8 * np.eye(3, dtype=int)[i]])
    for i in range(3)
  ]
  best = np.argmin([rises[i] / saved[i][0] for i in range(3)])
  assert first('score') == 'unit1'
  assert first('rise_per_cost') == ('stem', 'unit1', 'unit2')[best] != 'unit1'


def test_a_step_that_saves_nothing_is_skipped():
  class Stairs:
    """Latency of a device whose stem and last unit cost nothing."""

    unit, noise = 'ms', 0.01

    def __call__(self, counts):
      return np.asarray(counts)[:, 1] / 10

  steps = []
  greedy(
    make_problem(MODEL, Stairs(), [5.0]),
    lambda counts: -np.asarray(counts)[:, 1].astype(float),
    Trace(None, {}),
    on_step=steps.append,
  )
  assert {step['chosen'] for step in steps[1:]} == {'unit1'}


def test_stairs_upwards_are_passed_over():
  class Uneven:
    """Latency of a device that is slow at 56 and 40 channels of the stem."""

    unit, noise = 'ms', 0.01

    def __call__(self, counts):
      stem = np.asarray(counts)[:, 0]
      return stem / 10 + 5.0 * np.isin(stem, (56, 40))

  steps = []
  found = greedy(
    make_problem(MODEL, Uneven(), [5.0, 3.5]),
    score,
    Trace(None, {}),
    on_step=steps.append,
  )
  assert [step['channels'][0] for step in steps] == [64, 48, 32]
  assert [one.channels[0] for one in found] == [48, 32]


def test_units_steps_and_names():
  made = problem(step={'unit1': 32}, keep=['unit2'])
  assert (made.names, made.steps) == (('stem', 'unit1'), (8, 32))
  with pytest.raises(ValueError, match="'unit3' is no layer .*stem, unit1"):
    problem(keep=['unit3'])
  with pytest.raises(ValueError, match='1 k?MACs|cannot be reached'):
    make_problem(MODEL, MACS, [1000])
  with pytest.raises(ValueError, match='no less than the whole network'):
    make_problem(MODEL, MACS, [2 * WHOLE])
  with pytest.raises(ValueError, match='either target_macs or target_ms'):
    chosen_cost(MACS, None, [1.0], [1.0])


def test_a_trace_of_another_search_is_refused(tmp_path):
  path = tmp_path / 'trace'
  greedy(problem(), score, Trace(path, problem().describe()))
  with pytest.raises(ValueError, match=r'minimum: 8 before, 16 now'):
    Trace(path, problem(minimum=16).describe())
  path.write_text('{"start": [64')
  with pytest.raises(ValueError, match='is no trace of a search'):
    Trace(path, {})
