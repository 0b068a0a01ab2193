"""Takes whichever of XLA and ONNX Runtime is faster here: `backend='auto'`."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import importlib.util
import logging
import pathlib
import threading
import time
from typing import Any

import jax
import numpy as np

from slimjax.runtime import bundle
from slimjax.runtime.backends import Backend
from slimjax.runtime.backends import Compiled
from slimjax.runtime.errors import BundleError
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry
from slimjax.widths import label

# Turns of a measurement: no fewer, no more, and how long between the two.
_LEAST_TURNS = 3
_MOST_TURNS = 15
_SECONDS = 0.25
_LOG = logging.getLogger(__name__)


class Fastest:
  """Runs each program by the backend that was the faster one when it was made.

  A program, that of one width and one batch size, is made of both backends, and
  both answer the same images in turns; so that the choice is made where other
  backends compile, and no request waits for it that would not wait for a
  compilation. Weights are held for both.

  Attributes:
    backends: the backends, of which the first answers if none is faster.
  """

  name = 'auto'
  any_batch = False  # XLA's programs are of few sizes

  def __init__(
    self,
    backends: Sequence[Backend],
    manifest: Manifest,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Joins backends of one bundle.

    Args:
      backends: the backends.
      manifest: description of the bundle.
      clock: () -> seconds; default: the time.
    """
    self.backends = tuple(backends)
    self._manifest = manifest
    self._clock = clock
    self._one = threading.Lock()  # two measurements would disturb each other

  def prepare(self, entry: WidthEntry) -> tuple[Any, ...]:
    return tuple(backend.prepare(entry) for backend in self.backends)

  def takes(self, dtype: np.dtype) -> bool:
    return any(backend.takes(dtype) for backend in self.backends)

  def compile(
    self,
    entry: WidthEntry,
    inputs: Sequence[jax.ShapeDtypeStruct],
    weights: Callable[[], Any],
  ) -> Compiled:
    dtype = np.dtype(inputs[0].dtype)
    able = [i for i, b in enumerate(self.backends) if b.takes(dtype)]
    found = {
      i: self.backends[i].compile(
        entry, inputs, functools.partial(_at, weights, i)
      )
      for i in able
    }
    if len(found) == 1:
      ((place, only),) = found.items()
      return _of_place(only, place)
    with self._one:
      chosen = self._choose(entry, inputs[0], found, weights())
    return _of_place(found[chosen], chosen)

  def _choose(
    self,
    entry: WidthEntry,
    images: jax.ShapeDtypeStruct,
    programs: Mapping[int, Compiled],
    weights: Sequence[Any],
  ) -> int:
    """Returns the number of the backend that is faster on random images."""
    random = np.random.default_rng(0)
    if images.dtype == np.uint8:
      given = random.integers(0, 256, images.shape, np.uint8)
    else:
      given = random.standard_normal(images.shape).astype(images.dtype)
    calls = {
      place: functools.partial(_of_place(program, place).call, weights, given)
      for place, program in programs.items()
    }
    self._check_equal(entry, [call() for call in calls.values()])
    times = time_by_turns(calls, self._clock)
    chosen = min(times, key=lambda place: (times[place], place))
    said = ', '.join(
      f'{self.backends[place].name} {1e3 * seconds:.3g} ms'
      for place, seconds in times.items()
    )
    _LOG.info(
      'width %s, %d images: %s', label(entry.width), images.shape[0], said
    )
    return chosen

  def _check_equal(self, entry: WidthEntry, outputs: Sequence[np.ndarray]):
    """Raises BundleError if the backends answer differently."""
    first, *others = (x.astype(np.float64) for x in outputs)
    single = self._manifest.model.get('dtype') == 'float32'
    tolerance = 1e-3 if single else 0.1
    largest = np.abs(first).max(initial=0.0) or 1.0
    for other, backend in zip(others, self.backends[1:], strict=False):
      difference = np.abs(first - other).max(initial=0.0) / largest
      if not difference <= tolerance:  # NaN is a difference, too
        raise BundleError(
          f'width {label(entry.width)}: {backend.name} and'
          f' {self.backends[0].name} differ by {difference:.1e} of the largest'
          f' output, more than {tolerance:.0e}; load it with one of them'
        )

  def place(self, array: np.ndarray) -> Any:
    return array


def _at(weights: Callable[[], Any], place: int) -> Any:
  return weights()[place]


def _of_place(program: Compiled, place: int) -> Compiled:
  """Returns a program that takes the weights of all, and gives arrays of numpy.

  Args:
    program: program of one backend.
    place: number of the backend among the weights.
  """

  def call(weights, *inputs):
    return np.asarray(program.call(weights[place], *inputs))

  return dataclasses.replace(program, call=call)


def time_by_turns(
  calls: Mapping[int, Callable[[], Any]], clock: Callable[[], float]
) -> dict[int, float]:
  """Returns the median seconds of each call; they take turns.

  A first turn is not counted. There are 3 to 15 others, and none begins after a
  quarter of a second beyond the third.

  Args:
    calls: functions to call.
    clock: () -> seconds.
  """
  times: dict[int, list[float]] = {name: [] for name in calls}
  for call in calls.values():
    call()
  begin = clock()
  for turn in range(_MOST_TURNS):
    if turn >= _LEAST_TURNS and clock() - begin > _SECONDS:
      break
    names = list(calls)
    for name in names if turn % 2 else reversed(names):
      start = clock()
      calls[name]()
      times[name].append(clock() - start)
  return {name: float(np.median(taken)) for name, taken in times.items()}


def resolve(
  folder: pathlib.Path,
  manifest: Manifest,
  entries: Sequence[WidthEntry],
  device: jax.Device | None,
) -> str:
  """Returns the backend that 'auto' is for a bundle on this machine.

  That is 'auto' where there is a choice; else the log says why there is none.

  Args:
    folder: folder of the bundle.
    manifest: its manifest.
    entries: the widths to load.
    device: device to run on; None is jax's own.
  """
  platform = bundle.platform_of(device or jax.devices()[0])
  if entries[0].predict is None:
    chosen, reason = 'onnxruntime', 'it has no programs for jax'
  elif platform not in manifest.platforms and entries[0].onnx is not None:
    chosen, reason = 'onnxruntime', f'it has no programs for {platform}'
  elif entries[0].onnx is None:
    chosen, reason = 'jax', 'it has no ONNX models (export --format=jax,onnx)'
  elif platform != 'cpu':
    chosen, reason = 'jax', f'ONNX Runtime is for the CPU, not for {platform}'
  elif not all(map(importlib.util.find_spec, ('onnx', 'onnxruntime'))):
    chosen, reason = 'jax', 'the extra slimjax[onnx] is not installed'
  else:
    return 'auto'
  _LOG.info("backend='auto' of %s is %r: %s", folder, chosen, reason)
  return chosen
