"""One call that says whether a network is a correct slimmable network."""

from collections import Counter
import functools
from typing import Any
import warnings

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.comparing import attempt
from slimjax.variables.comparing import compare
from slimjax.variables.comparing import FOLDS
from slimjax.variables.folding import batch_norms
from slimjax.variables.format import init
from slimjax.variables.format import PARAMS
from slimjax.variables.format import resized
from slimjax.variables.plain_norms import plain_norms
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import Path
from slimjax.widths import label


def check_model(
  model: SlimNet, *, image_size: Size | None = None, tolerance: float = 1e-3
) -> list[str]:
  """Returns a line for each mistake in a slimmable network; empty if correct.

  With random variables, in float32, at every width: `extract`, `apply` and
  `fold_batch_norm` give what the whole network gives when it is applied at that
  width, in training mode too, and move the statistics alike; what layer_names
  lists is sliced. A mistake that hides others is returned alone.

  It does not see maps that are joined by jnp.concatenate: the rows of the next
  kernel then meet other channels at each width, alike in every way of running
  it. Give the maps to the layer as a list instead.

  Args:
    model: the network; its dtype and axis_name are not used.
    image_size: pixels, or (height, width); default: that of
      `model.example()`.
    tolerance: largest difference that is no mistake, relative to the largest
      number of an array; default: 1e-3.
  """
  model = model.clone(dtype=jnp.float32, axis_name=None)
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, pair(image_size)) for x in inputs)
  if lines := _check_inputs(model, inputs):
    return lines
  for width in model.ordered_widths:
    if problem := attempt(cuts, model, width)[1]:
      lines.append(problem)
  if lines:
    return lines
  with warnings.catch_warnings(action='ignore'):  # plain norms: lines below
    new = lambda: init(model, jax.random.key(0))
    shapes, problem = attempt(jax.eval_shape, new)
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
      result, wrong = compare(model, variables, width, batch, tolerance)
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


def _shapes(model: SlimNet, inputs, **options: Any) -> dict[Path, tuple]:
  """Returns the shapes of all variables, by (collection, path)."""

  def initialise(key, *inputs):
    keys = {'params': key, 'dropout': key}
    return model.init(keys, *inputs, width=model.full_channels, **options)

  tree = jax.eval_shape(initialise, jax.random.key(0), *inputs)
  flat = traverse_util.flatten_dict(nn.meta.unbox(tree))
  return {path: leaf.shape for path, leaf in flat.items()}


def _check_inputs(model: SlimNet, inputs) -> list[str]:
  example = model.example()
  say = lambda inputs: ', '.join(str(list(x.shape)) for x in inputs)
  known, problem = attempt(describe, model, model.full_channels)
  if problem:
    for n in (2, 4, 8):
      larger = tuple(
        resized(x, tuple(n * s for s in x.shape[1:3])) for x in example
      )
      if not attempt(_shapes, model, larger)[1]:
        problem += (
          f'; {say(larger)} is large enough, {say(example)} is not: state the'
          ' smallest inputs by def example(self)'
        )
        break
    return [problem]
  if inputs == example:
    return []
  shapes, problem = attempt(_shapes, model, inputs)
  if problem:
    return [
      f'{problem}; {say(inputs)} does not fit, {say(example)} of def'
      ' example(self) does'
    ]
  return [
    f'{"/".join(path)}: its shape depends on the inputs, {list(shape)} for'
    f' {say(inputs)} and {list(known[path].shape)} for {say(example)}; state'
    ' which inputs the network is for by def example(self)'
    for path, shape in shapes.items()
    if path in known and shape != known[path].shape
  ]


def _check_fold(model: SlimNet) -> list[str]:
  _, others = batch_norms(model)
  plain = {line.split(' ')[0] for line in plain_norms(model)}
  names = ', '.join(path for path in others if path not in plain)
  if not names or model.folded:
    return []
  return [f'{names}: batch norm outside of a ConvNorm does not fold; {FOLDS}']


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
  create = functools.partial(_shapes, train=True)
  shapes, problem = attempt(create, model, model.example())
  if problem:
    return [
      f'{problem}; training calls def __call__(self, ..., *, width, train) with'
      " train=True and rngs={'dropout': key}"
    ]
  return [
    f'{"/".join(path)}: only train=True creates it, so init does not draw it;'
    ' call its layer whenever self.is_initializing()'
    for path in shapes.keys() - describe(model, model.full_channels).keys()
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
