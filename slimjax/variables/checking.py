"""One call that says whether a network is a correct slimmable network."""

from collections import Counter
from collections.abc import Callable
import functools
from typing import Any
import warnings

from flax import errors
from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.folding import batch_norms
from slimjax.variables.folding import fold_batch_norm
from slimjax.variables.folding import foldable
from slimjax.variables.format import apply
from slimjax.variables.format import extract
from slimjax.variables.format import init
from slimjax.variables.format import PARAMS
from slimjax.variables.format import plain_norms
from slimjax.variables.format import resized
from slimjax.variables.format import select
from slimjax.variables.format import TRAINED
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import describe
from slimjax.widths import label
from slimjax.widths import Width

_LAYERS = 'intermediates'  # Flax's collection of what every layer returns
_FOLDS = (
  'use self.conv_norm(activation)(...), which leaves the norm out where'
  ' self.folded'
)


def check_model(
  model: SlimNet, *, image_size: Size | None = None, tolerance: float = 1e-3
) -> list[str]:
  """Returns a line for each mistake in a slimmable network; empty if correct.

  With random variables, in float32, at every width: `extract`, `apply` and
  `fold_batch_norm` give what the whole network gives when it is applied at that
  width, in training mode too, and move the statistics alike; what layer_names
  lists is sliced. A mistake that hides others is returned alone.

  Args:
    model: of any dtype and axis_name, neither of which is used.
    image_size: pixels, or (height, width); by default that of
      `model.example()`.
    tolerance: of a difference, relative to the largest number of an array.
  """
  model = model.clone(dtype=jnp.float32, axis_name=None)
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, pair(image_size)) for x in inputs)
  if lines := _check_inputs(model, inputs):
    return lines
  for width in model.ordered_widths:
    if problem := _attempt(cuts, model, width)[1]:
      lines.append(f'width {label(width)}: {problem}')
  if lines:
    return lines
  with warnings.catch_warnings(action='ignore'):  # plain norms: lines below
    new = lambda: init(model, jax.random.key(0))
    shapes, problem = _attempt(jax.eval_shape, new)
  if problem:
    return [problem]
  lines = [*plain_norms(model), *_check_fold(model), *_check_whole(model)]
  if wrong := _check_train(model):
    return lines + wrong
  variables = jax.tree_util.tree_map_with_path(_draw, shapes)
  batch = tuple(_draw_input(like) for like in inputs)
  outputs: dict[str, list] = {}
  with jax.default_matmul_precision('highest'):
    for width in model.ordered_widths:
      result, wrong = _compare(model, variables, width, batch, tolerance)
      if wrong:
        return lines + wrong
      alike = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(result)]
      outputs.setdefault(str(alike), []).append(label(width))
  if len(outputs) > 1:
    found = ', '.join(f'{s} at {", ".join(w)}' for s, w in outputs.items())
    lines.append(
      f'outputs differ in shape or dtype from width to width: {found}'
    )
  return lines


def _attempt(function: Callable, *args: Any) -> tuple[Any, str]:
  """Returns the result and '', or None and what fails in which layer."""
  layers: list[str] = []

  def watch(call, args, kwargs, context):
    try:
      return call(*args, **kwargs)
    except Exception:
      layers.append('/'.join(context.module.path))  # the innermost comes first
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
    elif not isinstance(cause, ValueError):
      text += (
        f' ({type(cause).__name__}); counts are those of self.channels(width),'
        ' and maps that are summed need equal ones, by a group in layer_names'
      )
    return None, ': '.join(filter(None, [*layers[:1], text]))


def _shapes(model: SlimNet, inputs, **options: Any) -> dict[str, tuple]:
  keys = {'params': jax.random.key(0), 'dropout': jax.random.key(0)}
  create = functools.partial(
    model.init, width=model.full_channels, mutable=nn.DenyList(_LAYERS)
  )
  tree = jax.eval_shape(functools.partial(create, **options), keys, *inputs)
  flat = traverse_util.flatten_dict(nn.meta.unbox(tree), sep='/')
  return {path: leaf.shape for path, leaf in flat.items()}


def _check_inputs(model: SlimNet, inputs) -> list[str]:
  example = model.example()
  say = lambda shapes: ', '.join(str(list(x.shape)) for x in shapes)
  shapes, problem = _attempt(_shapes, model, example)
  if problem:
    for n in (2, 4, 8):
      larger = tuple(
        resized(x, tuple(n * s for s in x.shape[1:3])) for x in example
      )
      if not _attempt(_shapes, model, larger)[1]:
        problem += (
          f'; {say(larger)} is large enough, {say(example)} is not: state the'
          ' smallest inputs by def example(self)'
        )
        break
    return [problem]
  others, problem = _attempt(_shapes, model, inputs)
  if problem:
    small = f'{say(inputs)} does not fit, {say(example)} of def example(self)'
    return [f'{problem}; {small} does']
  return [
    f'{path}: inputs {say(inputs)} make it {list(shape)}, but {say(example)}'
    f' {list(shapes[path])}; state the size it is for by def example(self)'
    for path, shape in others.items()
    if shape != shapes[path]
  ]


def _check_fold(model: SlimNet) -> list[str]:
  _, others = batch_norms(model)
  plain = {line.split(' ')[0] for line in plain_norms(model)}
  names = ', '.join(path for path in others if path not in plain)
  if not names or model.folded:
    return []
  return [f'{names}: batch norm outside of a ConvNorm does not fold; {_FOLDS}']


def _check_whole(model: SlimNet) -> list[str]:
  """Returns layers that keep outputs where `layer_names` lists fewer."""
  found: dict[str, str] = {}
  for width in model.ordered_widths:
    axes = {
      '/'.join(path): (cut.whole_shape[-1], cut.shape[-1])
      for path, cut in cuts(model, width).items()
      # A depthwise kernel sets no width.
      if path[0] == PARAMS and len(cut.shape) > 1 and path[1] != 'classifier'
      if cut.shape[-2] > 1 or sum(cut.full[-1]) == sum(cut.used[-1])
    }
    counts = zip(model.full_channels, model.channels(width), strict=True)
    for (most, count), n in (Counter(counts) - Counter(axes.values())).items():
      suspects = [path for path, axis in axes.items() if axis == (most, most)]
      for path in suspects[:n] if count < most else ():
        found.setdefault(
          path,
          f'{path}: all of its {most} outputs at width {label(width)}, where'
          f' uniform_channels lists {count}; give its layer the active count of'
          ' self.channels(width), or leave it out of layer_names',
        )
  return list(found.values())


def _check_train(model: SlimNet) -> list[str]:
  create = functools.partial(_shapes, model, model.example())
  shapes, problem = _attempt(functools.partial(create, train=True))
  if problem:
    return [
      f'{problem}; training calls def __call__(self, ..., *, width, train) with'
      " train=True and rngs={'dropout': key}"
    ]
  return [
    f'{path}: only train=True creates it, so init does not draw it; call its'
    ' layer whenever self.is_initializing()'
    for path in shapes.keys() - create().keys()
  ]


def _draw(path, like) -> jax.Array:
  """Draws a variable. In fresh ones mistakes hide: all scales are 1."""
  name = jax.tree_util.keystr(path)
  random = np.random.default_rng(list(name.encode()))
  if len(like.shape) > 1:
    fan_in = np.prod(like.shape[:-1])
    values = random.normal(0, (2 / max(fan_in, 1)) ** 0.5, like.shape)
  elif path[-1].key in ('bias', 'mean'):
    values = random.normal(0, 0.1, like.shape)
  else:
    values = random.uniform(0.5, 1.5, like.shape)
  return jnp.asarray(values, like.dtype)


def _draw_input(like) -> jax.Array:
  random, shape = np.random.default_rng(1), (2, *like.shape[1:])
  floating = jnp.issubdtype(like.dtype, jnp.floating)
  values = (
    random.normal(size=shape) if floating else random.integers(0, 2, shape)
  )
  return jnp.asarray(values, like.dtype)


def _compare(
  model: SlimNet, variables, width: Width, inputs, tolerance: float
) -> tuple[Any, list[str]]:
  """Returns the outputs at a width, and what differs from them."""
  at, lines = f'width {label(width)}', []
  small, weights = extract(model, variables, width=width)
  call = functools.partial(apply, width=width)
  outputs, problem = _attempt(call, small, weights, *inputs)
  if problem:
    return None, [f'{at}: {problem}']
  gap = _difference(call(model, variables, *inputs), outputs)
  if gap > tolerance:
    lines.append(f'{at}: apply differs from the extracted network by {gap:.1e}')
  switch = model.switch(width)
  own = select(weights, switch)
  whole = _whole(model, select(variables, switch), width)
  for train in (False, True):
    run = functools.partial(_run, inputs=inputs, width=width, train=train)
    extracted = (outputs, {})
    if train:
      extracted, problem = _attempt(run, small, own)
    if problem:
      return None, [f'{at}, train=True: {problem}']
    direct, problem = _attempt(run, model, whole)
    if problem:  # a layer of Flax that takes parameters of one size only
      continue
    moved = _cut_like(extracted[1], direct[1], cuts(model, width))
    gap = _difference((direct[0], moved), extracted)
    if gap > tolerance:
      layer = _first(run, (model, whole), (small, own), tolerance)
      lines.append(
        f'{at}, train={train}: {layer} of the extracted network differs from'
        f' the whole one ({gap:.1e} in the end); a width must use leading'
        ' channels, and compute from its active counts alone, never from'
        ' full_channels or widths'
      )
  if foldable(small):
    folded, problem = _attempt(
      lambda: call(*fold_batch_norm(small, weights), *inputs)
    )
    gap = 0 if problem else _difference(folded, outputs)
    if problem or gap > tolerance:
      what = problem or f'folding changes the outputs by {gap:.1e}'
      lines.append(f'{at}: {what}; {_FOLDS}')
  return outputs, lines


def _whole(model: SlimNet, selected, width: Width) -> dict[str, Any]:
  """Returns `selected` but for what Flax's own layers take in one size only."""
  created, parts = describe(model, width), cuts(model, width)
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
    if layers is not None and context.module.path:
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
  results, _ = _attempt(
    lambda: [run(*case, layers=order) for case in (whole, extracted)]
  )
  flat = [
    traverse_util.flatten_dict(moved[_LAYERS]) for _, moved in results or ()
  ]
  for path in order if flat else ():
    a, b = (
      [x for key, x in one.items() if key[: len(path)] == path] for one in flat
    )
    if _difference(a, b) > tolerance:
      return '/'.join(path)
  return 'something'


def _difference(found: Any, expected: Any) -> float:
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
