"""A cascade: what goes on to a wider network, and how thresholds are chosen."""

from concurrent.futures import ThreadPoolExecutor
import dataclasses
import importlib.util
import itertools
import json
import shutil
import types

from bundles import close
from bundles import export_digits
from bundles import images_of
import numpy as np
from places import ROOT
import pytest

from slimjax import runtime
from slimjax.runtime.table import Row
from slimjax.runtime.thresholds import certainty
from slimjax.runtime.thresholds import margin
from slimjax.runtime.thresholds import Thresholds

WIDTHS = (0.125, 0.25)
CLASSES = 5
COSTS = {0.25: 1.0, 0.5: 2.5, 1.0: 9.0}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('cascade') / 'bundle'
  export_digits(path, WIDTHS)
  return path


@pytest.fixture(scope='module')
def net(folder):
  return runtime.load(folder, batch_sizes=(1, 2, 4, 8))


class Watched:
  """A network that keeps how many images came at which width."""

  def __init__(self, network):
    self.manifest, self.widths = network.manifest, network.widths
    self.network, self.calls = network, []

  def __call__(self, images, *, width):
    self.calls.append((width, len(images)))
    return self.network(images, width=width)


def of_both(net, images):
  return [np.asarray(net(images, width=width)) for width in WIDTHS]


@pytest.mark.parametrize('confidence', ['margin', 'entropy'])
@pytest.mark.parametrize('count', [1, 8, 13])
def test_only_images_that_are_unsure_go_on(net, count, confidence):
  images = images_of(count)
  thin, wide = of_both(net, images)
  sure = (margin if confidence == 'margin' else certainty)(thin)
  least = float(np.sort(sure)[count // 3])
  # A threshold right at an image would be decided by rounding.
  least = (least + float(max([*sure[sure < least], 0]))) / 2
  watched = Watched(net)
  cascade = runtime.Cascade(
    watched, thresholds=Thresholds(WIDTHS, (least,), confidence)
  )
  answers = cascade.answer(images)
  expected = sure < least
  assert expected.sum() == count // 3
  np.testing.assert_array_equal(answers.stages, expected)
  assert close(answers.logits, np.where(expected[:, None], wide, thin))
  wider = [(WIDTHS[1], count // 3)] if count // 3 else []
  assert watched.calls == [(WIDTHS[0], count), *wider]


def test_thresholds_at_the_ends_are_the_networks_themselves(net):
  images = images_of(4, 'float32')
  thin, wide = of_both(net, images)
  cut = lambda least: runtime.Cascade(
    net, thresholds=Thresholds(WIDTHS, (least,))
  )
  assert close(cut(0.0)(images), thin)
  assert close(cut(1.0)(images), wide)
  assert close(cut(1.0)(images, width=WIDTHS[0]), thin)
  assert cut(0.0).answer(images).width == WIDTHS[0]
  assert cut(1.0).answer(images).width == WIDTHS[1]
  assert cut(0.5)(images[:0]).shape == (0, 10)
  single = runtime.Cascade(net, thresholds=Thresholds(WIDTHS[1:], ()))
  assert close(single(images), wide)


def test_thresholds_are_recorded_in_the_bundle(net, folder, tmp_path):
  folder = shutil.copytree(folder, tmp_path / 'bundle')
  thresholds = Thresholds(
    WIDTHS, (0.75,), 'entropy', (1.0, 0.25), (80.0, 90.0), 1.5
  )
  plain = json.loads((folder / 'manifest.json').read_text())
  assert 'cascade' not in plain  # versions without cascades read it
  written = runtime.record_cascade(folder, thresholds)
  again = runtime.load(folder, batch_sizes=(), prepare='use')
  assert written == again.manifest
  assert runtime.Cascade(again).thresholds == thresholds
  cleared = runtime.record_cascade(folder, None)
  assert cleared == net.manifest
  with pytest.raises(ValueError, match='choose_thresholds chooses them'):
    runtime.Cascade(net)
  other = Thresholds((0.125, 0.5), (0.75,))
  with pytest.raises(
    ValueError, match='widths 0.5, the network only 0.125, 0.25'
  ):
    runtime.record_cascade(folder, other)


def test_an_answer_that_is_not_a_number_goes_on(net):
  class Broken(Watched):
    def __call__(self, images, *, width):
      logits = np.array(super().__call__(images, width=width))
      return logits * np.nan if width == WIDTHS[0] else logits

  images = images_of(2)
  broken = runtime.Cascade(Broken(net), thresholds=Thresholds(WIDTHS, (0.0,)))
  assert close(broken(images), of_both(net, images)[1])


def test_many_threads_get_the_answers_of_one(net):
  batches = [images_of(count) for count in (1, 3, 5, 8) * 4]
  least = float(np.median(margin(of_both(net, images_of(8))[0]))) + 1e-4
  cascade = runtime.Cascade(net, thresholds=Thresholds(WIDTHS, (least,)))
  alone = [cascade(images) for images in batches]
  with ThreadPoolExecutor(8) as pool:
    for found, expected in zip(pool.map(cascade, batches), alone, strict=True):
      assert close(found, expected)


def test_what_does_not_fit_the_network_is_refused(net):
  with pytest.raises(
    ValueError, match='widths 0.5, the network only 0.125, 0.25'
  ):
    runtime.Cascade(net, thresholds=Thresholds((0.125, 0.5), (0.5,)))
  thin = Watched(net)
  thin.widths = WIDTHS[:1]
  with pytest.raises(ValueError, match='not loaded: 0.25; there are 0.125'):
    runtime.Cascade(thin, thresholds=Thresholds(WIDTHS, (0.5,)))
  cascade = runtime.Cascade(net, thresholds=Thresholds(WIDTHS, (0.5,)))
  with pytest.raises(ValueError, match='no width 0.5, only 0.125, 0.25'):
    cascade(images_of(1), width=0.5)
  other = Watched(net)
  other.manifest = dataclasses.replace(net.manifest, outputs='')
  with pytest.raises(ValueError, match='needs logits of classes'):
    runtime.Cascade(other, thresholds=Thresholds(WIDTHS, (0.5,)))
  for widths, least, reason in (
    ((0.25, 1.0), (), 'got 0 for 2 widths'),
    ((0.25, 1.0), (1.5,), r'must be in \[0, 1\]'),
    ((0.25, 1.0), (float('nan'),), r'must be in \[0, 1\]'),
  ):
    with pytest.raises(ValueError, match=reason):
      Thresholds(widths, least)


def test_confidence_is_one_where_sure_and_zero_where_nothing_is_known():
  logits = np.array([[0, 0, 0, 0], [1000, 0, 0, 0], [5, 5, -1000, -1000]])
  np.testing.assert_allclose(margin(logits), [0, 1, 0], atol=1e-12)
  np.testing.assert_allclose(certainty(logits), [0, 1, 0.5], atol=1e-12)
  p = np.array([0.6, 0.3, 0.1])
  assert margin(np.log(p)[None]) == pytest.approx(0.3)
  entropy = -(p * np.log(p)).sum()
  assert certainty(np.log(p)[None]) == pytest.approx(1 - entropy / np.log(3))


def drawn(count=200, seed=0):
  """Returns labels, and logits of three widths; wider ones are more right."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, CLASSES, count)
  signal = np.eye(CLASSES)[labels]
  return labels, {
    width: signal * strength + random.normal(size=(count, CLASSES))
    for width, strength in ((0.25, 2.0), (0.5, 2.6), (1.0, 3.2))
  }


def run(widths, least, labels, logits, confidence=margin):
  """Returns accuracy and mean cost of a cascade, image by image."""
  right, cost = 0, 0.0
  for i, true in enumerate(labels):
    for stage, width in enumerate(widths):
      cost += COSTS[width]
      row = logits[width][i]
      last = stage == len(widths) - 1
      if last or confidence(row[None])[0] >= least[stage]:
        right += row.argmax() == true
        break
  return 100 * right / len(labels), cost / len(labels)


class Looked:
  """A network whose images are the numbers of rows in tables of logits."""

  def __init__(self, logits):
    self.logits, self.widths = logits, tuple(logits)
    self.manifest = types.SimpleNamespace(check_cascade=lambda _: None)

  def __call__(self, images, *, width):
    return self.logits[width][images]


@pytest.mark.parametrize('confidence', ['margin', 'entropy'])
def test_what_is_predicted_is_what_comes_out(confidence):
  labels, logits = drawn()
  widest = 100 * np.mean(logits[1.0].argmax(-1) == labels)
  chosen = runtime.choose_thresholds(
    logits, labels, COSTS, accuracy=widest, confidence=confidence
  )
  rule = margin if confidence == 'margin' else certainty
  found = run(chosen.widths, chosen.least, labels, logits, rule)
  assert found == pytest.approx((chosen.accuracy, chosen.mean_cost))
  assert chosen.accuracy >= widest
  assert chosen.mean_cost < 0.8 * COSTS[1.0]
  for end in range(1, len(chosen.widths) + 1):
    part = run(
      chosen.widths[:end], chosen.least[: end - 1], labels, logits, rule
    )
    assert part[0] == pytest.approx(chosen.accuracies[end - 1])
  cascade = runtime.Cascade(Looked(logits), thresholds=chosen)
  answers = cascade.answer(np.arange(len(labels)))
  right = answers.logits.argmax(-1) == labels
  assert 100 * right.mean() == pytest.approx(chosen.accuracy)
  shares = [np.mean(answers.stages >= i) for i in range(len(chosen.widths))]
  assert shares == pytest.approx(chosen.reached)


def test_no_other_thresholds_are_better():
  labels, logits = drawn(count=40)
  wanted, budget = 90.0, 3.0
  cheapest = runtime.choose_thresholds(logits, labels, COSTS, accuracy=wanted)
  best = runtime.choose_thresholds(logits, labels, COSTS, mean_cost=budget)
  assert best.mean_cost <= budget
  levels = {w: [*np.unique(margin(a)), 1.0] for w, a in logits.items()}
  ends = []
  for count in (1, 2, 3):
    for widths in itertools.combinations(COSTS, count):
      some = [levels[w][::3] for w in widths[:-1]]
      ends += [
        run(widths, least, labels, logits) for least in itertools.product(*some)
      ]
  assert len(ends) > 200
  assert cheapest.mean_cost <= min(c for a, c in ends if a >= wanted) + 1e-9
  assert best.accuracy >= max(a for a, c in ends if c <= budget) - 1e-9


def test_a_single_width_is_chosen_where_no_other_helps():
  labels, logits = drawn()
  same = {0.25: logits[1.0], 1.0: logits[1.0]}
  chosen = runtime.choose_thresholds(
    same, labels, {0.25: 1.0, 1.0: 9.0}, mean_cost=20.0
  )
  assert (chosen.widths, chosen.least) == ((0.25,), ())
  assert (chosen.reached, chosen.mean_cost) == ((1.0,), 1.0)


@pytest.mark.parametrize(
  'options, reason',
  [
    ({'accuracy': 99.9}, r'no cascade has 99.9 % .* the best has 9\d.\d\d %'),
    ({'mean_cost': 0.5}, 'no cascade has a mean cost of 0.5; the least is 1'),
    ({}, 'either accuracy or mean_cost'),
    ({'accuracy': 90, 'mean_cost': 2}, 'either accuracy or mean_cost'),
    ({'accuracy': 90, 'confidence': 'luck'}, "one of margin, entropy .*'luck'"),
    ({'accuracy': 90, 'costs': {1.0: 2.0}}, 'of the same widths, got 0.25'),
    ({'accuracy': 90, 'labels': [1, 2]}, r'expected, with at least one image'),
  ],
)
def test_what_cannot_be_had_is_refused(options, reason):
  labels, logits = drawn()
  arguments = {'logits': logits, 'labels': labels, 'costs': COSTS, **options}
  with pytest.raises(ValueError, match=reason):
    runtime.choose_thresholds(**arguments)


def test_logits_that_are_not_numbers_choose_nothing():
  labels, logits = drawn(count=20)
  logits[0.5][3, 2] = np.nan
  with pytest.raises(ValueError, match=r'logits of 0\.5 are not all finite'):
    runtime.choose_thresholds(logits, labels, COSTS, accuracy=50)


def row(width, ms, error=9.0):
  return Row(
    width=width,
    batch_size=1,
    p50_ms=ms,
    p95_ms=2 * ms,
    p99_ms=3 * ms,
    p50_ci=(ms, ms),
    p95_ci=(2 * ms, 2 * ms),
    p99_ci=(3 * ms, 3 * ms),
    images_per_second=1e3 / ms,
    requests=100,
    compile_s=1.0,
    weight_bytes=int(1e6 * ms),
    temp_bytes=int(1e5 * ms),
    macs=int(1e6 * ms),
    params=10,
    error=error,
  )


def test_a_controller_says_how_wide_a_cascade_may_go():
  thresholds = Thresholds(
    (0.25, 0.5, 1.0),
    (0.9, 0.8),
    reached=(1.0, 0.4, 0.03),
    accuracies=(80.0, 88.0, 90.0),
    mean_cost=2.27,
  )
  rows = runtime.cascade_rows(
    thresholds, [row(width, ms) for width, ms in COSTS.items()]
  )
  thin, middle, wide = rows
  assert [r.error for r in rows] == [20.0, 12.0, 10.0]
  assert thin == dataclasses.replace(row(0.25, 1.0), error=20.0)
  assert (middle.p50_ms, middle.p95_ms, middle.p99_ci) == (
    3.5,
    7.0,
    (10.5,) * 2,
  )
  assert (wide.p50_ms, wide.macs, wide.compile_s) == (12.5, 12_500_000, 3.0)
  assert wide.images_per_second == pytest.approx(1e3 / 12.5)
  assert (wide.weight_bytes, wide.temp_bytes) == (12_500_000, 900_000)
  pick = lambda budget: runtime.Controller(rows, budget_ms=budget).pick()
  assert [pick(b) for b in (1.9, 6.9, 7.0, 25.0)] == [0.25, 0.25, 0.5, 1.0]
  # What ended early says nothing of those that go all the way.
  controller = runtime.Controller(rows, budget_ms=25.0)
  for _ in range(20):
    controller.observe(90.0, width=0.5)
  assert controller.pick() == 1.0
  for _ in range(20):
    controller.observe(90.0, width=1.0)
  assert controller.pick() == 0.25
  with pytest.raises(ValueError, match='no row of 1.0 at batch size 1'):
    runtime.cascade_rows(thresholds, [row(0.25, 1.0), row(0.5, 2.0)])
  with pytest.raises(ValueError, match='nothing was predicted'):
    runtime.cascade_rows(Thresholds((0.25,), ()), [row(0.25, 1.0)])


def test_the_experiment_draws_its_curve(net, tmp_path, capsys):
  path = ROOT / 'experiments' / 'cascade' / 'measure.py'
  spec = importlib.util.spec_from_file_location('cascade_measure', path)
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  images = images_of(12)
  # A network that knows the answers of its own widest.
  labels = np.asarray(net(images, width=WIDTHS[1])).argmax(-1)
  split = {'image': images, 'label': labels}
  result = script.study(net, split, split, batch_size=1, timed=2, rounds=3)
  rows = result['policies']
  assert rows['width 0.25']['test'] == 100
  assert rows['width 0.25']['of_widest'] == 1
  assert rows['widest - 0.0, margin']['test'] == 100
  for row in rows.values():
    assert row['test'] == pytest.approx(row.get('held_out', row['test']))
  script.print_table(result)
  assert '| width 0.25 |  | 100.00 % | 1.00 |' in capsys.readouterr().out
  script.plot(result, tmp_path / 'curve.png')
  assert (tmp_path / 'curve.png').stat().st_size > 1000
