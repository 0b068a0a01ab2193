"""Benchmarks of a bundle, and the programs that serve by them."""

import json
import subprocess
import sys

from bundles import images_of
from bundles import live_bytes
from bundles import WIDTHS
import numpy as np
from places import ROOT
import programs
import pytest

from slimjax import runtime
from slimjax.runtime import display


def test_a_benchmark_measures_each_width_in_turn(net, tmp_path, capsys):
  rounds = []
  table = net.benchmark(
    batch_sizes=(1, 2), rounds=3, on_round=lambda *done: rounds.append(done)
  )
  assert rounds == [(1, 3), (2, 3), (3, 3)]
  assert [(r.width, r.batch_size) for r in table.rows] == [
    (width, size) for width in WIDTHS for size in (1, 2)
  ]
  for row in table.rows:
    entry = net.manifest.entry(row.width)
    assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
    assert row.p50_ci[0] <= row.p50_ms <= row.p50_ci[1]
    assert row.requests == 30
    assert row.images_per_second > 0
    assert row.compile_s > 0
    assert row.weight_bytes == entry.prepared_bytes
    assert row.temp_bytes > 0
    assert (row.macs, row.error) == (entry.macs, entry.error)
  assert table.backend == 'jax'
  assert 'cores' in table.device
  display.plot(table, tmp_path / 'plot.png', 'digits')
  assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
  with pytest.raises(ValueError, match='at least 3'):
    net.benchmark(rounds=1)


def test_the_controller_obeys_a_memory_budget(path, net):
  """The bytes that live, with the program's own, stay within it."""
  table = net.benchmark(rounds=3)
  rows = {row.width: row for row in table.rows}
  budget = rows[0.5].peak_bytes / 1e6 - 0.01
  controller = runtime.Controller(table, budget_ms=1e6, memory_mb=budget)
  before = live_bytes()
  lean = runtime.load(path, prepare='lean')
  images = images_of(1)
  for _ in range(20):
    width = controller.pick()
    logits = lean(images, width=width)
    held = live_bytes() - before - logits.nbytes
    temporary = lean.compiled(width, 1, np.uint8).temp_bytes
    assert held + temporary <= 1e6 * budget
    controller.observe(1.0)
  wide = runtime.Controller(table, budget_ms=1e6, memory_mb=budget + 0.02)
  assert wide.pick() == 0.5


def test_the_program_of_the_command_line(path, tmp_path):
  stem = tmp_path / 'measured'
  run = programs.call('slimjax.benchmark', path, '--rounds=3', f'--out={stem}')
  assert (run.returncode, run.stderr) == (0, '')
  assert 'prepared weights' in run.stdout
  table = runtime.Table.load(f'{stem}.json')
  assert [row.width for row in table.rows] == [*WIDTHS]
  assert stem.with_suffix('.png').exists()


def test_the_serving_experiment(path, tmp_path):
  script = ROOT / 'experiments/adaptive_serving'
  command = [sys.executable, script / 'serve.py', f'--bundle={path}']
  subprocess.run([*command, '--quick', f'--out={tmp_path}'], check=True)
  result = json.loads((tmp_path / 'result.json').read_text())
  assert list(result['policies']) == ['controller', 'always 0.5', 'always 0.25']
  for policy in result['policies'].values():
    assert policy['requests'] >= 1
    assert 0 <= policy['within_budget_percent'] <= 100
  assert (tmp_path / 'serving.png').read_bytes().startswith(b'\x89PNG')
