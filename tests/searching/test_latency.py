"""Latencies by a table: what it interpolates, fits, and is measured from."""

import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax.searching import latency
from slimjax.searching.blocks import blocks_of
from slimjax.searching.grids import Grid
from slimjax.searching.latency import LatencyTable

MODEL = tiny_net.TinyNet(num_classes=7, widths=(0.125, 0.25))


def table(**options):
  """Returns a table of two blocks: 3 -> layer 0, layer 0 -> layer 1."""
  known = {
    'model': 'TinyNet',
    'layers': 3,
    'image_size': (32, 32),
    'batch_size': 1,
    'device': 'none',
    'measured': '',
    'versions': {},
    'grids': (
      Grid((3,), (8, 16), ((1.0, 2.0),)),
      Grid((8, 16), (8, 32), ((1.0, 4.0), (2.0, 8.0))),
    ),
    'blocks': ((0, (None, 3), (0, 1)), (1, (0, 1), (1, 1))),
    'launch_ms': 0.5,
  }
  return LatencyTable(**{**known, **options})


def test_interpolation_is_bilinear_and_constant_beyond_the_grid():
  counts = [(8, 8, 8), (16, 32, 8), (12, 20, 8), (64, 64, 8), (1, 1, 8)]
  np.testing.assert_allclose(
    table()(counts),
    [0.5 + 1 + 1, 0.5 + 2 + 8, 0.5 + 1.5 + 3.75, 0.5 + 2 + 8, 0.5 + 1 + 1],
  )


def test_the_fit_finds_scale_and_offset():
  counts = np.array([(8, 8, 8), (16, 32, 8), (12, 20, 8), (10, 30, 8)])
  plain = table()
  fitted = latency.fitted(plain, counts, 1.7 * plain(counts) + 0.2)
  assert (fitted.scale, fitted.offset_ms) == pytest.approx((1.7, 0.2))
  assert fitted.check['networks'] == 1
  assert fitted.check['worst_error'] == pytest.approx(0, abs=1e-9)
  # The error is that of networks that the fit has not seen.
  ms = 1.7 * plain(counts) + 0.2
  ms[3] *= 1.25
  other = latency.fitted(plain, counts, ms)
  assert other.scale == pytest.approx(1.7)
  assert other.check['mean_error'] == pytest.approx(0.2)


def test_a_table_is_carried_as_a_file(tmp_path):
  made = table(check={'networks': 0})
  made.save(tmp_path / 'table.json')
  read = LatencyTable.load(tmp_path / 'table.json')
  assert (read, read.digest) == (made, made.digest)
  with pytest.raises(ValueError, match='is of TinyNet with 3 layers at'):
    read.check_model(MODEL, (64, 64))
  (tmp_path / 'table.json').write_text('{}')
  with pytest.raises(ValueError, match='no table of latencies: KeyError'):
    LatencyTable.load(tmp_path / 'table.json')


def test_blocks_are_those_of_the_network():
  model = slimjax.create_model(
    'mobilenet_v1', num_classes=7, widths=(0.25, 1.0)
  )
  blocks = blocks_of(model, (128, 128))
  assert len(blocks) == 15  # the stem, 13 units, the classifier
  assert len({block.geometry for block in blocks}) == 11
  stem, first, *_, last = blocks
  assert (stem.inputs, stem.outputs) == ((None, 3), (0, 1))
  assert stem.geometry[0].strides == (2, 2)
  assert [step.depthwise for step in first.geometry] == [True, False]
  assert [step.kernel for step in first.geometry] == [(3, 3), (1, 1)]
  assert (first.inputs, first.outputs) == ((0, 1), (1, 1))
  assert (last.inputs, last.outputs) == ((13, 1), (None, 7))


def test_a_device_is_measured():
  found = latency.measure(MODEL, image_size=32, grid=2, nets=4, rounds=1)
  assert len(found.blocks) == len(found.grids) == 4
  assert found.check['networks'] == 1
  full, thin = found([MODEL.full_channels, MODEL.channels(0.125)])
  assert np.isfinite([full, thin]).all()
  assert found.launch_ms > 0
  (whole,) = latency.time_nets(
    MODEL, [MODEL.full_channels], image_size=32, rounds=1
  )
  assert whole > 0
