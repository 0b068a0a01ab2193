"""The variables of a slimmable network, and the only code that knows them.

```
params       {module path: kernel, bias}        shared by all switches
norm         {switch: {module path: scale, bias}}     one tree per switch
batch_stats  {switch: {module path: mean, var}}       one tree per switch
```

A module is applied to one switch's trees (`select`) with a static width.

What a model shares between its switches (`SlimNet.shared`) stands once, at full
size, in a tree `shared` beside theirs, and is sliced as `params` are.
"""

from collections.abc import Mapping
import functools
from typing import Any
from typing import cast

from flax import traverse_util
import jax
from jax import lax
import jax.numpy as jnp

from slimjax.layers import EPSILON
from slimjax.models.common import SlimNet
from slimjax.widths import switch_name
from slimjax.widths import Width

Variables = Mapping[str, Any]
# The collections of which every switch has a tree of its own.
PRIVATE = ('norm', 'batch_stats')
# Their tree of what is not private after all.
SHARED = 'shared'


def init(
  model: SlimNet, key: jax.Array, *, image_size: int | tuple[int, int]
) -> dict[str, Any]:
  """New variables of `model`.

  `params` are drawn at the widest; every switch gets a norm of scale 1, bias 0,
  mean 0 and variance 1, by shape evaluation.

  Args:
    model: from `slimjax.create_model`.
    key: a key of `jax.random`.
    image_size: pixels, or (height, width); only to find images too small.

  Returns:
    The variables, float32, as the module's docstring says.

  Raises:
    ValueError: the images are too small for the network, or it shares what it
      has not.
  """
  size = (
    (image_size, image_size)
    if isinstance(image_size, int)
    else tuple(image_size)
  )
  widest = _initialiser(model, model.full_channels, size)
  variables = {'params': widest(key)['params']}
  if model.folded:
    return variables
  variables.update({name: {} for name in PRIVATE})
  for width in model.widths:
    shapes = _initialiser(model, width, size).eval_shape(key)
    for collection in PRIVATE:
      private, _ = split_shared(model, collection, _fresh(shapes[collection]))
      variables[collection][model.switch(width)] = private
  full = widest.eval_shape(key)
  _check_shared(model, full)
  for collection in PRIVATE:
    _, shared = split_shared(model, collection, _fresh(full[collection]))
    if shared:
      variables[collection][SHARED] = shared
  return variables


@functools.lru_cache(maxsize=16)
def _initialiser(model, width, image_size):
  """Key -> variables at a width. Kept: networks are made again and again."""

  def initialise(key):
    return model.init(
      key, jnp.zeros((1, *image_size, 3), jnp.float32), width=width
    )

  # Compiled, the forward pass is dead code: only the drawing remains.
  return jax.jit(initialise)


def _check_shared(model: SlimNet, variables: Any) -> None:
  for path in model.shared:
    collection, *modules = path.split('/')
    tree = variables.get(collection, {}) if collection in PRIVATE else {}
    for name in modules:
      tree = tree.get(name, {})
    if not isinstance(tree, Mapping) or not tree:
      raise ValueError(
        f'shared: {path!r} is no norm of {type(model).__name__}; give norm or'
        ' batch_stats, or the path of a module under them, such as'
        f" 'norm/{next(iter(variables['norm']))}'"
      )


def split_shared(
  model: SlimNet, collection: str, tree: Variables
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What of a switch's whole tree is private to it, and what all share.

  Args:
    model: says what is shared.
    collection: `norm` or `batch_stats`.
    tree: of one switch, as `select` gives it.
  """
  parts: tuple[dict, dict] = ({}, {})
  for path, leaf in traverse_util.flatten_dict(tree).items():
    name = '/'.join((collection, *path, ''))
    shared = any(name.startswith(f'{p}/') for p in model.shared)
    parts[shared][path] = leaf
  private, shared = map(traverse_util.unflatten_dict, parts)
  return private, shared


def join_shared(private: Variables, shared: Variables) -> dict[str, Any]:
  """The inverse of `split_shared`; what a switch has of its own comes first."""
  return traverse_util.unflatten_dict(
    {
      **traverse_util.flatten_dict(shared),
      **traverse_util.flatten_dict(private),
    }
  )


def select(variables: Variables, switch: str) -> dict[str, Any]:
  """What a module sees at `switch`: what is shared, and its own trees.

  Raises:
    ValueError: the variables hold no such switch.
  """
  selected = {'params': variables['params']}
  for collection in PRIVATE:
    if collection not in variables:  # a folded network has no norms
      continue
    trees = variables[collection]
    if switch not in trees:
      raise ValueError(
        f'{collection} has no switch {switch}, only'
        f' {", ".join(s for s in trees if s != SHARED)}; train or calibrate'
        ' that width first'
      )
    selected[collection] = trees[switch]
    if SHARED in trees:
      selected[collection] = join_shared(trees[switch], trees[SHARED])
  return selected


def merge(variables: Variables, switch: str, new: Variables) -> dict[str, Any]:
  """`variables` with the private trees in `new` put in place of `switch`'s."""
  merged = dict(variables)
  for collection in PRIVATE:
    if collection in new:
      merged[collection] = {
        **variables[collection],
        switch: new[collection],
      }
  return merged


def apply(
  model: SlimNet, variables: Variables, images: jax.Array, *, width: Width
) -> jax.Array:
  """Logits in evaluation mode, with the running statistics.

  Under `jax.jit` make `width` static. For inference at one width, `extract`
  first: slices taken inside a compiled function cost time at every call.

  Args:
    model: from `slimjax.create_model`.
    variables: from `init`, `load_torch`, a checkpoint, or `extract`.
    images: [b, h, w, 3], preprocessed.
    width: one of the model's widths, or one whose trees have been added.

  Returns:
    Logits [b, num_classes], float32.

  Raises:
    ValueError: the width has no trees, or the images are not as they should be.
  """
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(
      f'images must have the shape [batch, height, width, 3], got'
      f' {list(images.shape)}'
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'images must be floating point and normalised, got {images.dtype}'
    )
  model.channels(width)
  selected = select(variables, switch_name(width))
  logits = model.apply(selected, images, width=width)
  return cast(jax.Array, logits)


def extract(
  model: SlimNet, variables: Variables, *, width: Width
) -> tuple[SlimNet, dict[str, Any]]:
  """The stand-alone network of one switch, with only the weights it uses.

  Args:
    model: from `slimjax.create_model`.
    variables: its variables; not changed.
    width: a width that has trees in `variables`.

  Returns:
    A model of that one width and its variables, for `apply` with this width.
  """
  model.channels(width)
  switch = switch_name(width)
  selected = select(variables, switch)

  sown = _active(model, selected, width=width)
  small = {'params': sown['active_params']}
  for collection in PRIVATE:
    if collection in selected:
      small[collection] = {switch: sown[f'active_{collection}']}
  return model.clone(widths=(width,), shared=()), small


def leading_blocks(
  model: SlimNet, variables: Variables, *, width: Width
) -> list[tuple[int, ...]]:
  """The shape of the leading block that a width uses of each parameter.

  That of the whole parameter where the used part is no leading block (inside
  groups, ShuffleNet's). In the order of `jax.tree.leaves`; of shapes, too.
  """
  selected = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    select(variables, switch_name(width)),
  )
  others = {key: selected[key] for key in selected if key != 'params'}
  params = selected['params']
  whole = [leaf.shape for leaf in jax.tree.leaves(params)]

  def used(params, others):
    selected = {'params': params, **others}
    sown = _active.__wrapped__(model, selected, width=width)  # not one jit
    return sown['active_params']

  closed, shapes = jax.make_jaxpr(used, return_shape=True)(params, others)
  structure: Any = jax.tree.structure(shapes)
  if structure != jax.tree.structure(params):
    return whole
  origin = {var: number for number, var in enumerate(closed.jaxpr.invars)}
  for equation in closed.jaxpr.eqns:
    if (
      equation.primitive is lax.slice_p
      and equation.invars[0] in origin
      and not any(equation.params['start_indices'])
      and set(equation.params['strides'] or ()) <= {1}
    ):
      origin[equation.outvars[0]] = origin[equation.invars[0]]
  return [
    var.aval.shape if origin.get(var) == number else shape
    for number, (var, shape) in enumerate(
      zip(closed.jaxpr.outvars, whole, strict=True)
    )
  ]


def fold_batch_norm(
  model: SlimNet, variables: Variables
) -> tuple[SlimNet, dict[str, Any]]:
  """Folds the norms of an extracted network into its convolutions.

  kernel' = kernel * scale / sqrt(var + epsilon) and bias' = bias - mean * scale
  / sqrt(var + epsilon): the network gives equal logits and has no norms.

  Args:
    model: of one width, from `extract`.
    variables: its variables; not changed.

  Returns:
    The model without norms, its convolutions biased, and its variables
    ({'params': ...} alone).

  Raises:
    ValueError: the model has several widths, or norms that do not follow a
      convolution (in a `ConvNorm`).
  """
  if len(model.widths) != 1:
    raise ValueError(
      f'batch norm folds into the kernels of one width, got {model.widths};'
      ' extract one first'
    )
  selected = select(variables, switch_name(model.widths[0]))
  alone = lone_norms(selected['params'], selected['norm'])
  if alone:
    raise ValueError(
      'only the norm of a ConvNorm folds into its convolution, not'
      f' {", ".join(alone)}'
    )

  def fold(params, norm, stats):
    if 'norm' in norm:  # a ConvNorm: its children are `conv` and `norm`
      norm, stats = norm['norm'], stats['norm']
      factor = norm['scale'] / jnp.sqrt(stats['var'] + EPSILON)
      kernel = params['conv']['kernel']
      return {
        'conv': {
          'kernel': kernel * factor.reshape(1, 1, 1, -1),
          'bias': norm['bias'] - stats['mean'] * factor,
        }
      }
    return {
      name: fold(child, norm[name], stats[name]) if name in norm else child
      for name, child in params.items()
    }

  folded = fold(selected['params'], selected['norm'], selected['batch_stats'])
  return model.clone(folded=True), {'params': folded}


def lone_norms(params: Variables, norm: Variables) -> list[str]:
  """Paths of the norms that are not a `ConvNorm`'s.

  Args:
    params: of a network.
    norm: of one switch of it.
  """
  found = []
  for name, child in norm.items():
    if not isinstance(next(iter(child.values())), Mapping):  # scale, bias
      if name != 'norm' or 'conv' not in params:
        found.append(name)
    else:
      inner = lone_norms(params.get(name, {}), child)
      found += [f'{name}/{path}' for path in inner]
  return found


# Large enough for every family's maps to stay non-empty.
_SMALL = 64


@functools.partial(jax.jit, static_argnums=0, static_argnames='width')
def _active(model, selected, *, width):
  """What each layer uses; the layers say so, all else is dead code."""
  _, sown = model.apply(
    selected,
    jnp.zeros((1, _SMALL, _SMALL, 3), jnp.float32),
    width=width,
    mutable=[f'active_{name}' for name in selected],
  )
  return sown


def _fresh(shapes: Any) -> Any:
  """Ones for `scale` and `var`, zeros for `bias` and `mean`."""

  def fill(path, shape):
    ones = path[-1].key in ('scale', 'var')
    return jnp.full(shape.shape, float(ones), shape.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)
