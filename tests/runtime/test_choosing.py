"""backend='auto': each program by the backend that is faster here."""

import dataclasses
import logging
import types

from bundles import close
from bundles import images_of
import jax
import numpy as np
import pytest
import rich.console

from slimjax import runtime
from slimjax.runtime import BundleError
from slimjax.runtime import choosing
from slimjax.runtime import display
from slimjax.runtime.backends import Compiled

ENTRY = types.SimpleNamespace(width=0.5)
MANIFEST = types.SimpleNamespace(model={'dtype': 'float32'})


class Clock:
  """Seconds that pass only when something takes them."""

  now = 0.0

  def __call__(self):
    return self.now


class Timed:
  """A backend whose programs take the seconds of each batch size."""

  def __init__(self, name, clock, seconds, value=1.0, types=(np.uint8,)):
    self.name = name
    self._clock = clock
    self._seconds = seconds
    self._value = value
    self._types = types
    self.calls = 0

  def takes(self, dtype):
    return dtype in self._types

  def prepare(self, entry):
    return self.name

  def compile(self, entry, inputs, weights):
    assert weights() == self.name

    def call(given, images):
      assert given == self.name
      self.calls += 1
      self._clock.now += self._seconds[len(images)]
      return np.full((len(images), 3), self._value)

    return Compiled(call, None, None, self.name)


def compiled(backends, clock, size, dtype=np.uint8):
  auto = choosing.Fastest(backends, MANIFEST, clock)
  weights = auto.prepare(ENTRY)
  images = jax.ShapeDtypeStruct((size, 4, 4, 3), dtype)
  return auto.compile(ENTRY, [images], lambda: weights), weights


def test_each_batch_size_is_answered_by_the_faster_backend():
  clock = Clock()
  one = Timed('one', clock, {1: 0.3, 8: 0.5})
  other = Timed('other', clock, {1: 0.2, 8: 0.6})
  for size, expected in ((1, other), (8, one)):
    program, weights = compiled((one, other), clock, size)
    assert program.backend == expected.name
    before = expected.calls
    assert program.call(weights, np.zeros((size, 4, 4, 3))).shape == (size, 3)
    assert expected.calls == before + 1
  # One to compare, one to warm up, and three that count, of each.
  assert one.calls == 2 * 5 + 1


def test_the_first_backend_answers_if_none_is_faster():
  clock = Clock()
  backends = [Timed(name, clock, {1: 0.0}) for name in ('one', 'other')]
  program, _ = compiled(backends, clock, 1)
  assert program.backend == 'one'
  assert backends[1].calls == 2 + 15  # what takes no time is timed most often


def test_only_a_backend_that_takes_the_images_is_asked():
  clock = Clock()
  one = Timed('one', clock, {1: 0.3}, types=(np.uint8, np.float32))
  other = Timed('other', clock, {1: 0.2})
  program, _ = compiled((one, other), clock, 1, np.dtype(np.float32))
  assert program.backend == 'one'
  assert (one.calls, other.calls) == (0, 0)  # there is nothing to measure


@pytest.mark.parametrize('value', [1.01, np.nan])
def test_backends_that_differ_are_refused(value):
  clock = Clock()
  one = Timed('one', clock, {1: 0.3})
  other = Timed('other', clock, {1: 0.2}, value)
  with pytest.raises(BundleError, match='width 0.5: other and one differ by'):
    compiled((one, other), clock, 1)


def test_a_bundle_is_measured_as_it_is_compiled(both, monkeypatch):
  chosen = []

  def choose(self, entry, images, programs, weights):
    chosen.append((entry.width, len(images)))
    return len(images) > 1  # ONNX Runtime, but for one image

  monkeypatch.setattr(choosing.Fastest, '_choose', choose)
  by_xla = runtime.load(both, batch_sizes=())
  net = runtime.load(both, backend='auto', batch_sizes=(1, 4))
  assert net.backend == 'auto'
  assert sorted(chosen) == [(0.25, 1), (0.25, 4), (0.5, 1), (0.5, 4)]
  for count in (1, 4, 3):
    logits = net(images_of(count), width=0.5)
    assert isinstance(logits, np.ndarray)
    assert close(logits, by_xla(images_of(count), width=0.5), 1e-4)
  assert len(chosen) == 4  # nothing was measured at a request
  net.verify()
  with pytest.raises(ValueError, match="functions are of the backend 'jax'"):
    net.functions[0.5]


def test_a_table_says_which_backend_answered(both, tmp_path):
  net = runtime.load(both, backend='auto', widths=(0.25,))
  table = net.benchmark(rounds=3)
  assert table.backend == 'auto'
  (row,) = table.rows
  expected = net.compiled(0.25, 1, 'uint8').backend
  assert row.backend == expected
  table.save(tmp_path / 'table.json')
  assert runtime.Table.load(tmp_path / 'table.json') == table
  by_onnx = dataclasses.replace(row, backend='onnxruntime')
  console = rich.console.Console(width=80, record=True)
  display.print_table(dataclasses.replace(table, rows=(by_onnx,)), console)
  assert 'faster by ONNX Runtime: 0.25 at 1' in console.export_text()


def test_where_there_is_no_choice_the_log_says_why(
  both, path, caplog, monkeypatch
):
  caplog.set_level(logging.INFO)
  options = {'backend': 'auto', 'batch_sizes': (), 'prepare': 'use'}
  assert runtime.load(path, **options).backend == 'jax'
  assert 'it has no ONNX models (export --format=jax,onnx)' in caplog.text
  monkeypatch.setattr(choosing.importlib.util, 'find_spec', lambda name: None)
  assert runtime.load(both, **options).backend == 'jax'
  assert 'the extra slimjax[onnx] is not installed' in caplog.text
