"""Writes a bundle: `slimjax.runtime.export`."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slimjax import checks
from slimjax import digests
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.runtime import bundle
from slimjax.runtime import forms
from slimjax.runtime import slices
from slimjax.runtime.decoding import describe_decode
from slimjax.runtime.decoding import other_sizes
from slimjax.runtime.inputs import measure_range
from slimjax.runtime.loading import load
from slimjax.runtime.manifest import DETECTIONS
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.manifest import PLATFORMS
from slimjax.runtime.manifest import WidthEntry
from slimjax.runtime.onnx.metadata import onnx_metadata
from slimjax.runtime.slices import describe_headline
from slimjax.runtime.slices import describe_model
from slimjax.runtime.slices import Predict
from slimjax.runtime.stored import read_programs
from slimjax.runtime.tensors import named_outputs
from slimjax.runtime.width_writer import Form
from slimjax.runtime.width_writer import image_shapes
from slimjax.runtime.width_writer import write_program
from slimjax.runtime.width_writer import write_width
from slimjax.tasks.base import Metric
from slimjax.variables import Variables
from slimjax.widths import find
from slimjax.widths import label
from slimjax.widths import Width

FORMATS = ('jax', 'onnx')
ONNX_INPUTS = ('float32', 'uint8')


def export(
  model: SlimNet,
  variables: Variables,
  out: str | os.PathLike,
  *,
  image_size: Size,
  widths: Sequence[Width] = (),
  preprocess: Callable[[jax.Array], jax.Array] | None = None,
  preprocessing: str = '',
  class_names: Sequence[str] = (),
  errors: Mapping[Width, float] | None = None,
  headline: Metric | None = None,
  predict: Predict | None = None,
  outputs: str = '',
  keypoint_names: Sequence[str] = (),
  skeleton: Sequence[tuple[int, int]] = (),
  decode: Callable[[bytes], np.ndarray] | None = None,
  default_width: Width | str | None = None,
  validation: Mapping[str, Any] | None = None,
  source: Mapping[str, Any] | None = None,
  sample: np.ndarray | None = None,
  batch_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  formats: Sequence[str] = ('jax',),
  onnx_input: str = 'float32',
) -> Manifest:
  """Writes `model` as a bundle, loads it again and compares its outputs.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    variables: variables of the model.
    out: a local folder that does not exist yet; it appears when it is whole.
    image_size: pixels, or (height, width).
    widths: widths to write; default: all widths.
    preprocess: uint8 images [b, h, w, 3] -> floating images; becomes part of
      the bundle; default: none, the bundle takes preprocessed images only.
    preprocessing: the same in words, for the manifest; default: ''.
    class_names: one name per class; default: none.
    errors: numbers to minimise, on validation images, by width; default: none.
    headline: metric that the errors are values of, for tables and plots;
      default: none.
    predict: (forward, {'image': images}) -> outputs of the bundle, an array or
      a tree of arrays, examples first, such as a task's `predict`; default:
      the network's outputs.
    keypoint_names, skeleton: names of an object's keypoints, and pairs of them,
      from 0, that a drawing connects; default: none.
    outputs: 'logits' if the outputs are logits of the classes, [b, classes],
      from which classes and probabilities are predicted; 'detections' if they
      are a `Detector`'s, and `predict` takes 'hw' as well; default: arrays that
      are returned as they are.
    decode: an encoded picture -> uint8 [h, w, 3], so that the bundle takes
      files (those of `slimjax.data` can be written: `CentreCrop`, `GreyCrop`,
      `OnCanvas`); default: none.
    default_width: width that is used where none is given; default: the widest.
    validation: origin of the errors, for the manifest (JSON); default: none.
    source: origin of the weights, such as run and step, likewise.
    sample: images on which the bundle is checked: uint8 with `preprocess`,
      otherwise floating; default: noise.
    batch_size: batch size that the programs take; default: any.
    platforms: platforms for which the programs are made; default: all.
    formats: 'jax' (programs for XLA; the default), 'onnx' (an ONNX model per
      width; needs the extra `onnx`, and a single output), or both.
    onnx_input: images that the ONNX models take: 'float32' (preprocessed; the
      default), or 'uint8' (preprocessed inside).

  Raises:
    FileExistsError: `out` exists.
    ValueError: an argument does not fit the model.
    BundleError: the bundle does not give the model's outputs.
  """
  out = bundle.local(out)
  if out.exists():
    raise FileExistsError(f'{out} exists; choose another folder or remove it')
  image_size = pair(image_size)
  chosen = model.find_widths(widths)
  default = _default_width(chosen, default_width)
  _check_choice('format', formats, FORMATS)
  _check_choice('platform', platforms, PLATFORMS)
  _check_choice('onnx_input', [onnx_input], ONNX_INPUTS)
  if outputs == DETECTIONS and batch_size is None:
    raise ValueError(
      'the programs of a detector take batches of one size: give batch_size=1'
    )
  if batch_size is not None:
    checks.whole('batch_size', batch_size, least=1)
  known = {
    find(width, chosen): checks.real(f'errors[{width}]', error)
    for width, error in (errors or {}).items()
    if error is not None
  }
  if onnx_input == 'uint8' and preprocess is None:
    raise ValueError("onnx_input='uint8' needs `preprocess`")
  model = model.clone(remat=False, axis_name=None)
  predict = predict or slices.outputs
  if sample is None:
    sample = _noise((batch_size or 2, *image_size, 3), preprocess is not None)
  found = _output_shapes(model, variables, predict, image_size, outputs)
  forms.check(found, outputs, class_names=class_names, formats=formats)
  manifest = Manifest(
    model=describe_model(model),
    class_names=tuple(class_names),
    image_size=image_size,
    preprocessing=preprocessing,
    batch_size=batch_size,
    platforms=tuple(platforms),
    widths=(),
    default_width=default,
    validation=dict(validation or {}),
    versions=bundle.versions(_packages(formats)),
    files={},
    outputs=outputs,
    decode=describe_decode(decode),
    preprocesses=preprocess is not None,
    input_range=_range(preprocess, image_size, batch_size),
    source=dict(source or {}),
    onnx_input=onnx_input,
    headline=describe_headline(headline),
    other_sizes=other_sizes(decode),
    keypoint_names=tuple(keypoint_names),
    skeleton=tuple(skeleton),
  )
  form = Form(
    predict=predict,
    preprocess=preprocess,
    image_size=image_size,
    batch_size=batch_size,
    platforms=platforms,
    formats=formats,
    onnx_input=onnx_input,
    onnx_metadata=lambda entry: onnx_metadata(manifest, entry, preprocess),
    manifest=manifest,
  )

  draft = out.with_name(out.name + '.draft')
  shutil.rmtree(draft, ignore_errors=True)
  draft.mkdir(parents=True)
  try:
    manifest = _write(
      draft,
      model,
      variables,
      {w: known.get(w) for w in chosen},
      form,
      manifest,
    )
    images = jnp.asarray(sample)
    if preprocess is not None:
      images = preprocess(images)
    inputs = _inputs(images, outputs)
    expected = _expected(model, variables, predict, inputs, chosen)
    _save(draft / bundle.SAMPLE, {'images': np.asarray(sample), **expected})
    manifest = dataclasses.replace(manifest, files=digests.of_folder(draft))
    bundle.write_manifest(draft, manifest)
    manifest = bundle.read_manifest(draft)
    _verify(draft, manifest, formats, len(sample))
    draft.rename(out)
  except BaseException:
    shutil.rmtree(draft, ignore_errors=True)
    raise
  return manifest


def _write(folder, model, variables, errors, form, manifest):
  """Writes programs and weights; returns the manifest with its table."""
  entries = [
    write_width(folder, model, variables, width, form=form, error=error)
    for width, error in errors.items()
  ]
  for size in manifest.image_sizes if form.preprocess else ():
    images = image_shapes('uint8', form, size)
    path = folder / manifest.program(bundle.PREPROCESS, size)
    write_program(path, form.preprocess, form, images)
  _save(folder / bundle.WEIGHTS, _tensors(variables, entries))
  return dataclasses.replace(manifest, widths=tuple(entries))


def _range(preprocess, image_size, batch_size):
  if preprocess is None:
    return None
  return measure_range(preprocess, image_size, batch_size)


def _default_width(chosen, wanted):
  if wanted is None:
    return chosen[-1]
  wanted = find(wanted, chosen)
  if wanted not in chosen:
    raise ValueError(
      f'default_width {wanted} is not one of those that are written:'
      f' {", ".join(map(label, chosen))}'
    )
  return wanted


def _verify(folder, manifest, formats, count):
  """Compares outputs, where the programs are for the platform that is here.

  Those for other platforms are read as `load` reads them there.
  """
  here = bundle.platform_of(jax.devices()[0])
  backends = {
    'jax': 'jax' in formats and here in manifest.platforms,
    'onnxruntime': 'onnx' in formats,
  }
  if 'jax' in formats and not backends['jax']:
    read_programs(folder, manifest, manifest.widths, trusted=True)
  for backend, present in backends.items():
    if present:
      network = load(
        folder,
        backend=backend,
        prepare='lean',
        batch_sizes=(count,),
        sha256=manifest.sha256,
      )
      network.verify()


def _check_choice(what, given, allowed):
  unknown = [name for name in given if name not in allowed]
  if unknown or not given:
    raise ValueError(
      f'{what}s must be of {", ".join(allowed)}, got {list(given)}'
    )


def _noise(shape, integers):
  random = np.random.default_rng(0)
  if integers:
    return random.integers(0, 256, shape, dtype=np.uint8)
  return random.standard_normal(shape, dtype=np.float32)


def _inputs(images, outputs):
  """Returns what `slices.run` takes of images that are pictures entirely."""
  if outputs != DETECTIONS:
    return (images,)
  return images, jnp.tile(jnp.array(images.shape[1:3]), (len(images), 1))


def _output_shapes(model, variables, predict, image_size, outputs):
  """Returns the shapes of the outputs at one width, by path."""
  images = jnp.zeros((1, *image_size, 3))
  run = functools.partial(
    slices.run, predict, model, width=model.ordered_widths[0]
  )
  return named_outputs(
    jax.eval_shape(run, variables, *_inputs(images, outputs))
  )


def _tensors(
  variables: Variables, entries: Sequence[WidthEntry]
) -> dict[str, np.ndarray]:
  tensors: dict[str, Any] = {}
  for entry in entries:
    tensors.update(slices.width_tensors(variables, entry.switch))
  return {name: np.asarray(array) for name, array in tensors.items()}


def _save(path, tensors):
  from safetensors.numpy import save

  # `save_file` would leave files that only their owner can read.
  path.write_bytes(
    save({name: np.ascontiguousarray(a) for name, a in tensors.items()})
  )


def _expected(model, variables, predict, inputs, widths):
  """Returns the outputs of the model itself, without the bundle."""
  run = jax.jit(slices.run, static_argnums=(0, 1), static_argnames='width')
  models = {'outputs': model}
  if model.dtype != jnp.float32:  # as ONNX models compute
    models['float32'] = model.clone(dtype=jnp.float32)
  return {
    f'{kind}/{model.switch(width)}{name}': np.asarray(array)
    for kind, model in models.items()
    for width in widths
    for name, array in named_outputs(
      run(predict, model, variables, *inputs, width=width)
    ).items()
  }


def _packages(formats):
  packages = ['slimjax', 'jax', 'jaxlib', 'flax']
  return packages + ['onnx', 'onnxruntime'] * ('onnx' in formats)
