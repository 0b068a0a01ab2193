"""Makes the functions that run one width: `prepare` and `predict`.

`prepare` slices the width's weights out of the shared ones and folds its norms,
`predict` is the forward pass. Both are pure: a bundle stores them, a run that
is loaded compiles them as they are.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax

from slimjax.data.batches import Batch
from slimjax.models.net import SlimNet
from slimjax.runtime.backends import WidthPrograms
from slimjax.runtime.headline import Headline
from slimjax.runtime.manifest import WidthEntry
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

Predict = Callable[[Forward, Batch], Any]
_NAMES = ('image', 'hw')  # of the inputs, in a batch


def outputs(forward: Forward, batch: Batch) -> Any:
  """Predicts the outputs of the network as they are."""
  return forward(*(batch[name] for name in _NAMES if name in batch))


def run(
  predict: Predict, model: SlimNet, variables: Variables, *inputs, width
) -> Any:
  """Returns what a task predicts for `inputs`, floating images, at one width.

  If how much of each image is picture comes along, the task is told by 'hw'.
  """
  forward = functools.partial(apply, model, variables, width=width)
  return predict(forward, dict(zip(_NAMES, inputs, strict=False)))


def width_tensors(variables: Variables, switch: str) -> dict[str, Any]:
  """Returns the tensors that a switch uses, by their names in weight files."""
  selected = select(variables, switch)
  flat = _flatten(selected['params'], 'params')
  for collection in private_collections(selected):
    flat.update(_flatten(selected[collection], f'{collection}/{switch}'))
  return flat


def width_programs(
  model: SlimNet, variables: Variables, width: Width, predict: Predict
) -> WidthPrograms:
  """Returns what runs at one width of a model with its variables.

  Args:
    model: the network, as `slimjax.runtime.export` takes it.
    variables: variables of the model; `read` gives those that the width uses.
    width: one of the model's widths.
    predict: (forward, batch) -> outputs, such as a task's; the batch has
      'image', and 'hw' if the network detects objects.
  """
  tensors = width_tensors(variables, model.switch(width))
  folded = model.folded or foldable(model)
  return WidthPrograms(
    read=lambda: tensors,
    shapes=lambda: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tensors
    ),
    prepare=functools.partial(_prepare, model, width),
    predict=functools.partial(_predict, predict, model, width, folded),
  )


def describe_width(
  model: SlimNet,
  width: Width,
  programs: WidthPrograms,
  image_size: tuple[int, int],
  error: float | None,
) -> WidthEntry:
  """Returns the entry of one width in a manifest, without files.

  Args:
    model: the whole network.
    width: one of the model's widths.
    programs: programs of `width_programs`.
    image_size: (height, width).
    error: number to minimise, on validation images; None if it is unknown.
  """
  tensors = programs.shapes()
  prepared = jax.eval_shape(programs.prepare, tensors)
  profile = profile_model(model, width=width, image_size=image_size)
  return WidthEntry(
    width=width,
    switch=model.switch(width),
    channels=model.channels(width),
    macs=profile.macs,
    params=profile.params,
    prepared_bytes=sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(prepared)
    ),
    error=error,
    prepare=None,
    predict=None,
    inputs=tuple(tensors),
    onnx=None,
  )


def describe_model(model: SlimNet) -> dict[str, Any]:
  """Returns a model's class and those of its options that JSON can hold."""
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


def describe_headline(metric: Metric | None) -> Headline:
  """Returns a metric as a manifest has it; the default if there is none."""
  if metric is None:
    return Headline()
  return Headline(metric.title, metric.unit, metric.direction)


def _prepare(model: SlimNet, width: Width, tensors: Mapping[str, Any]):
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
  *inputs,
):
  """Returns the outputs for `run`'s inputs, by `_prepare`'s weights."""
  small = model.clone(widths=(width,), folded=folded)
  return run(predict, small, _unflatten(weights), *inputs, width=width)


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
