"""Tells whose weights arrays are: ours, the authors', or others'."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from flax import traverse_util
import numpy as np

from slimjax.models.net import backbone_of
from slimjax.models.net import SlimNet
from slimjax.nn.norm import EPSILON
from slimjax.variables.fitting import BACKBONE
from slimjax.variables.fitting import check_source
from slimjax.variables.fitting import head
from slimjax.variables.fitting import Source
from slimjax.variables.format import PARAMS
from slimjax.variables.format import private_collections
from slimjax.variables.format import SHARED
from slimjax.variables.recognising import Look
from slimjax.variables.recognising import recognise
from slimjax.variables.slicing import describe
from slimjax.variables.state_dicts import Arrays
from slimjax.variables.state_dicts import as_arrays
from slimjax.variables.state_dicts import state_dict
from slimjax.variables.torch_detectors import DETECTOR
from slimjax.variables.torch_detectors import has_gaps
from slimjax.variables.torch_detectors import renamed
from slimjax.variables.torch_detectors import with_heads_of
from slimjax.variables.torch_detectors import without_gaps
from slimjax.variables.torch_layouts import authors_layout
from slimjax.variables.torch_layouts import ORDINARY
from slimjax.variables.torch_names import from_authors
from slimjax.variables.torch_names import from_ordinary
from slimjax.widths import named_width
from slimjax.widths import switch_name
from slimjax.widths import Width

LAYOUTS = {**ORDINARY, 'detector': DETECTOR}
# The widths of the authors' networks, of which a checkpoint says the number.
_PUBLISHED = (
  (0.25, 0.5, 0.75, 1.0),
  (0.35, 0.5, 0.75, 1.0),
  (0.5, 1.0, 2.0),
  (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0),
)


def source_of(
  model: SlimNet,
  content: Mapping[str, Any],
  name: str,
  epsilon: float | None = None,
) -> Source:
  """Returns what arrays hold, as weights that `model` may begin with.

  Args:
    model: network of the same architecture, or with it as its backbone; its
      widths and classes may differ.
    content: variables of ours, nested or by names such as 'params/stem/kernel';
      or what PyTorch's checkpoints hold: the authors' networks, and ordinary
      ones of torchvision and timm.
    name: origin of the arrays, for people.
    epsilon: number that the norms of an ordinary network of PyTorch add to the
      variance; default: PyTorch's own, 1e-5.

  Raises:
    ValueError: it is another network, or damaged.
  """
  own = own_names(content)
  if own is not None:
    refuse_epsilon(epsilon, name)
    return source_of_variables(model, as_arrays(own, name), name)
  weights = state_dict(content, name)
  notes = tuple(
    f'left aside: the average {key!r} that lies beside'
    for key in weights.averages
  )
  look = recognise({n: x.shape for n, x in weights.arrays.items()})
  if look.layout != 'detector':
    model = backbone_of(model) or model
  if look.layout == 'authors':
    refuse_epsilon(epsilon, name)
    return _of_authors(model, weights.arrays, name, look.network, notes)
  layout = LAYOUTS.get(look.layout)
  if layout is not None and isinstance(model, layout.family):
    found = _of_ordinary(model, look, weights.arrays, name, notes)
    return _with_epsilon(found, epsilon, detector=layout is DETECTOR)
  looks = (
    f'looks like {look.network}' if look.network else 'is no known network'
  )
  first = ', '.join(list(weights.arrays)[:3])
  raise ValueError(
    f'{name} {looks}, which does not fit {type(model).__name__}: it has'
    f' {len(weights.arrays)} tensors, such as {first}'
  )


def own_names(content: Mapping[str, Any]) -> dict[str, Any] | None:
  """Returns arrays by paths of ours, or None if they are of something else."""
  if any(str(name).startswith(f'{PARAMS}/') for name in content):
    return dict(content)
  if not isinstance(content.get(PARAMS), Mapping):
    return None
  flat = traverse_util.flatten_dict(dict(content))
  # A state dict under a key `params` has names with dots, of one level.
  if not any(len(path) > 2 for path in flat):
    return None
  return {'/'.join(map(str, path)): leaf for path, leaf in flat.items()}


def source_of_variables(
  model: SlimNet,
  arrays: Arrays,
  name: str,
  *,
  widths: tuple[Width, ...] = (),
  classes: int | None = None,
) -> Source:
  """Returns variables of ours as weights that `model` may begin with.

  Args:
    model: network of the same architecture, or with it as its backbone.
    arrays: arrays by paths such as 'norm/w025/stem/norm/scale'.
    name: origin of the arrays, for people.
    widths: widths of their network; default: as the names of switches say.
    classes: number of their classes; default: as the head's shape says.

  Raises:
    ValueError: they are not the variables of such a network.
  """
  if not any(path.startswith(f'{PARAMS}/{BACKBONE}/') for path in arrays):
    model = backbone_of(model) or model
  model = with_heads_of(model, arrays)
  variables = traverse_util.unflatten_dict(
    {tuple(path.split('/')): array for path, array in arrays.items()}
  )
  if not widths:
    widths = _named_widths(model, variables) or model.widths
  shared = _shared(variables)
  if classes is None:
    classes = _classes(model, arrays)
  source = Source(
    name,
    model.clone(widths=widths, num_classes=classes, shared=shared),
    _completed(variables, widths),
  )
  check_source(source)
  return source


def _named_widths(model: SlimNet, variables) -> tuple[Width, ...]:
  """Returns the widths that the names of switches stand for."""
  known = {switch_name(width): width for width in model.widths}
  names = {
    name: None
    for collection in private_collections(variables)
    for name in variables[collection]
    if name != SHARED
  }
  found = [known.get(name, named_width(name)) for name in names]
  return tuple(width for width in found if width is not None)


def _shared(variables) -> tuple[str, ...]:
  """Returns the paths that stand once, for all switches."""
  paths = []
  for collection in private_collections(variables):
    trees = variables[collection]
    flat = traverse_util.flatten_dict(trees.get(SHARED, {}))
    private = any(trees[name] for name in trees if name != SHARED)
    if flat and not private:
      paths.append(collection)
    else:
      paths += sorted({'/'.join((collection, *path[:-1])) for path in flat})
  return tuple(paths)


def _completed(variables, widths: tuple[Width, ...]) -> dict[str, Any]:
  """Returns the variables, with empty trees where switches share everything."""
  complete = dict(variables)
  for name in private_collections(variables):
    trees = variables[name]
    if SHARED in trees and not any(trees[s] for s in trees if s != SHARED):
      empty: dict[str, Any] = {switch_name(width): {} for width in widths}
      complete[name] = {**empty, SHARED: trees[SHARED]}
  return complete


def _classes(model: SlimNet, arrays: Arrays) -> int:
  """Returns the classes of a head, from the axis that grows with them."""
  n = model.num_classes
  one, other = (
    describe(model.clone(num_classes=m), model.full_channels)
    for m in (n, n + 1)
  )
  for path in sorted(head(model)):
    array = arrays.get('/'.join(path))
    if array is None or array.ndim != len(one[path].shape):
      continue
    sizes = zip(array.shape, one[path].shape, other[path].shape, strict=True)
    for size, before, after in sizes:
      found = n + (size - before) // max(after - before, 1)
      if after > before and found > 0:
        return found
  return n


def _of_authors(
  model: SlimNet,
  arrays: Arrays,
  name: str,
  network: str,
  notes: tuple[str, ...],
) -> Source:
  """Returns a checkpoint of the authors, which says how many widths it has."""
  numbers = {m[1] for n in arrays if (m := re.search(r'\.bn\.(\d+)\.', n))}
  candidates = [
    widths
    for widths in (model.widths, *_PUBLISHED)
    if len(widths) == len(numbers)
  ]
  shared = ('norm',) if 'features.0.1.weight' in arrays else ()
  classifier = f'{authors_layout(model).classifier}.weight'
  classes = _rows(arrays, classifier, model.num_classes)
  failed: ValueError | None = None
  for widths in candidates or [model.widths]:
    whole = model.clone(widths=widths, num_classes=classes, shared=shared)
    try:
      variables = from_authors(whole, arrays, name)
    except ValueError as error:
      failed = failed or error
      continue
    complete = _completed(variables, whole.widths)
    return Source(f'{name} ({network})', whole, complete, notes)
  assert failed is not None
  raise failed


def _of_ordinary(
  model: SlimNet,
  look: Look,
  arrays: Arrays,
  name: str,
  notes: tuple[str, ...],
) -> Source:
  """Returns an ordinary network of one width, 1 or one of the model's."""
  layout = LAYOUTS[look.layout]
  if layout is DETECTOR:
    arrays = renamed(arrays)
    model = with_heads_of(model, arrays)
    if has_gaps(arrays, model.num_classes):
      arrays = without_gaps(arrays)
      notes = (*notes, "left aside: COCO's 10 ids that name no category")
  rows = model.num_classes + layout.background
  classes = _rows(arrays, f'{layout.classifier}.weight', rows)
  classes -= layout.background
  stem = layout.units(model)[0].convs[0]
  channels = _rows(arrays, f'{stem}.weight', 0)
  wholes = [
    model.clone(widths=(width,), num_classes=classes, shared=())
    for width in dict.fromkeys((1.0, *model.ordered_widths[::-1]))
  ]
  fits = [whole for whole in wholes if whole.full_channels[0] == channels]
  failed: ValueError | None = None
  for whole in fits or wholes[:1]:
    try:
      variables = from_ordinary(whole, layout, arrays, name)
    except ValueError as error:
      failed = failed or error
      continue
    return Source(f'{name} ({look.network})', whole, variables, notes)
  assert failed is not None
  raise failed


def _with_epsilon(
  source: Source, epsilon: float | None, *, detector: bool
) -> Source:
  """Returns a source whose norms, with our epsilon, give what they gave.

  Args:
    source: a network of one width.
    epsilon: number that its norms add to the variance; None is ours.
    detector: whether it is one of torchvision, whose epsilon nothing tells.
  """
  if epsilon is None:
    note = (
      f'norms with epsilon {EPSILON:g}, but if this is COCO_V1 of torchvision,'
      ' or began with it, they have 0, which a file does not tell: give'
      ' epsilon=0 (config.init.epsilon)'
    )
    notes = (*source.notes, note) if detector else source.notes
    return dataclasses.replace(source, notes=notes)
  flat = traverse_util.flatten_dict(dict(source.variables))
  for path, scale in flat.items():
    if path[0] != 'norm' or path[-1] != 'scale':
      continue
    var = flat['batch_stats', *path[1:-1], 'var'].astype(np.float64)
    with np.errstate(all='ignore'):
      wider = scale * np.sqrt((var + EPSILON) / (var + epsilon))
    flat[path] = wider.astype(scale.dtype)
    if not np.isfinite(flat[path]).all():
      raise ValueError(
        f'{source.name} has variances of 0 in {"/".join(path[2:-1])}, which'
        f' epsilon {epsilon:g} cannot be of; leave it out'
      )
  return dataclasses.replace(
    source,
    variables=traverse_util.unflatten_dict(flat),
    notes=(*source.notes, f'norms rescaled from epsilon {epsilon:g}'),
  )


def refuse_epsilon(epsilon: float | None, name: str) -> None:
  """Raises ValueError for an epsilon of weights that are not PyTorch's own."""
  if epsilon is not None:
    raise ValueError(
      f'epsilon is for files of torchvision and timm, but {name} is a slimmable'
      f' network, whose norms add {EPSILON:g}; leave it out'
    )


def _rows(arrays: Arrays, name: str, default: int) -> int:
  array = arrays.get(name)
  return default if array is None or not array.ndim else array.shape[0]
