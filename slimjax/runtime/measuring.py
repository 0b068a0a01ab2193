"""Measures a network on this device: `slimjax.runtime.measure`."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import datetime
import functools
import os
import platform
import time
from typing import Any

import jax
import numpy as np

from slimjax.runtime import bundle
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.table import QUANTILES
from slimjax.runtime.table import Row
from slimjax.runtime.table import Table
from slimjax.widths import find
from slimjax.widths import Width

# Calls of a turn that count; one before them finds the caches cold.
_CALLS = 10
# Resamples that a confidence interval is made of.
_RESAMPLES = 400
_PACKAGES = {
  'jax': ('slimjax', 'jax', 'jaxlib'),
  'onnxruntime': ('slimjax', 'onnxruntime'),
  'auto': ('slimjax', 'jax', 'jaxlib', 'onnxruntime'),
}


def measure(
  network: Any,
  *,
  widths: Sequence[Width] = (),
  batch_sizes: Sequence[int] = (1,),
  rounds: int = 30,
  on_round: Callable[[int, int], None] | None = None,
) -> Table:
  """Times requests at every width, from images on the host to outputs there.

  Each round takes turns over all widths and batch sizes, in another order each
  time, so that what drifts (temperature, other programs) hits them alike. A
  turn is one request that is not counted and ten that are. Confidence
  intervals resample whole turns, since what disturbs a request lasts.

  Args:
    network: a `Network`, from `slimjax.runtime.load`.
    widths: widths to measure; default: all that are loaded.
    batch_sizes: numbers of images in a request; default: 1.
    rounds: number of turns of each width, at least 3; default: 30.
    on_round: function called with (rounds done, rounds) after each; default:
      none.

  Returns:
    The table, one row per width and batch size.

  Raises:
    ValueError: there is no such width or batch size, or too few rounds.
  """
  if rounds < 3:
    raise ValueError(f'rounds must be at least 3, got {rounds}')
  chosen = [find(w, network.widths) for w in widths] or list(network.widths)
  manifest = network.manifest
  dtype = 'uint8' if manifest.preprocesses else 'float32'
  random = np.random.default_rng(0)
  requests = {
    batch_size: _images(random, batch_size, manifest.image_size, dtype)
    for batch_size in batch_sizes
  }
  cells = [(width, size) for width in chosen for size in batch_sizes]
  for width, size in cells:  # to compile, prepare and warm up
    network.compiled(width, size, dtype)
    for _ in range(3):
      _fetch(network(requests[size], width=width))
  times = time_in_turns(
    {
      (width, size): functools.partial(network, requests[size], width=width)
      for width, size in cells
    },
    rounds=rounds,
    on_round=on_round,
  )
  return Table(
    rows=tuple(
      _row(network, width, size, dtype, times[width, size])
      for width, size in cells
    ),
    device=describe_device(network.backend),
    backend=network.backend,
    measured=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    versions=bundle.versions(_PACKAGES[network.backend]),
    headline=manifest.headline,
  )


def time_in_turns(
  calls: Mapping[Any, Callable[[], Any]],
  *,
  rounds: int,
  on_round: Callable[[int, int], None] | None = None,
) -> dict[Any, np.ndarray]:
  """Returns the times of calls, each until its outputs are on the host.

  Each round takes turns over all calls, in another order each time. A turn is
  one call that is not counted and ten that are.

  Args:
    calls: functions to call, by names.
    rounds: number of turns of each.
    on_round: function called with (rounds done, rounds) after each; default:
      none.

  Returns:
    Milliseconds [rounds, calls of a turn], by name.
  """
  names = list(calls)
  random = np.random.default_rng(0)
  times: dict[Any, list[list[float]]] = {name: [] for name in names}
  for done in range(rounds):
    for index in random.permutation(len(names)):
      call = calls[names[index]]
      _fetch(call())
      turn = []
      for _ in range(_CALLS):
        start = time.perf_counter()
        _fetch(call())
        turn.append(time.perf_counter() - start)
      times[names[index]].append(turn)
    if on_round is not None:
      on_round(done + 1, rounds)
  return {name: 1e3 * np.asarray(turns) for name, turns in times.items()}


def record(
  table: Table, folder: str | os.PathLike, batch_size: int = 1
) -> Manifest:
  """Writes measured latencies into the manifest of a bundle.

  Args:
    table: table that was measured of the bundle.
    folder: folder of the bundle.
    batch_size: batch size whose latencies are written; default: 1.

  Returns:
    The new manifest.

  Raises:
    ValueError: the batch size was not measured, or the folder is no bundle with
      these widths.
  """
  return bundle.record_latencies(
    folder,
    {row.width: row.p50_ms for row in table.of_batch(batch_size)},
    {
      'device': table.device,
      'backend': table.backend,
      'batch_size': batch_size,
      'measured': table.measured,
    },
  )


def _fetch(outputs: Any) -> None:
  jax.tree.map(np.asarray, outputs)


def _images(random, batch_size, image_size, dtype):
  shape = (batch_size, *image_size, 3)
  if dtype == 'uint8':
    return random.integers(0, 256, shape, dtype=np.uint8)
  return random.standard_normal(shape, dtype=np.float32)


def _row(network, width, size, dtype, times) -> Row:
  entry = network.manifest.entry(width)
  compiled = network.compiled(width, size, dtype)
  levels = np.quantile(times, QUANTILES)
  random = np.random.default_rng(0)
  turns = random.integers(0, len(times), (_RESAMPLES, len(times)))
  resampled = np.quantile(
    times[turns].reshape(_RESAMPLES, -1), QUANTILES, axis=1
  )
  low, high = np.quantile(resampled, (0.025, 0.975), axis=1)
  intervals = list(zip(low.tolist(), high.tolist(), strict=True))
  return Row(
    width=width,
    batch_size=size,
    p50_ms=float(levels[0]),
    p95_ms=float(levels[1]),
    p99_ms=float(levels[2]),
    p50_ci=intervals[0],
    p95_ci=intervals[1],
    p99_ci=intervals[2],
    images_per_second=float(1e3 * size / times.mean()),
    requests=times.size,
    compile_s=compiled.compile_s,
    weight_bytes=entry.prepared_bytes,
    temp_bytes=compiled.temp_bytes,
    macs=entry.macs,
    params=entry.params,
    error=entry.error,
    backend=compiled.backend,
  )


def describe_device(backend: str) -> str:
  """Returns the device in words: its kind, the processor and its cores.

  Args:
    backend: one of `backends.BACKENDS`; only 'jax' leaves the processor.
  """
  processor = platform.processor() or platform.machine()
  try:
    with open('/proc/cpuinfo') as file:
      for line in file:
        if line.startswith('model name'):
          processor = line.split(':', 1)[1].strip()
          break
  except OSError:
    pass
  if hasattr(os, 'sched_getaffinity'):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  host = f'{processor}, {cores} cores'
  if backend == 'jax' and jax.default_backend() != 'cpu':
    return f'{jax.devices()[0].device_kind} ({host})'
  return host
