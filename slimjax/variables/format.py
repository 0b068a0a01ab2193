"""The variables of a slimmable network, and the only code that knows them.

```
params       {module path: kernel, bias}        shared by all switches
norm         {switch: {module path: scale, bias}}     one tree per switch
batch_stats  {switch: {module path: mean, var}}       one tree per switch
```

`params` are shared, at full size; every other collection that a network has
holds one tree per switch. `params` and `norm` are trained; a forward pass in
training moves the rest. A module is applied to one switch's trees (`select`)
with a static width.

What a model shares between its switches (`SlimNet.shared`) stands once, at full
size, in a tree `shared` beside theirs, and is sliced as `params` are.
"""

from collections.abc import Mapping
import functools
from typing import Any
import warnings

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from slimjax.models.net import check_static
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.plain_norms import plain_norms
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width
from slimjax.widths import switch_name
from slimjax.widths import Width

Variables = Mapping[str, Any]
# The collection that all switches share, and those that are trained.
PARAMS = 'params'
TRAINED = ('params', 'norm')
# The tree, beside the switches' own, of what is not private after all.
SHARED = 'shared'


def private_collections(variables: Variables) -> tuple[str, ...]:
  """Returns the collections of which every switch has a tree of its own."""
  return tuple(name for name in variables if name != PARAMS)


def init(
  model: SlimNet, key: jax.Array, *, image_size: Size | None = None
) -> dict[str, Any]:
  """Returns new variables of `model`.

  `params` are drawn at the widest; every switch gets the leading part of what
  the other collections begin with (scale 1, bias 0, mean 0, variance 1).

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    key: a key of `jax.random`.
    image_size: pixels, or (height, width), of the images it is for: a size that
      is too small is refused. Default: that of `model.example()`.

  Raises:
    ValueError: the images are too small for the network, a width cannot be
      built, or the model shares what it has not.
  """
  check_static(model)
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, pair(image_size)) for x in inputs)
  full = nn.meta.unbox(_draw(model, inputs, key))
  variables = _of_all_widths(model, full)
  for line in plain_norms(model):
    warnings.warn(line, stacklevel=2)
  return variables


def variable_shapes(model: SlimNet) -> dict[str, Any]:
  """Returns the shapes of what `init` returns, from `describe` alone."""
  described = describe(model, model.full_channels)
  full = traverse_util.unflatten_dict(
    {
      path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for path, leaf in described.items()
    }
  )
  return jax.eval_shape(functools.partial(_of_all_widths, model), full)


def _of_all_widths(model: SlimNet, full: Variables) -> dict[str, Any]:
  """Returns the variables of all widths, from those of the whole network."""
  variables: dict[str, Any] = {
    name: {} if name != PARAMS else tree for name, tree in full.items()
  }
  variables.setdefault(PARAMS, {})
  whole = {name: full[name] for name in private_collections(full)}
  concrete = all(isinstance(x, jax.Array) for x in jax.tree.leaves(whole))
  concrete &= not any(
    isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(whole)
  )
  if concrete:  # the host slices: XLA would compile a program for every shape
    whole = jax.device_get(whole)
  for width in model.widths:
    small = take_width(model, whole, width=width, partial=True)
    for name in whole:
      private, _ = split_shared(model, name, small[name])
      if concrete:
        private = jax.device_put(private, may_alias=False)
      variables[name][model.switch(width)] = private
  _check_shared(model, full)
  for name in private_collections(full):
    _, shared = split_shared(model, name, full[name])
    if shared:
      variables[name][SHARED] = shared
  return variables


def resized(example, size: tuple[int, int]):
  """Returns an example of images [b, h, w, c] in another size; others as is."""
  if len(example.shape) != 4:
    return example
  b, _, _, c = example.shape
  return jax.ShapeDtypeStruct((b, *size, c), example.dtype)


def _draw(model, inputs, key):
  """Returns variables at full width."""
  if isinstance(key, jax.core.Tracer):
    return _initialiser(model, inputs)(key)
  like = jax.ShapeDtypeStruct(key.shape, key.dtype)
  return _compiled_initialiser(model, inputs, like)(key)


@functools.lru_cache(maxsize=16)  # networks are made again and again
def _compiled_initialiser(model, inputs, key):
  return compiled_drawing(_initialiser(model, inputs), key)


def compiled_drawing(draw: Any, key: Any) -> Any:
  """Returns the program of a compiled function of a random key alone.

  Drawing takes a moment; to compile it well would take a CPU half a minute.

  Args:
    draw: what `jax.jit` returns.
    key: the key, or its shape.
  """
  quick = jax.default_backend() == 'cpu'
  options = {'xla_backend_optimization_level': 1} if quick else None
  return draw.lower(key).compile(options)


@functools.lru_cache(maxsize=16)
def _initialiser(model, inputs):

  def initialise(key):
    zeros = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    return model.init(key, *zeros, width=model.full_channels)

  # Compiled, the forward pass is dead code: only the drawing remains.
  return jax.jit(initialise)


def _check_shared(model: SlimNet, variables: Variables) -> None:
  collections = private_collections(variables)
  for path in model.shared:
    collection, *modules = path.split('/')
    tree = variables.get(collection, {}) if collection in collections else {}
    for name in modules:
      tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    if not isinstance(tree, Mapping) or not tree:
      example = next(iter(variables.get('norm', {})), 'stem')
      raise ValueError(
        f'shared: {path!r} is no norm of {type(model).__name__}; give norm or'
        ' batch_stats, or the path of a module under them, such as'
        f" 'norm/{example}'"
      )


def split_shared(
  model: SlimNet, collection: str, tree: Variables
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a switch's whole tree into what is private to it and what is shared.

  Args:
    model: the network, which says what is shared.
    collection: `norm`, `batch_stats`, or another one with a tree per switch.
    tree: the tree of one switch, as `select` gives it.
  """
  parts: tuple[dict, dict] = ({}, {})
  for path, leaf in traverse_util.flatten_dict(tree).items():
    name = '/'.join((collection, *path, ''))
    shared = any(name.startswith(f'{p}/') for p in model.shared)
    parts[shared][path] = leaf
  private, shared = map(traverse_util.unflatten_dict, parts)
  return private, shared


def join_shared(private: Variables, shared: Variables) -> dict[str, Any]:
  """Joins what `split_shared` split; what a switch has itself comes first."""
  return traverse_util.unflatten_dict(
    {
      **traverse_util.flatten_dict(shared),
      **traverse_util.flatten_dict(private),
    }
  )


def select(variables: Variables, switch: str) -> dict[str, Any]:
  """Returns what a module sees at `switch`: shared trees, and its own.

  Raises:
    ValueError: the variables hold no such switch.
  """
  selected = {PARAMS: variables[PARAMS]}
  for collection in private_collections(variables):
    trees = variables[collection]
    # Where all is shared, no switch has anything of its own.
    common = SHARED in trees and not any(trees[s] for s in trees if s != SHARED)
    if switch not in trees and not common:
      raise ValueError(
        f'{collection} has no switch {switch}, only'
        f' {", ".join(s for s in trees if s != SHARED)}; train or calibrate'
        ' that width first'
      )
    selected[collection] = trees.get(switch, {})
    if SHARED in trees:
      selected[collection] = join_shared(selected[collection], trees[SHARED])
  return selected


def merge(variables: Variables, switch: str, new: Variables) -> dict[str, Any]:
  """Returns `variables` with the private trees of `switch` that `new` has."""
  merged = dict(variables)
  for collection in private_collections(variables):
    if collection in new:
      merged[collection] = {
        **variables[collection],
        switch: new[collection],
      }
  return merged


def apply(
  model: SlimNet, variables: Variables, *inputs: jax.Array, width: Width
) -> Any:
  """Returns what the network says at a width, in evaluation mode.

  Under `jax.jit` make the model and `width` static. jax keeps a program for
  each type of a static number: 1, 1.0 and np.float32(1) are compiled three
  times, though traced once, so give one type, such as the model's own `widths`.
  For inference at one width, `extract` first: slices taken inside a compiled
  function cost time at every call.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    variables: those of `init`, `load_torch`, a checkpoint, or `extract`.
    *inputs: the network's inputs; a classifier takes images [b, h, w, 3],
      preprocessed.
    width: one of the model's widths, or one whose trees have been added.

  Returns:
    The network's outputs; a classifier's are logits [b, num_classes], float32.

  Raises:
    ValueError: the width has no trees, or the inputs are not as they should be.
    TypeError: the model or the width is traced.
  """
  check_static(
    model,
    "jax.jit(slimjax.apply, static_argnums=0, static_argnames='width')",
  )
  check_inputs(model, inputs)
  small, weights = _narrowed(model, variables, width)
  return _forward(small, weights, *inputs)


def _narrowed(
  model: SlimNet, variables: Variables, width: Width
) -> tuple[SlimNet, dict[str, Any]]:
  """Returns the network of one width, and what its module is applied to."""
  model.channels(width)
  switch = switch_name(width)
  small = narrow(model, width)
  return small, take_width(
    model, select(variables, switch), width=small.widths[0]
  )


# It is traced once per width, whichever number of Python or numpy names it.
@functools.partial(jax.jit, static_argnums=0)
def _forward(small, weights, *inputs):
  return small.apply(weights, *inputs, width=small.widths[0])


def check_inputs(model: SlimNet, inputs: tuple[jax.Array, ...]) -> None:
  """Raises ValueError unless the inputs are like those of `model.example()`."""
  needed, optional = model.example(), model.optional_inputs()
  if not 0 <= len(inputs) - len(needed) <= len(optional):
    up_to = f' to {len(needed) + len(optional)}' if optional else ''
    raise ValueError(
      f'{type(model).__name__} takes {len(needed)}{up_to} inputs, got'
      f' {len(inputs)}'
    )
  for array, like in zip(inputs, (*needed, *optional), strict=False):
    images = len(like.shape) == 4
    what = 'images' if images else 'inputs'
    if array.ndim != len(like.shape) or (
      images and array.shape[-1] != like.shape[-1]
    ):
      shape = (
        f'[batch, height, width, {like.shape[-1]}]'
        if images
        else f'of {len(like.shape)} axes'
      )
      raise ValueError(
        f'{what} must have the shape {shape}, got {list(array.shape)}'
      )
    floating = jnp.issubdtype(like.dtype, jnp.floating)
    if floating and not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(
        f'{what} must be floating point and normalised, got {array.dtype}'
      )


def extract(
  model: SlimNet, variables: Variables, *, width: Width
) -> tuple[SlimNet, dict[str, Any]]:
  """Returns the stand-alone network of one switch, and the weights it uses.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    variables: variables of the model; not changed.
    width: a width that has trees in `variables`.

  Returns:
    A model of that one width and its variables, for `apply` with this width.
  """
  check_static(model)
  small, weights = _narrowed(model, variables, width)
  switch = small.switch(small.widths[0])
  return small, {
    name: tree if name == PARAMS else {switch: tree}
    for name, tree in weights.items()
  }


def used_parameters(model: SlimNet, width: Width) -> dict[str, int]:
  """Returns the numbers that a width uses of each trained collection."""
  counts = dict.fromkeys(TRAINED, 0)
  for (collection, *_), cut in cuts(model, width).items():
    if collection in counts:
      size = 1
      for n in cut.shape:
        size *= n
      counts[collection] += size
  return counts
