"""Runs the programs of a network, by XLA or by ONNX Runtime."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any
from typing import Protocol

import jax
from jax import export as jax_export
import numpy as np

from slimjax.runtime import batching
from slimjax.runtime import bundle
from slimjax.runtime.errors import refusing
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.onnx import checking
from slimjax.widths import Width

BACKENDS = ('jax', 'onnxruntime', 'auto')
Preprocess = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A width's program for one shape of images.

  Attributes:
    call: (prepared weights, *inputs) -> outputs.
    compile_s: seconds the compilation took, beside whatever else ran; None if
      it was not timed.
    temp_bytes: temporary memory of the program; None if the backend does not
      report it.
    backend: name of the backend that runs it.
  """

  call: Any
  compile_s: float | None
  temp_bytes: int | None
  backend: str


class Backend(Protocol):
  """Runs the programs of a network.

  Attributes:
    name: one of `BACKENDS`.
    any_batch: whether a program takes batches of any size.
  """

  name: str
  any_batch: bool

  def prepare(self, entry: WidthEntry) -> Any:
    """Returns the weights of a width as its programs take them."""

  def takes(self, dtype: np.dtype) -> bool:
    """Returns whether its programs take images of a type."""

  def compile(
    self,
    entry: WidthEntry,
    inputs: Sequence[jax.ShapeDtypeStruct],
    weights: Callable[[], Any],
  ) -> Compiled:
    """Returns the program of a width for inputs of these shapes and types.

    Args:
      entry: the width.
      inputs: shapes and types; the first are the images, uint8 or preprocessed.
      weights: () -> what `prepare` returns for the width.

    Raises:
      ValueError: its programs do not take such images.
    """

  def place(self, array: np.ndarray) -> Any:
    """Returns an array on the host as the programs' outputs are."""


@dataclasses.dataclass(frozen=True)
class WidthPrograms:
  """The functions of one width that XLA compiles.

  Attributes:
    read: () -> the tensors that `prepare` takes.
    shapes: () -> shapes of these tensors.
    prepare: tensors -> weights.
    predict: (weights, floating images) -> outputs; of a network that detects
      objects, (weights, floating images, int32 [b, 2]), see `Network`.
  """

  read: Callable[[], Mapping[str, Any]]
  shapes: Callable[[], Mapping[str, jax.ShapeDtypeStruct]]
  prepare: Callable[[Any], Any]
  predict: Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class BySize:
  """Calls the program for the size of the images that it is given.

  Attributes:
    programs: programs of `jax.export` by (height, width).
    place: number of the images among the arguments.
  """

  programs: Mapping[tuple[int, int], jax_export.Exported]
  place: int

  def __call__(self, *arguments: Any) -> Any:
    _, height, width, _ = arguments[self.place].shape
    return self.programs[height, width].call(*arguments)


class Xla:
  """Runs the programs of each width, compiled by XLA for one device."""

  name = 'jax'
  any_batch = False

  def __init__(
    self,
    programs: Mapping[Width, WidthPrograms],
    preprocess: Preprocess | None,
    device: jax.Device,
    folder: pathlib.Path | None = None,
  ):
    """Joins the programs of a network.

    Args:
      programs: functions of each width.
      preprocess: uint8 images -> floating images, or None.
      device: device that they run on.
      folder: folder of the bundle that they are from; default: none, they are
        our own.
    """
    self._programs = programs
    self._folder = folder
    self._device = device
    self._sharding = jax.sharding.SingleDeviceSharding(device)
    self._functions = {
      width: _joined(program.predict, preprocess)
      for width, program in programs.items()
    }
    self._prepare = {
      width: jax.jit(program.prepare, out_shardings=self._sharding)
      for width, program in programs.items()
    }

  def function(self, entry: WidthEntry) -> Any:
    """Returns the jitted (weights, *inputs) -> outputs of a width."""
    return self._functions[entry.width]

  def prepare(self, entry: WidthEntry) -> Any:
    tensors = self._programs[entry.width].read()
    tensors = jax.device_put(tensors, self._sharding)
    with refusing(self._file(entry.prepare)):
      return jax.block_until_ready(self._prepare[entry.width](tensors))

  def takes(self, dtype: np.dtype) -> bool:
    return True

  def compile(
    self,
    entry: WidthEntry,
    inputs: Sequence[jax.ShapeDtypeStruct],
    weights: Callable[[], Any],
  ) -> Compiled:
    start = time.perf_counter()
    like = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=self._sharding
    )
    tensors = self._programs[entry.width].shapes()
    with refusing(self._file(entry.prepare)):
      shapes = jax.eval_shape(self._prepare[entry.width], tensors)
    with refusing(self._file(entry.predict)):
      lowered = self._functions[entry.width].lower(
        jax.tree.map(like, shapes), *map(like, inputs)
      )
      program = lowered.compile()
    analysis = program.memory_analysis()
    return Compiled(
      call=program,
      compile_s=time.perf_counter() - start,
      temp_bytes=getattr(analysis, 'temp_size_in_bytes', None),
      backend=self.name,
    )

  def place(self, array: np.ndarray) -> Any:
    return jax.device_put(array, self._sharding)

  def _file(self, name: str | None) -> pathlib.Path | None:
    return self._folder and self._folder / (name or '')


class OnnxRuntime:
  """Runs the bundle's ONNX models by ONNX Runtime on the CPU."""

  name = 'onnxruntime'

  def __init__(
    self,
    folder: pathlib.Path,
    manifest: Manifest,
    preprocess: Preprocess | None,
  ):
    try:
      import onnx  # noqa: F401
      import onnxruntime
    except ImportError as error:
      raise ImportError(
        "backend='onnxruntime' needs the extra: pip install 'slimjax[onnx]'"
      ) from error
    self._runtime = onnxruntime
    self._folder = folder
    self._manifest = manifest
    self.any_batch = manifest.batch_size is None
    # Preprocessing runs on the CPU, like the sessions, even if there is a GPU.
    self._cpu = jax.local_devices(backend='cpu')[0]
    self._preprocess = preprocess and jax.jit(preprocess)

  def prepare(self, entry: WidthEntry) -> Any:
    assert entry.onnx is not None
    checking.check_file(self._folder, entry.onnx, self._manifest)
    path = self._folder / entry.onnx
    options = self._runtime.SessionOptions()
    options.log_severity_level = 3
    with refusing(path):
      session = self._runtime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
      )
    checking.check_session(path, session, self._manifest)
    return session

  def takes(self, dtype: np.dtype) -> bool:
    return dtype == np.uint8 or self._manifest.onnx_input != 'uint8'

  def compile(
    self,
    entry: WidthEntry,
    inputs: Sequence[jax.ShapeDtypeStruct],
    weights: Callable[[], Any],
  ) -> Compiled:
    assert entry.onnx is not None
    path, dtype = self._folder / entry.onnx, inputs[0].dtype
    if not self.takes(dtype):
      raise ValueError(
        f'these ONNX models preprocess by themselves: give uint8, got {dtype}'
      )
    inside = self._manifest.onnx_input == 'uint8'

    def call(session, images):
      if dtype == np.uint8 and not inside:
        images = self._preprocessed(np.asarray(images))
      with refusing(path):
        return session.run(None, {'images': np.asarray(images)})[0]

    return Compiled(call, compile_s=None, temp_bytes=None, backend=self.name)

  def _preprocessed(self, images: np.ndarray) -> np.ndarray:
    """Preprocesses in few sizes of batches, since each is compiled."""
    assert self._preprocess is not None
    size = self._manifest.batch_size or batching.power_of_two(len(images))
    given = jax.device_put(batching.padded(images, size), self._cpu)
    return np.asarray(self._preprocess(given))[: len(images)]

  def place(self, array: np.ndarray) -> Any:
    return array


def _joined(predict, preprocess):
  """Returns one compiled function that takes uint8 or floating images."""

  def run(weights, images, *others):
    if images.dtype == np.uint8:
      images = preprocess(images)
    return predict(weights, images, *others)

  return jax.jit(run)


def check_program(
  folder: pathlib.Path,
  manifest: Manifest,
  predict: str | None,
  device: jax.Device,
) -> None:
  """Raises ValueError unless the bundle has programs for a device."""
  if predict is None:
    raise ValueError(
      f'{folder} has no programs for jax, only ONNX models: load it with'
      " backend='onnxruntime'"
    )
  platform = bundle.platform_of(device)
  if platform not in manifest.platforms:
    raise ValueError(
      f'{folder} was exported for {", ".join(manifest.platforms)}, not for'
      f' {platform}; export it with --platforms={platform}'
    )
