"""Runs beside the published rows."""

import importlib
import json

import programs
import pytest
import rich.console

from slimjax import configuration
from slimjax.analysis import compare
from slimjax.analysis import published
from slimjax.analysis import showing
from slimjax.data import digits
from slimjax.models import create_model
from slimjax.tasks import Classification
from slimjax.tasks import Metric
from slimjax.variables.profile import profile_model
from slimjax.widths import label

ROWS = {
  'mobilenet_v1': {0.25: 46.9, 0.5: 35.2, 0.75: 30.5, 1.0: 28.5},
  'mobilenet_v1_8switches': {
    0.25: 47.6, 0.35: 41.1, 0.45: 36.6, 0.55: 33.8,
    0.65: 31.4, 0.75: 30.2, 0.85: 29.2, 1.0: 28.4,
  },
  'mobilenet_v2': {0.35: 40.3, 0.5: 35.6, 0.75: 31.1, 1.0: 29.5},
  'shufflenet': {0.5: 42.7, 1.0: 34.5, 2.0: 28.7},
  'resnet50': {0.25: 35.0, 0.5: 27.9, 0.75: 25.1, 1.0: 24.0},
  **{
    f'autoslim_{name}': dict(zip(published.autoslim(name), errors, strict=True))
    for name, errors in {
      'mobilenet_v1': (32.1, 28.5, 27.0), 'mobilenet_v2': (27.0, 25.8, 24.6),
    }.items()
  },
}  # fmt: skip


def get(name):
  return importlib.import_module(f'slimjax.configs.{name}').get_config()


def finished(folder, config, error, headline='top1_error'):
  """Returns a workdir with what `read` reads; `error` by width, percent."""
  folder.mkdir(parents=True)
  plain = configuration.as_plain(config)
  (folder / 'config.json').write_text(json.dumps(plain))
  model = configuration.call(create_model, 'config.model', plain['model'])
  size = plain['data'].get('image_size', digits.IMAGE_SIZE)
  results = [
    {
      'width': width,
      headline: error(width),
      'examples': 50000,
      'macs': profile_model(model, width=width, image_size=size).macs,
    }
    for width in model.ordered_widths
  ]
  (folder / 'results.json').write_text(json.dumps(results))
  return folder


@pytest.mark.parametrize('name', ROWS)
def test_every_configuration_has_its_row(name):
  run = configuration.parse(get(name))
  row = published.find(run)
  assert row.errors == ROWS[name]
  assert published.differences(row, run) == []


@pytest.mark.parametrize('name', ['mobilenet_v1_8switches', 'shufflenet'])
def test_a_run_of_a_configuration_is_compared_with_its_row(name, tmp_path):
  """Half a percent more than the paper, in every row of tables 3 and 4."""
  row = ROWS[name]
  run = finished(tmp_path / 'run', get(name), lambda w: row[w] + 0.5)
  comparison = compare.compare(compare.read(run))
  assert comparison.reasons == []
  assert [line.width for line in comparison.lines] == sorted(row)
  for line in comparison.lines:
    assert line.published_error == row[line.width]
    assert line.difference == pytest.approx(0.5)
    # Table 4 says nothing of the cost, but table 3 has some of its widths.
    assert line.same_counts is (True if line.published_macs else None)
  assert comparison.wrong_counts == []
  assert comparison.same_total is (None if '8' in name else True)


def test_a_network_trained_alone_has_its_own_column(tmp_path):
  config = get('resnet50')
  config.model.widths = (0.25,)
  run = finished(tmp_path / 'run', config, lambda _: 36.0)
  comparison = compare.compare(compare.read(run))
  (line,) = comparison.lines
  assert (line.published_error, comparison.same_total) == (36.2, None)
  assert line.difference == pytest.approx(-0.2)


def test_shared_scale_and_bias_are_table_6(tmp_path):
  config = get('mobilenet_v1')
  config.model.shared = ('norm',)
  run = finished(tmp_path / 'run', config, lambda _: 40.0)
  comparison = compare.compare(compare.read(run))
  errors = [line.published_error for line in comparison.lines]
  assert errors == [47.1, 35.9, 30.9, 28.8]
  config.model.shared = ('norm', 'batch_stats')
  run = finished(tmp_path / 'naive', config, lambda _: 99.9)
  assert compare.compare(compare.read(run)).row is None


@pytest.mark.parametrize(
  'section, key, value, reason',
  [
    (None, 'epochs', 90, 'config.epochs: 90 here, 480 published'),
    ('schedule', 'peak_lr', 0.1, 'config.schedule.peak_lr: 0.1 here, 0.045'),
    ('model', 'dtype', 'bfloat16', 'config.model.dtype: bfloat16 here'),
    ('data', 'held_out', 50000, 'config.data.held_out: 50000 here, 0'),
    ('loss', 'inplace_distillation', True, 'inplace_distillation: True here'),
    ('data', 'name', 'cifar10', 'config.data.name: cifar10 here, imagenet'),
  ],
)
def test_another_recipe_is_not_comparable(
  section, key, value, reason, tmp_path
):
  config = get('mobilenet_v1')
  (config[section] if section else config)[key] = value
  run = finished(tmp_path / 'run', config, lambda _: 30.0)
  comparison = compare.compare(compare.read(run))
  assert len(comparison.reasons) == 1
  assert reason in comparison.reasons[0]
  assert [line.difference for line in comparison.lines] == [None] * 4
  # It is the published network all the same.
  assert all(line.same_counts for line in comparison.lines)


def test_digits_are_compared_with_nothing(tmp_path):
  run = finished(tmp_path / 'run', get('digits'), lambda _: 1.0)
  comparison = compare.compare(compare.read(run))
  assert 'config.data.name: digits here' in comparison.reasons[0]
  assert {line.same_counts for line in comparison.lines} == {None}
  assert comparison.lines[0].macs == 834_688  # at 32 pixels


def test_seeds_are_one_entry_with_a_spread(tmp_path):
  entries = []
  for seed, error in ((0, 24.0), (1, 26.0)):
    config = get('resnet50')
    config.seed = seed
    entries.append(
      compare.read(finished(tmp_path / str(seed), config, lambda _, e=error: e))
    )
  other = compare.read(
    finished(tmp_path / 'other', get('mobilenet_v1'), lambda _: 30.0)
  )
  together, alone = compare.group([entries[0], other, entries[1]])
  assert (together.seeds, alone.seeds) == ([0, 1], [1995])
  line = compare.compare(together).lines[-1]
  assert (line.error, line.difference) == (25.0, pytest.approx(1.0))
  assert line.deviation == pytest.approx(2**0.5)
  with pytest.raises(ValueError, match='they are one run; leave one out'):
    compare.group([entries[0], entries[0]])


def test_other_counts_are_pointed_out(tmp_path, monkeypatch):
  tables = json.loads(json.dumps(published.tables()))
  tables['imagenet']['mobilenet_v1']['0.75']['macs'] = 317  # as misprinted
  tables['slimmable_params_m']['mobilenet_v1'] = 4.2
  monkeypatch.setattr(published, 'tables', lambda: tables)
  run = finished(tmp_path / 'run', get('mobilenet_v1'), lambda _: 30.0)
  comparison = compare.compare(compare.read(run))
  assert comparison.wrong_counts == ['width 0.75', 'all widths together']
  console = rich.console.Console(width=200, record=True)
  showing.show(comparison, console)
  assert '325.40 M ≠ 317 M' in console.export_text()


class ByLoss(Classification):
  """A task of a user's own with another headline."""

  metrics = (Metric('loss', 'loss'),)


def test_another_headline_is_compared_with_nothing(tmp_path):
  config = get('mobilenet_v1')
  run = finished(tmp_path / 'run', config, lambda _: 3.0, headline='loss')
  with pytest.raises(ValueError, match='has no top1_error; it has width, loss'):
    compare.read(run)
  config.task = {'name': 'test_report:ByLoss'}
  run = finished(tmp_path / 'own', config, lambda _: 3.0, headline='loss')
  entry = compare.read(run)
  comparison = compare.compare(entry)
  assert comparison.reasons == ['loss here, top1_error published']
  assert [line.difference for line in comparison.lines] == [None] * 4
  assert all(line.same_counts for line in comparison.lines)
  # Its number has no unit.
  console = rich.console.Console(width=200, record=True)
  showing.show(comparison, console)
  assert '3.00 %' not in console.export_text()


def test_widths_may_be_channels(tmp_path):
  config = get('digits')
  model = create_model('mobilenet_v1', num_classes=10, widths=(1.0,))
  channels = model.channels(0.5)
  config.model.widths = (channels, 1.0)
  run = finished(tmp_path / 'run', config, lambda _: 1.0)
  comparison = compare.compare(compare.read(run))
  assert [line.width for line in comparison.lines] == [channels, 1.0]
  errors = json.loads(json.dumps(comparison.as_json()))['entry']['errors']
  assert errors == {label(channels): [1.0], '1.0': [1.0]}
  console = rich.console.Console(width=200, record=True)
  showing.show(comparison, console)
  assert label(channels) in console.export_text()


def test_the_program(tmp_path):
  run = finished(tmp_path / 'run', get('shufflenet'), lambda _: 40.0)
  unfinished = tmp_path / 'unfinished'
  unfinished.mkdir()
  (unfinished / 'config.json').write_text('{}')

  out = tmp_path / 'report.json'
  done = programs.call('slimjax.report', run, unfinished, f'--json={out}')
  assert done.returncode == 1
  assert 'S-ShuffleNet' in done.stdout
  assert 'is not finished' in done.stdout
  (record,) = json.loads(out.read_text())
  assert record['lines'][0]['difference'] == pytest.approx(40.0 - 42.7)
  assert record['lines'][0]['same_counts'] is True


@pytest.mark.parametrize('widths', [(0.25, 0.5, 0.75, 1.0), (0.5,)])
def test_detectors_are_table_5(widths):
  found = {}
  for name in ('faster_rcnn', 'mask_rcnn', 'keypoint_rcnn'):
    config = get(name)
    config.model.widths = widths
    run = configuration.parse(config)
    row = found[name] = published.find(run)
    assert row.measured == 'box AP on COCO'
    # A detector begins with a classifier, which the configuration leaves open.
    kind = 'an S-ResNet-50' if len(widths) > 1 else 'a ResNet-50'
    said = f'config.init.source: none here, {kind} published'
    assert published.differences(row, run) == [said]
  if len(widths) == 1:
    assert found['mask_rcnn'].errors == {0.5: 33.4}
    assert found['mask_rcnn'].others == {'mask_ap': {0.5: 30.9}}
    return
  boxes = {0.25: 29.6, 0.5: 34.0, 0.75: 36.1, 1.0: 36.8}
  assert found['faster_rcnn'].errors == boxes
  assert found['faster_rcnn'].others == {}
  keypoints = {0.25: 59.5, 0.5: 62.6, 0.75: 63.6, 1.0: 63.9}
  assert found['keypoint_rcnn'].others == {'keypoint_ap': keypoints}


def test_a_detector_is_reported_with_all_its_scores(tmp_path):
  """Its seeds are joined in every score."""
  for seed, ap in ((0, 30.0), (1, 31.0)):
    config = get('mask_rcnn')
    config.seed = seed
    config.model.widths = (0.25,)
    config.init.source = 'runs/resnet50'
    run = tmp_path / str(seed)
    run.mkdir()
    plain = configuration.as_plain(config)
    (run / 'config.json').write_text(json.dumps(plain))
    scores = {'box_ap': ap, 'mask_ap': ap - 2, 'examples': 5000, 'macs': 10**9}
    (run / 'results.json').write_text(json.dumps([{'width': 0.25, **scores}]))
  entries = [compare.read(tmp_path / seed) for seed in '01']
  (entry,) = compare.group(entries)
  comparison = compare.compare(entry)
  assert comparison.reasons == []
  (line,) = comparison.lines
  assert line.difference == pytest.approx(30.5 - 28.2)
  (score,) = comparison.scores
  assert (score.name, score.published) == ('mask_ap', 26.6)
  assert score.difference == pytest.approx(28.5 - 26.6)
  console = rich.console.Console(width=100, record=True)
  showing.show(comparison, console)
  said = console.export_text()
  assert 'Mask R-CNN with ResNet-50, box AP on COCO, paper (ICLR 2019)' in said
  assert 'mask_ap at 0.25: 28.50, published 26.6, difference +1.90' in said
  json.dumps(comparison.as_json())


def test_a_detector_of_other_parts_is_in_no_table():
  config = get('faster_rcnn')
  config.model.backbone = 'resnet101'
  assert published.find(configuration.parse(config)) is None
  run = configuration.parse(get('digit_scenes'))
  assert published.find(run) is None
