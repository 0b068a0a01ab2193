"""Compares a width in every way in which it can be run."""

from collections.abc import Callable
import functools
import re
from typing import Any

from flax import errors
from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from slimjax.models.net import SlimNet
from slimjax.variables.folding import fold_batch_norm
from slimjax.variables.folding import foldable
from slimjax.variables.format import apply
from slimjax.variables.format import extract
from slimjax.variables.format import select
from slimjax.variables.format import TRAINED
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import describe
from slimjax.widths import label
from slimjax.widths import Width

_LAYERS = 'intermediates'  # Flax's collection of what every layer returns
FOLDS = (
  'use self.conv_norm(activation)(...), which leaves the norm out where'
  ' self.folded'
)


def attempt(function: Callable, *args: Any) -> tuple[Any, str]:
  """Returns the result and '', or None and what fails in which layer."""
  layers: list[str] = []

  def watch(call, args, kwargs, context):
    try:
      return call(*args, **kwargs)
    except Exception:
      # The innermost comes first. A network that is not bound has no path.
      bound = context.module.scope is not None
      layers.append('/'.join(context.module.path) if bound else '')
      raise

  try:
    with nn.intercept_methods(watch):
      return function(*args), ''
  except Exception as error:
    cause = error.__cause__ or error
    text = ' '.join(str(error).split())
    text = text if len(text) < 400 else f'{text[:400]} ...'
    if isinstance(cause, errors.ScopeParamShapeError):
      text += '; layers called with several counts must be of slimjax.layers'
    elif isinstance(cause, TypeError) and 'shape' in text:
      text += _shape_mend(text)
    elif isinstance(cause, TypeError) and 'tuple' in text:
      text += '; a width may be a tuple of channels: use self.channels(width)'
    where = layers[0] if layers and f'{layers[0]}:' not in text else ''
    return None, f'{where}: {text}' if where else text


def _shape_mend(text: str) -> str:
  """Returns the mend of two shapes that do not fit, which an error names."""
  shapes = [
    [int(n) for n in found.split(',') if n.strip()]
    for found in re.findall(r'\((\d[\d, ]*)\)', text)[:2]
  ]
  if len(shapes) == 2 and all(shapes) and shapes[0][-1] == shapes[1][-1]:
    return (
      '; they differ in other axes than the channels: give a parameter the'
      ' sizes of what it meets, and state the inputs by def example(self)'
    )
  return (
    '; layers whose maps are summed need one group in layer_names, and a'
    ' parameter is cut to the active channels by slimjax.layers.SlimParameter'
  )


def compare(
  model: SlimNet, variables, width: Width, inputs, tolerance: float
) -> tuple[Any, list[str]]:
  """Returns the outputs at a width, and what differs from them."""
  at, lines = f'width {label(width)}', []
  small, weights = extract(model, variables, width=width)
  call = functools.partial(apply, width=width)
  outputs, problem = attempt(call, small, weights, *inputs)
  if problem:
    return None, [f'{at}: {problem}']
  gap = difference(call(model, variables, *inputs), outputs)
  if gap > tolerance:
    lines.append(f'{at}: apply differs from the extracted network by {gap:.1e}')
  switch = model.switch(width)
  own = select(weights, switch)
  whole = _whole(model, select(variables, switch), width)
  parts = cuts(model, width)
  # At full width both are one network.
  thinner = not all(cut.is_whole for cut in parts.values())
  for train in (False, True) if thinner else ():
    run = functools.partial(_run, inputs=inputs, width=width, train=train)
    extracted: tuple[Any, Any] = (outputs, {})
    if train:
      extracted, problem = attempt(run, small, own)
    if problem:
      return None, [f'{at}, train=True: {problem}']
    direct, problem = attempt(run, model, whole)
    if problem:  # a layer of Flax that takes parameters of one size only
      continue
    moved = _cut_like(extracted[1], direct[1], parts)
    gap = difference((direct[0], moved), extracted)
    if gap > tolerance:
      layer = _first(run, (model, whole), (small, own), tolerance)
      lines.append(
        f'{at}, train={train}: {layer} of the extracted network differs from'
        f' the whole one ({gap:.1e} in the end); give every layer its active'
        ' count, use leading channels, and compute from active counts alone,'
        ' never from full_channels or widths'
      )
      break
  if foldable(small):
    folded, problem = attempt(
      lambda: call(*fold_batch_norm(small, weights), *inputs)
    )
    gap = 0 if problem else difference(folded, outputs)
    if problem or gap > tolerance:
      what = problem or f'folding changes the outputs by {gap:.1e}'
      lines.append(f'{at}: {what}; {FOLDS}')
  return outputs, lines


def _whole(model: SlimNet, selected, width: Width) -> dict[str, Any]:
  """Returns `selected` but for what Flax's own layers take in one size only."""
  created, _ = attempt(describe, model, width)
  created, parts = created or {}, cuts(model, width)
  flat = traverse_util.flatten_dict(selected)
  for path, cut in parts.items():
    if path in created and created[path].shape == cut.shape != flat[path].shape:
      flat[path] = cut.take(flat[path])
  tree = traverse_util.unflatten_dict(flat)
  return {name: tree.get(name, {}) for name in selected}


def _cut_like(moved, whole, parts) -> dict[str, Any]:
  """Returns of what moved in the whole network what the width uses."""
  flat, wanted = map(traverse_util.flatten_dict, (whole, moved))
  same = lambda path: (
    path not in wanted or flat[path].shape == wanted[path].shape
  )
  return traverse_util.unflatten_dict(
    {path: x if same(path) else parts[path].take(x) for path, x in flat.items()}
  )


def _run(net: SlimNet, tree, *, inputs, width: Width, train: bool, layers=None):
  """Returns the outputs and what has moved.

  With `layers`, a list, it gets the path of every layer in the order in which
  they return, and their outputs are returned with what has moved.
  """
  options: dict[str, Any] = {'mutable': []}
  if train:
    state = [name for name in tree if name not in TRAINED]
    options = {'mutable': state, 'train': True}
  if layers is not None:
    options['capture_intermediates'] = True
    options['mutable'] = [*options['mutable'], _LAYERS]

  def watch(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if layers is not None and context.module.scope and context.module.path:
      layers.append(context.module.path)
    return result

  def run(tree, *inputs):
    with nn.intercept_methods(watch):
      rngs = {'dropout': jax.random.key(1)}
      return net.apply(tree, *inputs, width=width, rngs=rngs, **options)

  # It is run once: on CPU it would take longer to compile well.
  fast = {'xla_backend_optimization_level': 0}
  on_cpu = jax.default_backend() == 'cpu'
  return jax.jit(run, compiler_options=fast if on_cpu else None)(tree, *inputs)


def _first(run, whole, extracted, tolerance: float) -> str:
  """Returns the path of the first layer whose outputs differ."""
  order: list[tuple[str, ...]] = []
  results, _ = attempt(
    lambda: [run(*case, layers=order) for case in (whole, extracted)]
  )
  flat = [
    traverse_util.flatten_dict(moved[_LAYERS]) for _, moved in results or ()
  ]
  for path in order if flat else ():
    a, b = (
      [x for key, x in one.items() if key[: len(path)] == path] for one in flat
    )
    if difference(a, b) > tolerance:
      return '/'.join(path)
  return 'something'


def difference(found: Any, expected: Any) -> float:
  """Returns the largest difference, relative to the largest of its array."""
  found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
  worst = 0.0 if len(found) == len(expected) else np.inf
  for a, b in zip(found, expected, strict=False):
    if a.shape != b.shape:
      return np.inf
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=0) or 1.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid='ignore'):
      gaps = np.where(same, 0, np.nan_to_num(np.abs(a - b), nan=np.inf))
    worst = max(worst, gaps.max(initial=0) / scale)
  return float(worst)
