"""What a run says of its course and its speed."""

import types

import jax
import pytest
import tiny_net

import slimjax
from slimjax import configuration
from slimjax.data import digits
from slimjax.tasks import Classification
from slimjax.tasks import Metric
from slimjax.training import progress
from slimjax.training.plans import AllWidths
from slimjax.training.progress import Clock
from slimjax.training.progress import Progress
from slimjax.training.progress import say_plan


def test_the_clock_leaves_pauses_out_and_knows_the_peak(monkeypatch):
  now, waited = [100.0], [0.0]
  timer = types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(progress, 'time', timer)
  clock = Clock(10, lambda: waited[0])
  clock.start()
  now[0] += 0.05
  with clock.paused():
    now[0] += 0.5
  waited[0] = 0.02
  line = clock.read(15, batch_size=100)
  expected = {'images_per_second': 1e4, 'step_ms': 10, 'input_wait': 40}
  assert line == pytest.approx(expected)
  device = types.SimpleNamespace(device_kind='TPU v5 lite')
  speed, used = clock.summary(100, 10**9, [device] * 4)
  assert speed.startswith('10000 images/s')
  # Six operations a multiply-accumulate, shared by four devices.
  assert pytest.approx(7.6, abs=0.05) == 100 * 1e4 * 6e9 / 4 / 197e12
  assert '7.6 % of the 197 TFLOP/s of TPU v5 lite' in used
  _, used = clock.summary(100, 10**9, jax.devices()[:1])
  assert "the peak of 'cpu' is not in slimjax/training/devices.py" in used


def test_a_run_says_how_often_it_passes_over_the_images(capsys):
  run = configuration.parse(tiny_net.get_config(batch_size=719, epochs=30))
  model = slimjax.create_model(tiny_net.NAME, num_classes=10, widths=(0.25,))
  say_plan(run, digits.create(), Classification(), model, AllWidths((0.25,)), 1)
  said = capsys.readouterr().out
  assert 'digits: 10 classes, images of 32 x 32 pixels: 1,437 train' in said
  assert '30 steps, 15.0 passes over the training images' in said
  assert 'an epoch leaves the last 718 to the next' in said


def test_a_line_shows_the_headline_as_tables_do(capsys):
  metric = Metric('gap', 'mean gap')
  record = {'split': 'validation', 'step': 3, 'epoch': 1.0, 'width': 0.25}
  with Progress(9, 0, headline=metric) as shown:
    shown.line([{**record, 'loss': 0.5, 'gap': 0.01127}])
  assert capsys.readouterr().out.endswith('w025 0.500 0.0113\n')
