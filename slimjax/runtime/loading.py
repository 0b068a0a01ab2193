"""Loads a bundle: `slimjax.runtime.load`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import os

import jax

from slimjax import checks
from slimjax.runtime import batching
from slimjax.runtime import bundle
from slimjax.runtime.backends import Backend
from slimjax.runtime.backends import BACKENDS
from slimjax.runtime.backends import check_program
from slimjax.runtime.backends import OnnxRuntime
from slimjax.runtime.backends import Xla
from slimjax.runtime.choosing import Fastest
from slimjax.runtime.choosing import resolve
from slimjax.runtime.errors import refusing
from slimjax.runtime.forking import check_process
from slimjax.runtime.forking import first_process
from slimjax.runtime.inputs import measure_range
from slimjax.runtime.network import Network
from slimjax.runtime.stored import read_programs
from slimjax.widths import Width

PREPARE = ('load', 'use', 'lean')
MAX_BATCH = 64
MAX_PROGRAMS = 32
_LARGEST_BATCH = 2**20


def load(
  folder: str | os.PathLike,
  *,
  widths: Sequence[Width | str] = (),
  backend: str = 'jax',
  prepare: str = 'load',
  batch_sizes: Sequence[int] = (1,),
  max_batch: int = MAX_BATCH,
  max_programs: int = MAX_PROGRAMS,
  device: jax.Device | None = None,
  sha256: str | None = None,
) -> Network:
  """Loads a bundle that `slimjax.runtime.export` wrote.

  Batches of any size are answered. Programs are compiled for the powers of two
  up to `max_batch` and for `batch_sizes`, or for the one size of a bundle that
  has a fixed one: at most 7 sizes of a width by default. A program has no copy
  of the weights. It holds its code, about 11 MB of it for a MobileNet v1 on a
  CPU, and while it runs the temporary memory that `Network.memory` reports.

  Args:
    folder: folder of the bundle.
    widths: numbers, channels or printed names of the widths to load; default:
      all it has.
    backend: 'jax' (default), 'onnxruntime' (on the CPU; needs the extra
      `onnx`), or 'auto': on a CPU each program, that of a width and a batch
      size, is made of both when it is compiled, and the one that is faster on
      random images answers; where there is no choice, as without the extra or
      without ONNX models in the bundle, the log says why, and it is the other.
    prepare: when weights are prepared: 'load' (default: all widths now), 'use'
      (each when it is first used), or 'lean' (one at a time, at each switch).
    batch_sizes: batch sizes to compile now, several at a time, for the
      documented form of images (uint8, where the bundle can preprocess); others
      are compiled when they first come, while these answer. With 'lean' as
      well: programs take little memory. Default: 1; if empty, programs are
      compiled at the first request.
    max_batch: largest power of two that is a batch of its own; larger batches
      are split. Default: 64.
    max_programs: number of programs that are kept, at least those compiled now;
      beyond it, the one not used for longest is forgotten. Default: 32.
    device: device to run on; default: jax's own.
    sha256: digest of the bundle that is expected, as export printed it. The
      hashes inside a bundle say that it is whole; only this one says that it is
      the bundle you know. Default: any, and its programs are first read in a
      process of their own, since damaged ones can end the process.

  Raises:
    FileNotFoundError: there is no such folder.
    OSError: a file cannot be read.
    BundleError: the folder is no bundle, not as it was written, not the one
      that is expected, or holds what a bundle may not; the text names the file.
    ValueError: the bundle has no such widths, backend, batch sizes or platform.
    RuntimeError: the process was forked from one that has loaded a network.
  """
  check_process(first_process(), 'a network')
  folder = bundle.local(folder)
  check_options(backend, prepare, batch_sizes, max_batch, max_programs)
  manifest = bundle.read_manifest(folder, sha256=sha256)
  chosen = {manifest.entry(width).width for width in widths}
  entries = [e for e in manifest.widths if not chosen or e.width in chosen]
  if backend == 'auto':
    backend = resolve(folder, manifest, entries, device)
  if backend != 'onnxruntime':
    device = device or jax.devices()[0]
    check_program(folder, manifest, entries[0].predict, device)
  if backend == 'onnxruntime' and entries[0].onnx is None:
    raise ValueError(
      f'{folder} has no ONNX models; export it with --format=jax,onnx'
    )
  stored = read_programs(
    folder,
    manifest,
    entries if backend != 'onnxruntime' else (),
    trusted=sha256 is not None,
  )
  preprocess = stored.preprocess
  if preprocess is not None and manifest.input_range is None:
    # Bundles of schemas before 3 do not say it.
    with refusing(folder / bundle.PREPROCESS):
      found = measure_range(
        preprocess, manifest.image_size, manifest.batch_size
      )
    manifest = dataclasses.replace(manifest, input_range=found)
  made: list[Backend] = []
  if backend != 'onnxruntime':
    assert device is not None
    made.append(Xla(stored.widths, preprocess, device, folder))
  if backend != 'jax':
    made.append(OnnxRuntime(folder, manifest, preprocess))
  fixed = manifest.batch_size
  sizes = (fixed,) if fixed else batching.bucket_sizes(max_batch, batch_sizes)
  network = Network(
    manifest,
    made[0] if len(made) == 1 else Fastest(made, manifest),
    [entry.width for entry in entries],
    prepare=prepare,
    batch_sizes=sizes,
    max_programs=max(
      max_programs,
      len(entries) * len(batch_sizes) * len(manifest.image_sizes),
    ),
    folder=folder,
  )
  prepare_ahead(network, batch_sizes, weights=prepare == 'load')
  return network


def check_options(
  backend: str,
  prepare: str,
  batch_sizes: Sequence[int],
  max_batch: int,
  max_programs: int,
) -> None:
  """Raises ValueError unless these are options of `load`."""
  checks.choice('backend', backend, allowed=BACKENDS)
  checks.choice('prepare', prepare, allowed=PREPARE)
  size = functools.partial(checks.whole, least=1, most=_LARGEST_BATCH)
  checks.listed('batch_sizes', batch_sizes, check=size)
  size('max_batch', max_batch)
  checks.whole('max_programs', max_programs, least=1)


def prepare_ahead(
  network: Network, batch_sizes: Sequence[int], *, weights: bool
) -> None:
  """Compiles programs for batch sizes, and prepares weights, in threads.

  Args:
    network: network whose programs they are, at every width.
    batch_sizes: batch sizes of images in the documented form, uint8 where there
      is a preprocessing.
    weights: whether the weights of every width are prepared, too.
  """
  dtype = 'uint8' if network.manifest.preprocesses else 'float32'
  jobs = [
    functools.partial(network.compiled, width, batch_size, dtype, size)
    for width in network.widths
    for batch_size in batch_sizes
    for size in network.manifest.image_sizes
  ]
  if weights:
    jobs += [functools.partial(network.weights, w) for w in network.widths]
  if not jobs:
    return
  # What is measured is measured alone.
  workers = 1 if network.backend == Fastest.name else os.cpu_count() or 1
  with ThreadPoolExecutor(min(len(jobs), workers)) as pool:
    for done in [pool.submit(job) for job in jobs]:
      done.result()
