"""Runs the programs of a bundle, by XLA or by ONNX Runtime."""

import dataclasses
import pathlib
import time
from typing import Any
from typing import Protocol

import jax
from jax import export as jax_export
import numpy as np

from slimjax.runtime import bundle
from slimjax.runtime.bundle import BundleError
from slimjax.runtime.bundle import Manifest
from slimjax.runtime.bundle import WidthEntry

BACKENDS = ('jax', 'onnxruntime')


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A width's program for one shape of images.

  Attributes:
    call: (prepared weights, images) -> outputs
    compile_s: seconds the compilation took; None if it was not timed.
    temp_bytes: temporary memory of the program; None if the backend does not
      report it.
  """

  call: Any
  compile_s: float | None
  temp_bytes: int | None


class Backend(Protocol):
  """Runs the programs of a bundle."""

  name: str

  def prepare(self, entry: WidthEntry) -> Any:
    """Returns the weights of a width as its programs take them."""

  def compile(
    self, entry: WidthEntry, shape: tuple[int, ...], dtype: np.dtype
  ) -> Compiled:
    """Returns the program of a width for images of a shape and type."""


class Xla:
  """Runs the bundle's programs, compiled by XLA."""

  name = 'jax'

  def __init__(self, folder, manifest, entries, device):
    self._folder = folder
    self._sharding = jax.sharding.SingleDeviceSharding(device)
    preprocess = _preprocess(folder, manifest)
    self._functions = {}
    self._prepare = {}
    for entry in entries:
      predict = _program(folder, entry.predict).call
      self._functions[entry.width] = _joined(predict, preprocess)
      self._prepare[entry.width] = jax.jit(
        _program(folder, entry.prepare).call, out_shardings=self._sharding
      )

  def function(self, entry):
    return self._functions[entry.width]

  def prepare(self, entry):
    tensors = bundle.read_tensors(self._folder / bundle.WEIGHTS, entry.inputs)
    tensors = jax.device_put(tensors, self._sharding)
    return jax.block_until_ready(self._prepare[entry.width](tensors))

  def compile(self, entry, shape, dtype):
    start = time.perf_counter()
    like = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=self._sharding
    )
    tensors = bundle.tensor_shapes(self._folder / bundle.WEIGHTS, entry.inputs)
    weights = jax.eval_shape(self._prepare[entry.width], tensors)
    lowered = self._functions[entry.width].lower(
      jax.tree.map(like, weights), like(jax.ShapeDtypeStruct(shape, dtype))
    )
    program = lowered.compile()
    analysis = program.memory_analysis()
    return Compiled(
      call=program,
      compile_s=time.perf_counter() - start,
      temp_bytes=getattr(analysis, 'temp_size_in_bytes', None),
    )


class OnnxRuntime:
  """Runs the bundle's ONNX models by ONNX Runtime on the CPU."""

  name = 'onnxruntime'

  def __init__(self, folder, manifest):
    try:
      import onnxruntime
    except ImportError as error:
      raise ImportError(
        "backend='onnxruntime' needs the extra: pip install 'slimjax[onnx]'"
      ) from error
    self._runtime = onnxruntime
    self._folder = folder
    preprocess = _preprocess(folder, manifest)
    # Preprocessing runs on the CPU, like the sessions, even if there is a GPU.
    self._cpu = jax.local_devices(backend='cpu')[0]
    self._preprocess = preprocess and jax.jit(preprocess)

  def prepare(self, entry):
    options = self._runtime.SessionOptions()
    options.log_severity_level = 3
    return self._runtime.InferenceSession(
      self._folder / entry.onnx, options, providers=['CPUExecutionProvider']
    )

  def compile(self, entry, shape, dtype):
    del entry, shape

    def call(session, images):
      if dtype == np.uint8:
        images = self._preprocess(jax.device_put(images, self._cpu))
      return session.run(None, {'images': np.asarray(images)})[0]

    return Compiled(call=call, compile_s=None, temp_bytes=None)


def _joined(predict, preprocess):
  """Returns one compiled function that takes uint8 or floating images."""

  def run(weights, images):
    if images.dtype == np.uint8:
      images = preprocess(images)
    return predict(weights, images)

  return jax.jit(run)


def _program(folder, path):
  data = bytearray((folder / path).read_bytes())
  try:
    return jax_export.deserialize(data)
  except Exception as error:  # flatbuffers raises many kinds
    raise BundleError(
      f'{folder / path} is not a program that jax {jax.__version__} reads:'
      f' {error}'
    ) from error


def _preprocess(folder, manifest):
  if bundle.PREPROCESS not in manifest.files:
    return None
  return _program(folder, bundle.PREPROCESS).call


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
