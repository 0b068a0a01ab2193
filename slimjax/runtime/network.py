"""A network that runs at any of its widths, from a bundle or a run.

Nothing here knows a model's source: the programs that a backend compiles run.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import pathlib
import threading
from typing import Any

import jax
import numpy as np

from slimjax.runtime import batching
from slimjax.runtime import bundle
from slimjax.runtime.backends import Backend
from slimjax.runtime.backends import Compiled
from slimjax.runtime.backends import Xla
from slimjax.runtime.forking import check_process
from slimjax.runtime.forking import first_process
from slimjax.runtime.inputs import Inputs
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.measuring import measure
from slimjax.runtime.memory import Memory
from slimjax.runtime.programs import Programs
from slimjax.runtime.table import Table
from slimjax.runtime.verifying import verify
from slimjax.widths import find
from slimjax.widths import Width

# Width, shape and type of images.
Key = tuple[Width, tuple[int, ...], np.dtype]


class Network:
  """A network that runs at any of its widths; from `load`.

  `net(images, width=0.5)` may be called from many threads. Programs exist for a
  few batch sizes (`batch_sizes`); other batches are padded to the next size, or
  split beyond the largest. The outputs of an image do not depend on its batch,
  but for rounding: 1e-5 of the largest output in float32. If the program for a
  batch has not been compiled yet, smaller or larger ones answer while another
  thread compiles it. So a request waits for a compilation only if its width has
  no program at all for this type of images; `load` compiles one by default.

  Attributes:
    manifest: description of the network, its images and outputs.
    widths: the widths that were loaded, thinnest first.
    default_width: the width that is used where none is given.
    batch_sizes: batch sizes that programs are compiled for, smallest first.
    functions: {width: function of images}, as `net(images, width=width)`;
      inside `jax.jit` and other transformations it is traced. It is bound to
      its prepared weights (`.func` and `.args`), which live as long as you hold
      it; with the backend 'jax' alone. With 'auto', `compiled(width, size,
      dtype).backend` is the one that was faster.
  """

  def __init__(
    self,
    manifest: Manifest,
    backend: Backend,
    widths: Sequence[Width],
    *,
    prepare: str,
    batch_sizes: Sequence[int],
    max_programs: int,
    folder: pathlib.Path | None = None,
  ):
    self._home = first_process()
    self.manifest = manifest
    self.widths = tuple(widths)
    default = manifest.default_width
    self.default_width = default if default in self.widths else self.widths[-1]
    self.batch_sizes = tuple(batch_sizes)
    self._folder = folder
    self._backend = backend
    self._entries = {width: manifest.entry(width) for width in widths}
    self.functions = _Functions(self, backend)
    self._inputs = Inputs(manifest)
    self._lean = prepare == 'lean'
    self._weights: dict[Width, Any] = {}
    one = threading.Lock()
    self._preparing = {
      width: one if self._lean else threading.Lock() for width in widths
    }
    self._programs: Programs[Key, Compiled] = Programs(
      self._compile, max_programs
    )

  @property
  def backend(self) -> str:
    """Returns 'jax', 'onnxruntime', or 'auto': each program has its own."""
    return self._backend.name

  def __call__(
    self, images: Any, *, width: Width | None = None, hw: Any = None
  ) -> Any:
    """Returns the outputs; a classifier's are logits [b, classes], float32.

    With the backend 'jax' they are arrays of jax, and the call waits for those
    of a batch that is padded or split; others it returns while they are being
    computed. Other backends wait, and give arrays of numpy.

    Args:
      images: uint8 [b, h, w, 3] as the manifest's `preprocessing` says, or
        floating images that have been preprocessed; the manifest has h and w.
        An empty batch has outputs [0, ...].
      width: one of `widths`; default: `default_width`.
      hw: rows and columns of each image that are picture, int [b, 2]; for a
        network that detects objects, which finds none beyond; default: all.

    Raises:
      ValueError: there is no such width, or the programs take other images.
      RuntimeError: the process was forked from the one that loaded.
    """
    entry = self._entry(self.default_width if width is None else width)
    inputs = self._inputs(images, hw)
    return self._answer(entry.width, self.weights(entry.width), inputs)

  def _answer(self, width: Width, weights: Any, inputs: tuple[Any, ...]) -> Any:
    """Returns the outputs for checked inputs, by prepared weights.

    Args:
      width: the width.
      weights: its prepared weights.
      inputs: images, and what else the programs take of each.
    """
    check_process(self._home, 'the network')
    (count, *size), dtype = inputs[0].shape, np.dtype(inputs[0].dtype)
    exact = self._programs.ready((width, (count, *size), dtype))
    if exact is not None:
      return exact.call(weights, *inputs)
    chunks, outputs = [], []
    for chunk in self._chunks(width, (count, *size), dtype):
      program = self._programs.get((width, (chunk.size, *size), dtype))
      if chunk.size == count:
        return program.call(weights, *inputs)
      inputs = tuple(map(np.asarray, inputs))
      parts = [
        batching.padded(array[chunk.start : chunk.stop], chunk.size)
        for array in inputs
      ]
      outputs.append(program.call(weights, *parts))
      chunks.append(chunk)
    place = self._backend.place
    return jax.tree.map(
      lambda *rows: place(batching.joined(rows, chunks)), *outputs
    )

  def _chunks(
    self, width: Width, shape: tuple[int, ...], dtype: np.dtype
  ) -> Iterator[batching.Chunk]:
    """Yields the parts of a batch, if possible for programs that exist.

    Programs that are lacking are compiled meanwhile, and used for the parts
    that come after they are ready.
    """
    count, *rest = shape
    if self._ready(width, rest, dtype):
      wanted = batching.split(count, self._sizes(count))
      for size in {chunk.size for chunk in wanted}:
        self._programs.start((width, (size, *rest), dtype))
    start = 0
    while True:
      left = count - start
      sizes = self._ready(width, rest, dtype) or self._sizes(left)
      size = batching.next_size(left, sizes)
      stop = min(start + size, count)
      yield batching.Chunk(start, stop, size)
      start = stop
      if start == count:
        return

  def _ready(
    self, width: Width, rest: Sequence[int], dtype: np.dtype
  ) -> list[int]:
    """Returns the batch sizes whose programs have been compiled.

    Args:
      width: the width.
      rest: shape of one image.
      dtype: type of the images.
    """
    if self._backend.any_batch:
      return []
    return [
      size
      for size in self.batch_sizes
      if (width, (size, *rest), dtype) in self._programs
    ]

  def _sizes(self, count: int) -> Sequence[int]:
    """Returns the batch sizes of the programs for a batch."""
    if not self._backend.any_batch:
      return self.batch_sizes
    limit = self.batch_sizes[-1]
    return [min(count, limit) or 1, count % limit or limit]

  def weights(self, width: Width) -> Any:
    """Returns the prepared weights of a width; prepares them if need be."""
    entry = self._entry(width)
    found = self._weights.get(entry.width)
    if found is not None:
      return found
    check_process(self._home, 'the network')
    with self._preparing[entry.width]:
      found = self._weights.get(entry.width)
      if found is None:
        if self._lean:
          self._weights.clear()  # before the new ones take memory
        found = self._weights[entry.width] = self._backend.prepare(entry)
      return found

  def release(self, width: Width) -> None:
    """Forgets a width's prepared weights until it is used again."""
    entry = self._entry(width)
    with self._preparing[entry.width]:
      self._weights.pop(entry.width, None)

  def compiled(
    self,
    width: Width,
    batch_size: int,
    dtype: Any,
    image_size: tuple[int, int] | None = None,
  ) -> Compiled:
    """Returns the program that answers batches of a size and type of images.

    It is compiled the first time. If the batch is split, all its programs are
    compiled, and the largest is returned.

    Args:
      width: one of `widths`.
      batch_size: number of images.
      dtype: type of the images.
      image_size: (height, width); default: the manifest's, of several the
        first.
    """
    check_process(self._home, 'the network')
    entry, dtype = self._entry(width), np.dtype(dtype)
    rest = (*(image_size or self.manifest.image_size), 3)
    largest, *others = batching.split(batch_size, self._sizes(batch_size))
    for chunk in others:
      self._programs.get((entry.width, (chunk.size, *rest), dtype))
    return self._programs.get((entry.width, (largest.size, *rest), dtype))

  def _compile(self, key: Key) -> Compiled:
    width, shape, dtype = key
    inputs = [jax.ShapeDtypeStruct(shape, dtype)]
    if self.manifest.detects:
      inputs.append(jax.ShapeDtypeStruct((shape[0], 2), np.int32))
    weights = functools.partial(self.weights, width)
    return self._backend.compile(self._entries[width], inputs, weights)

  def memory(self) -> Memory:
    """Returns the memory of the prepared weights and of the programs."""
    sizes = {w: entry.prepared_bytes for w, entry in self._entries.items()}
    held = sum(sizes[width] for width in list(self._weights))
    programs = self._programs.all_ready()
    temporary = [p.temp_bytes for p in programs if p.temp_bytes is not None]
    return Memory(sizes, held, len(programs), max(temporary, default=None))

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
      ValueError: the network is not from a bundle.
    """
    if self._folder is None:
      raise ValueError('only a bundle has stored outputs to compare with')
    return verify(self, self._folder / bundle.SAMPLE, tolerance)

  def benchmark(self, **options: Any) -> Table:
    """Measures the network on this device; see `slimjax.runtime.measure`."""
    return measure(self, **options)

  def _entry(self, width: Width) -> WidthEntry:
    try:
      return self._entries[width]
    except (KeyError, TypeError):
      pass
    width = find(width, self.widths)
    if width not in self._entries:
      raise ValueError(f'width {width} is not loaded, only {self.widths}')
    return self._entries[width]


class _Function:
  """Runs one width, (weights, images) -> outputs; jitted where it is traced."""

  def __init__(self, network: Network, width: Width, jitted: Any):
    self._network = network
    self._width = width
    self._jitted = jitted
    self.lower = jitted.lower

  def __call__(self, weights: Any, images: Any, hw: Any = None) -> Any:
    leaves = [images, hw, *jax.tree.leaves(weights)]
    check = self._network._inputs
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
      inputs = check.whole(images) if hw is None else (images, hw)
      return self._jitted(weights, *inputs)
    return self._network._answer(self._width, weights, check(images, hw))


class _Functions(Mapping[Width, Any]):
  """Binds a width's function to its weights when it is asked for."""

  def __init__(self, network: Network, backend: Backend):
    self._network = network
    self._functions = {}
    if isinstance(backend, Xla):
      self._functions = {
        width: _Function(network, width, backend.function(entry))
        for width, entry in network._entries.items()
      }

  def __getitem__(self, width: Width) -> Any:
    width = self._network._entry(width).width
    if not self._functions:
      raise ValueError("functions are of the backend 'jax'")
    return jax.tree_util.Partial(
      self._functions[width], self._network.weights(width)
    )

  def __iter__(self) -> Iterator[Width]:
    return iter(self._network.widths)

  def __len__(self) -> int:
    return len(self._network.widths)
