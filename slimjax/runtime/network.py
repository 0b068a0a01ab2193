"""Runs a bundle at any of its widths: `slimjax.runtime.load`.

Nothing here knows a model's source: the programs of the bundle run.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import threading
from typing import Any

import jax
import numpy as np

from slimjax.runtime import bundle
from slimjax.runtime.backends import Backend
from slimjax.runtime.backends import BACKENDS
from slimjax.runtime.backends import check_program
from slimjax.runtime.backends import Compiled
from slimjax.runtime.backends import OnnxRuntime
from slimjax.runtime.backends import Xla
from slimjax.runtime.bundle import BundleError
from slimjax.runtime.bundle import Manifest
from slimjax.runtime.bundle import WidthEntry
from slimjax.runtime.measuring import measure
from slimjax.runtime.table import Table
from slimjax.widths import canonical
from slimjax.widths import Width

PREPARE = ('load', 'use', 'lean')


@dataclasses.dataclass(frozen=True)
class Memory:
  """What prepared weights take, in bytes.

  Attributes:
    prepared: {width: bytes when it is prepared}.
    held: bytes of the widths that are prepared now.
  """

  prepared: Mapping[Width, int]
  held: int

  @property
  def all_widths(self) -> int:
    """Bytes with every width prepared (`prepare='load'`)."""
    return sum(self.prepared.values())

  @property
  def lean(self) -> int:
    """The most bytes with one width at a time (`prepare='lean'`)."""
    return max(self.prepared.values())

  def __str__(self) -> str:
    return (
      f'prepared weights: {self.all_widths / 1e6:.1f} MB for all widths'
      f' ({self.all_widths / self.lean:.2f} times the widest), at most'
      f' {self.lean / 1e6:.1f} MB one at a time (lean); now'
      f' {self.held / 1e6:.1f} MB'
    )


class Network:
  """A network that runs at any width of its bundle; from `load`.

  `net(images, width=0.5)` may be called from many threads.

  Attributes:
    manifest: the manifest of the bundle.
    widths: the widths that were loaded, thinnest first.
    functions: {width: function of images}, plain `jax.jit`-compiled functions
      bound to their prepared weights (`.func` and `.args`), which live as long
      as you hold them; with the backend 'jax' alone.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    manifest: Manifest,
    backend: Backend,
    widths: Sequence[Width],
    prepare: str,
  ):
    self.manifest = manifest
    self.widths = tuple(widths)
    self.functions = _Functions(self)
    self._folder = folder
    self._backend = backend
    self._entries = {width: manifest.entry(width) for width in widths}
    self._prepare = prepare
    self._weights: dict[Width, Any] = {}
    self._compiled: dict[tuple, Compiled] = {}
    self._lock = threading.RLock()

  @property
  def backend(self) -> str:
    """'jax' or 'onnxruntime'."""
    return self._backend.name

  def __call__(self, images: Any, *, width: Width) -> Any:
    """Returns the outputs: of a classifier logits [b, classes], float32.

    Args:
      images: uint8 [b, h, w, 3] as the manifest's `preprocessing` says, or
        floating images that have been preprocessed; the manifest has h and w.
      width: one of `widths`.

    Raises:
      ValueError: there is no such width, or the programs take other images.
    """
    entry = self._entry(width)
    images = self._checked(images)
    compiled = self.compiled(entry.width, images.shape[0], images.dtype)
    return compiled.call(self.weights(entry.width), images)

  def weights(self, width: Width) -> Any:
    """Returns the prepared weights of a width; prepares them if need be."""
    entry = self._entry(width)
    found = self._weights.get(entry.width)
    if found is not None:
      return found
    with self._lock:
      if entry.width not in self._weights:
        if self._prepare == 'lean':
          self._weights.clear()  # before the new ones take memory
        self._weights[entry.width] = self._backend.prepare(entry)
      return self._weights[entry.width]

  def release(self, width: Width) -> None:
    """Forgets a width's prepared weights until it is used again."""
    with self._lock:
      self._weights.pop(self._entry(width).width, None)

  def compiled(self, width: Width, batch_size: int, dtype: Any) -> Compiled:
    """Returns the program for a batch size and type of images.

    It is compiled the first time.
    """
    entry = self._entry(width)
    key = (entry.width, batch_size, np.dtype(dtype))
    found = self._compiled.get(key)
    if found is not None:
      return found
    with self._lock:
      if key not in self._compiled:
        self._compiled[key] = self._backend.compile(
          entry, (batch_size, *self.manifest.image_size, 3), np.dtype(dtype)
        )
      return self._compiled[key]

  def memory(self) -> Memory:
    """Returns what the prepared weights take."""
    sizes = {w: entry.prepared_bytes for w, entry in self._entries.items()}
    held = sum(sizes[width] for width in list(self._weights))
    return Memory(sizes, held)

  def verify(self, *, tolerance: float | None = None) -> dict[Width, float]:
    """Compares the outputs of every width with those stored in the bundle.

    Args:
      tolerance: the largest difference allowed, relative to the largest output;
        default: 1e-3, or 0.1 for networks or devices that compute with less
        than float32.

    Returns:
      {width: relative difference}.

    Raises:
      BundleError: a difference is larger.
    """
    dtype = self.manifest.model.get('dtype')
    by_xla = self.backend == 'jax'  # the ONNX models compute in float32
    single = dtype == 'float32'
    if tolerance is None:
      exact = single and jax.default_backend() == 'cpu'
      tolerance = 1e-3 if exact or not by_xla else 0.1
    # What bundles of schema 1 call logits.
    kinds = ('outputs', 'logits') if by_xla or single else ('float32',)
    sample = bundle.read_tensors(self._folder / bundle.SAMPLE)
    differences = {}
    for width, entry in self._entries.items():
      outputs = bundle.named_outputs(self(sample['images'], width=width))
      relative = []
      for name, found in outputs.items():
        keys = [f'{kind}/{entry.switch}{name}' for kind in kinds]
        (expected,) = (sample[key] for key in keys if key in sample)
        largest = np.abs(expected).max() or 1.0
        relative.append(np.abs(np.asarray(found) - expected).max() / largest)
      differences[width] = float(np.max(relative))
    # The comparison is negated so that NaN is wrong, too.
    wrong = {w: d for w, d in differences.items() if not d <= tolerance}
    if wrong:
      text = ', '.join(f'{d:.1e} at {w}' for w, d in wrong.items())
      raise BundleError(
        f'{self._folder} does not give the outputs it was written with:'
        f' {text}, relative, more than {tolerance:.1e}'
      )
    return differences

  def benchmark(self, **options: Any) -> Table:
    """Measures the network on this device; see `slimjax.runtime.measure`."""
    return measure(self, **options)

  def _entry(self, width: Width) -> WidthEntry:
    try:
      return self._entries[width]
    except (KeyError, TypeError):
      pass
    width = canonical(width)
    if width not in self._entries:
      raise ValueError(f'width {width} is not loaded, only {self.widths}')
    return self._entries[width]

  def _checked(self, images: Any) -> Any:
    if not isinstance(images, (np.ndarray, jax.Array)):
      images = np.asarray(images)
    height, width = self.manifest.image_size
    fixed = self.manifest.batch_size
    batch = 'b' if fixed is None else fixed
    if images.ndim != 4 or images.shape[1:] != (height, width, 3):
      raise ValueError(
        f'images must have the shape [{batch}, {height}, {width}, 3], got'
        f' {list(images.shape)}'
      )
    if images.shape[0] != fixed if fixed else images.shape[0] < 1:
      raise ValueError(
        f'this bundle takes batches of {fixed or "at least 1"}, got'
        f' {images.shape[0]}'
      )
    if images.dtype == np.uint8:
      if bundle.PREPROCESS not in self.manifest.files:
        raise ValueError(
          'uint8 images, but this bundle was exported without preprocessing:'
          ' give floating images that are preprocessed'
        )
      return images
    if not jax.numpy.issubdtype(images.dtype, jax.numpy.floating):
      raise ValueError(
        'images must be uint8, or floating point and preprocessed, got'
        f' {images.dtype}'
      )
    return images if images.dtype == np.float32 else images.astype(np.float32)


class _Functions(Mapping[Width, Any]):
  """Binds a width's jitted function to its weights when it is asked for."""

  def __init__(self, network: Network):
    self._network = network

  def __getitem__(self, width: Width) -> Any:
    network = self._network
    if not isinstance(network._backend, Xla):
      raise ValueError("functions are of the backend 'jax'")
    entry = network._entry(width)
    return jax.tree_util.Partial(
      network._backend.function(entry), network.weights(entry.width)
    )

  def __iter__(self) -> Iterator[Width]:
    return iter(self._network.widths)

  def __len__(self) -> int:
    return len(self._network.widths)


def load(
  folder: str | os.PathLike,
  *,
  widths: Sequence[Width] = (),
  backend: str = 'jax',
  prepare: str = 'load',
  batch_sizes: Sequence[int] = (1,),
  device: jax.Device | None = None,
) -> Network:
  """Loads a bundle that `slimjax.runtime.export` wrote.

  Args:
    folder: folder of the bundle.
    widths: widths to load; default: all it has.
    backend: 'jax', or 'onnxruntime' (on the CPU; needs the extra `onnx`).
    prepare: when weights are prepared: 'load' (all widths now), 'use' (each
      when it is first used), or 'lean' (one at a time, anew at each switch).
    batch_sizes: batch sizes to compile now, for the documented form of images
      (uint8, where the bundle can preprocess); others are compiled when they
      first come. With 'lean' as well: programs take little memory.
    device: device to run on; default: jax's own.

  Raises:
    FileNotFoundError: there is no such folder.
    BundleError: the folder is no bundle, or not as it was written.
    ValueError: the bundle has no such widths, backend, batch sizes or platform.
  """
  folder = bundle.local(folder)
  for what, given, allowed in (
    ('backend', backend, BACKENDS),
    ('prepare', prepare, PREPARE),
  ):
    if given not in allowed:
      raise ValueError(f'{what} must be one of {allowed}, got {given!r}')
  if any(size < 1 for size in batch_sizes):
    raise ValueError(f'batch_sizes must be positive, got {[*batch_sizes]}')
  manifest = bundle.read_manifest(folder)
  chosen = {canonical(width) for width in widths}
  for width in chosen:
    manifest.entry(width)
  entries = [e for e in manifest.widths if not chosen or e.width in chosen]
  fixed = manifest.batch_size
  if fixed is not None:
    batch_sizes = (fixed,)

  made: Backend
  if backend == 'jax':
    device = device or jax.devices()[0]
    check_program(folder, manifest, entries[0].predict, device)
    made = Xla(folder, manifest, entries, device)
  else:
    if entries[0].onnx is None:
      raise ValueError(
        f'{folder} has no ONNX models; export it with --format=jax,onnx'
      )
    made = OnnxRuntime(folder, manifest)
  network = Network(folder, manifest, made, [e.width for e in entries], prepare)
  documented = bundle.PREPROCESS in manifest.files
  for width in network.widths:
    for batch_size in batch_sizes:
      network.compiled(width, batch_size, 'uint8' if documented else 'float32')
    if prepare == 'load':
      network.weights(width)
  return network
