"""Writes a bundle: `slimjax.runtime.export`."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
import shutil
from typing import Any

import jax
from jax import export as jax_export
import jax.numpy as jnp
import numpy as np

from slimjax.data.batches import Batch
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.runtime import bundle
from slimjax.runtime.network import load
from slimjax.tasks.base import Forward
from slimjax.tasks.base import Metric
from slimjax.variables import apply
from slimjax.variables import extract
from slimjax.variables import fold_batch_norm
from slimjax.variables import select
from slimjax.variables import Variables
from slimjax.variables.folding import foldable
from slimjax.variables.format import PARAMS
from slimjax.variables.format import private_collections
from slimjax.variables.profile import profile_model
from slimjax.variables.slicing import describe
from slimjax.widths import Width

FORMATS = ('jax', 'onnx')
PLATFORMS = ('cpu', 'cuda', 'tpu')
Predict = Callable[[Forward, Batch], Any]


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
  validation: Mapping[str, Any] | None = None,
  sample: np.ndarray | None = None,
  batch_size: int | None = None,
  platforms: Sequence[str] = PLATFORMS,
  formats: Sequence[str] = ('jax',),
) -> bundle.Manifest:
  """Writes `model` as a bundle, loads it again and compares its outputs.

  Args:
    model: from `slimjax.create_model`, or a `SlimNet` of your own.
    variables: its variables.
    out: a local folder that does not exist yet; it appears when it is whole.
    image_size: pixels, or (height, width).
    widths: widths to write; default: all widths.
    preprocess: uint8 images [b, h, w, 3] -> floating images; becomes part of
      the bundle. Without it the bundle takes preprocessed images only.
    preprocessing: the same in words, for the manifest.
    class_names: one name per class, or empty.
    errors: what is minimised, on validation images, by width; default: none.
    headline: metric that the errors are values of, for tables and plots.
    predict: (forward, {'image': images}) -> outputs of the bundle, an array or
      a tree of arrays, examples first, such as a task's `predict`; default:
      the network's outputs.
    validation: where the errors come from, for the manifest (JSON).
    sample: images on which the bundle is checked: uint8 with `preprocess`,
      otherwise floating; default: noise.
    batch_size: batch size that the programs take; default: any.
    platforms: platforms for which the programs are made; default: all.
    formats: 'jax' (programs for XLA; the default), 'onnx' (an ONNX model per
      width; needs the extra `onnx`, and a single output), or both.

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
  _check_choice('format', formats, FORMATS)
  _check_choice('platform', platforms, PLATFORMS)
  if batch_size is not None and batch_size < 1:
    raise ValueError(f'batch_size must be positive, got {batch_size}')
  model = model.clone(remat=False, axis_name=None)
  predict = predict or _outputs
  if sample is None:
    sample = _noise((batch_size or 2, *image_size, 3), preprocess is not None)
  _check_outputs(model, variables, predict, image_size, class_names, formats)

  draft = out.with_name(out.name + '.draft')
  shutil.rmtree(draft, ignore_errors=True)
  draft.mkdir(parents=True)
  try:
    entries = [
      _write_width(
        draft,
        model,
        variables,
        width,
        predict=predict,
        image_size=image_size,
        batch_size=batch_size,
        error=None if errors is None else errors.get(width),
        platforms=platforms,
        formats=formats,
      )
      for width in chosen
    ]
    if preprocess is not None:
      images = _images('uint8', batch_size, image_size)
      _write_program(draft, bundle.PREPROCESS, preprocess, platforms, images)
    _save(draft / bundle.WEIGHTS, _tensors(variables, entries))
    expected = _expected(model, variables, predict, preprocess, sample, chosen)
    _save(draft / bundle.SAMPLE, {'images': np.asarray(sample), **expected})
    manifest = bundle.Manifest(
      model=_describe(model),
      class_names=tuple(class_names),
      image_size=image_size,
      preprocessing=preprocessing,
      batch_size=batch_size,
      platforms=tuple(platforms),
      widths=tuple(entries),
      validation=dict(validation or {}),
      versions=bundle.versions(_packages(formats)),
      files=bundle.describe_files(draft),
      **_described(headline),
    )
    bundle.write_manifest(draft, manifest)
    # Programs for other platforms cannot be run here.
    if 'jax' in formats and bundle.platform_of(jax.devices()[0]) in platforms:
      load(draft, prepare='lean').verify()
    if 'onnx' in formats:
      load(draft, backend='onnxruntime', prepare='lean').verify()
    draft.rename(out)
  except BaseException:
    shutil.rmtree(draft, ignore_errors=True)
    raise
  return manifest


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


def _images(dtype, batch_size, image_size):
  shape = f'{batch_size or "b"}, {image_size[0]}, {image_size[1]}, 3'
  return jax.ShapeDtypeStruct(
    jax_export.symbolic_shape(shape), jnp.dtype(dtype)
  )


def _flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """Returns nested dicts as {'prefix/path/of/leaf': leaf}."""
  flat: dict[str, Any] = {}
  for name, child in tree.items():
    path = f'{prefix}/{name}'
    if isinstance(child, Mapping):
      flat.update(_flatten(child, path))
    else:
      flat[path] = child
  return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _selected(variables, switch):
  """Returns the tensors of one switch, by their names in the weight file."""
  selected = select(variables, switch)
  flat = _flatten(selected['params'], 'params')
  for collection in private_collections(selected):
    flat.update(_flatten(selected[collection], f'{collection}/{switch}'))
  return flat


def _run(predict: Predict, model, variables, images, *, width):
  """Returns a bundle's outputs for floating images."""
  forward = functools.partial(apply, model, variables, width=width)
  return predict(forward, {'image': images})


def _outputs(forward, batch):
  return forward(batch['image'])


def _check_outputs(model, variables, predict, image_size, class_names, formats):
  """Raises ValueError if formats or class names do not fit the outputs."""
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  run = functools.partial(_run, predict, model, width=model.ordered_widths[0])
  outputs = bundle.named_outputs(jax.eval_shape(run, variables, images))
  if 'onnx' in formats and list(outputs) != ['']:
    raise ValueError(
      'an ONNX model has a single output here, but this task gives'
      f' {", ".join(name[1:] for name in outputs)}; export it for jax'
    )
  if class_names and list(outputs) == ['']:
    channels = outputs[''].shape[-1]
    if len(class_names) != channels:
      raise ValueError(
        f'{len(class_names)} class names, but the model has {channels} classes'
      )


def _described(headline: Metric | None) -> dict[str, Any]:
  if headline is None:
    return {}
  names = ('title', 'unit', 'direction')
  return {'headline': {name: getattr(headline, name) for name in names}}


def _prepare(model: SlimNet, width: Width, tensors: dict[str, Any]):
  """Returns the weights of one width: sliced, folded, in their dtypes."""
  small, weights = extract(model, _unflatten(tensors), width=width)
  if foldable(model):
    small, weights = fold_batch_norm(small, weights)
  computed = {
    '/'.join(path): leaf.computed
    for path, leaf in describe(small, width).items()
  }
  flat = {
    name: array.astype(computed.get(name) or array.dtype)
    for name, array in _flatten(weights[PARAMS], PARAMS).items()
  }
  for collection in private_collections(weights):
    flat.update(_flatten(weights[collection], collection))
  return flat


def _predict(
  predict: Predict,
  model: SlimNet,
  width: Width,
  folded: bool,
  weights: dict[str, Any],
  images,
):
  """Returns a bundle's outputs for floating images, by `_prepare`'s weights."""
  small = model.clone(widths=(width,), folded=folded)
  return _run(predict, small, _unflatten(weights), images, width=width)


def _write_width(
  folder: pathlib.Path,
  model: SlimNet,
  variables: Variables,
  width: Width,
  *,
  predict: Predict,
  image_size: tuple[int, int],
  batch_size: int | None,
  error: float | None,
  platforms: Sequence[str],
  formats: Sequence[str],
) -> bundle.WidthEntry:
  switch = model.switch(width)
  tensors = _selected(variables, switch)
  prepare = functools.partial(_prepare, model, width)
  folded = model.folded or foldable(model)
  program = functools.partial(_predict, predict, model, width, folded)
  prepared = jax.eval_shape(prepare, tensors)
  images = _images('float32', batch_size, image_size)
  programs: tuple[str, str] | tuple[None, None] = (None, None)
  if 'jax' in formats:
    programs = (f'programs/{switch}.prepare', f'programs/{switch}.predict')
    _write_program(folder, programs[0], prepare, platforms, tensors)
    _write_program(folder, programs[1], program, platforms, prepared, images)
  onnx = None
  if 'onnx' in formats:
    from slimjax.runtime.onnx_graph import write_onnx

    onnx = f'onnx/{switch}.onnx'
    path = folder / onnx
    path.parent.mkdir(exist_ok=True)
    # ONNX Runtime has no bfloat16 on CPUs.
    exact = model.clone(dtype=jnp.float32)
    weights = jax.jit(functools.partial(_prepare, exact, width))(tensors)
    program = functools.partial(_predict, predict, exact, width, folded)
    write_onnx(program, weights, images, path, name=switch)
  profile = profile_model(model, width=width, image_size=image_size)
  return bundle.WidthEntry(
    width=width,
    switch=switch,
    channels=model.channels(width),
    macs=profile.macs,
    params=profile.params,
    prepared_bytes=sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(prepared)
    ),
    error=error,
    inputs=tuple(tensors),
    prepare=programs[0],
    predict=programs[1],
    onnx=onnx,
  )


def _write_program(folder, path, function, platforms, *arguments):
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
  )
  exported = jax_export.export(jax.jit(function), platforms=platforms)(*shapes)
  (folder / path).parent.mkdir(exist_ok=True)
  (folder / path).write_bytes(exported.serialize())


def _tensors(variables, entries):
  tensors: dict[str, Any] = {}
  for entry in entries:
    tensors.update(_selected(variables, entry.switch))
  return {name: np.asarray(array) for name, array in tensors.items()}


def _save(path, tensors):
  from safetensors.numpy import save

  # `save_file` would leave files that only their owner can read.
  path.write_bytes(
    save({name: np.ascontiguousarray(a) for name, a in tensors.items()})
  )


def _expected(model, variables, predict, preprocess, sample, widths):
  """Returns the outputs of the model itself, without the bundle."""
  images = jnp.asarray(sample)
  if preprocess is not None:
    images = preprocess(images)
  run = jax.jit(_run, static_argnums=(0, 1), static_argnames='width')
  models = {'outputs': model}
  if model.dtype != jnp.float32:  # as ONNX models compute
    models['float32'] = model.clone(dtype=jnp.float32)
  return {
    f'{kind}/{model.switch(width)}{name}': np.asarray(array)
    for kind, model in models.items()
    for width in widths
    for name, array in bundle.named_outputs(
      run(predict, model, variables, images, width=width)
    ).items()
  }


def _describe(model):
  """Returns the class, and those of its options that JSON can hold."""
  options = {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if isinstance(getattr(model, field.name), (bool, int, float, str))
    and field.name not in ('name', 'parent')
  }
  return {
    'class': type(model).__name__,
    'dtype': str(model.dtype),
    'widths': [*model.widths],
    **options,
  }


def _packages(formats):
  packages = ['slimjax', 'jax', 'jaxlib', 'flax']
  return packages + ['onnx', 'onnxruntime'] * ('onnx' in formats)
