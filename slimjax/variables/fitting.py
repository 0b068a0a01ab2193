"""Weights of one network as the beginning of another: `fit`.

Both are the same architecture. The other's classes may be others, and so may
its widths: a switch that the weights lack takes the norms of the nearest wider
one, their leading entries.
"""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import backbone_of
from slimjax.models.net import SlimNet
from slimjax.variables.format import PARAMS
from slimjax.variables.format import private_collections
from slimjax.variables.format import select
from slimjax.variables.format import SHARED
from slimjax.variables.format import split_shared
from slimjax.variables.format import variable_shapes
from slimjax.variables.format import Variables
from slimjax.variables.recognising import misfit
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import Path
from slimjax.variables.slicing import take_width
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width

BACKBONE = 'backbone'  # the attribute, and the name of its variables


@dataclasses.dataclass(frozen=True)
class Source:
  """Weights to begin with.

  Attributes:
    name: origin of the weights, for people, such as 'runs/digits'.
    model: the network they are of, with its widths and classes.
    variables: variables of this network; trees of some switches may be missing.
    notes: lines for people on what was left aside; default: none.
  """

  name: str
  model: SlimNet
  variables: Variables
  notes: tuple[str, ...] = ()

  @property
  def widths(self) -> tuple[Width, ...]:
    """Returns the widths of which there are all trees, thinnest first."""
    private = private_collections(self.variables)
    return tuple(
      width
      for width in self.model.ordered_widths
      if all(switch_name(width) in self.variables[name] for name in private)
    )

  def nearest(self, channels: tuple[int, ...]) -> Width:
    """Returns the thinnest of `widths` that has these channels.

    Raises:
      ValueError: none has.
    """
    for width in self.widths:
      pairs = zip(self.model.channels(width), channels, strict=True)
      if all(has >= needed for has, needed in pairs):
        return width
    raise ValueError(
      f'{self.name} has no width with the channels {_short(channels)}; its'
      f' widths are {", ".join(map(label, self.widths))}. Give the new network'
      ' no wider ones'
    )


@dataclasses.dataclass(frozen=True)
class Taken:
  """What became of weights that a network began with; str() says it in words.

  Attributes:
    name: origin of the weights.
    taken: number of their tensors that are used.
    total: number of their tensors.
    new: layers that were drawn anew, since they depend on the classes, or since
      the weights are those of a backbone, or of a detector without this head;
      default: none.
    classes: number of classes (before, now), where they differ; default: (0,
      0).
    norms: {width: the wider one whose norms it began with}, where it had none;
      default: empty.
    notes: lines on what was left aside; default: none.
  """

  name: str
  taken: int
  total: int
  new: tuple[str, ...] = ()
  classes: tuple[int, int] = (0, 0)
  norms: Mapping[Width, Width] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def __str__(self) -> str:
    parts = [f'took {self.taken} of {self.total} tensors of {self.name}']
    if self.new:
      before, now = self.classes
      names = ', '.join(f'the {name}' for name in self.new)
      counts = f', {before} -> {now} classes' if before != now else ''
      parts.append(f'new: {names}{counts}')
    wider: dict[Width, list[str]] = {}
    for width, other in self.norms.items():
      wider.setdefault(other, []).append(label(width))
    parts += [
      f'norms of {", ".join(widths)} from {label(other)}'
      for other, widths in wider.items()
    ]
    return '; '.join([*parts, *self.notes])


def check_source(source: Source) -> None:
  """Raises ValueError unless the variables are those of the source's model.

  The message has at most fifteen lines.
  """
  model, variables = source.model, source.variables
  flat = traverse_util.flatten_dict(dict(variables))
  expected = traverse_util.flatten_dict(variable_shapes(model))
  absent = [
    (collection, model.switch(width))
    for collection in private_collections(variables)
    for width in model.widths
    if model.switch(width) not in variables[collection]
  ]
  lines = misfit(
    {
      '/'.join(path): leaf.shape
      for path, leaf in expected.items()
      if path[:2] not in absent
    },
    {'/'.join(path): np.shape(leaf) for path, leaf in flat.items()},
  )
  if lines:
    raise ValueError(
      f'{source.name} does not hold the weights of {type(model).__name__} with'
      f' widths {model.widths} and {model.num_classes} classes:\n'
      + '\n'.join(lines)
    )


def head(model: SlimNet) -> frozenset[Path]:
  """Returns the variables whose shape depends on the number of classes."""
  one, other = (
    describe(model.clone(num_classes=n), model.full_channels)
    for n in (model.num_classes, model.num_classes + 1)
  )
  return frozenset(path for path in one if one[path].shape != other[path].shape)


def target(model: SlimNet, source: Source) -> SlimNet:
  """Returns what of `model` weights are of: all, or its backbone alone.

  A backbone has the classifier that the weights have.
  """
  backbone = backbone_of(model)
  if backbone is None or isinstance(source.model, type(model)):
    return model
  return backbone.clone(
    num_classes=source.model.num_classes,
    shared=tuple(path.replace(f'/{BACKBONE}', '') for path in model.shared),
  )


def fresh(model: SlimNet, source: Source) -> frozenset[Path]:
  """Returns the variables that a source does not give, as `describe` has them.

  They are those that depend on the classes, where these differ, the heads that
  only `model` has, or all that are not a backbone's.
  """
  if target(model, source) is not model:
    described = describe(model, model.full_channels)
    return frozenset(path for path in described if path[1] != BACKBONE)
  shapes, given = _shapes(model), _given(model, source)
  return frozenset(p for p in shapes if given.get(p) != shapes[p])


def _shapes(model: SlimNet) -> dict[Path, tuple[int, ...]]:
  described = describe(model, model.full_channels)
  return {path: leaf.shape for path, leaf in described.items()}


def _given(model: SlimNet, source: Source) -> dict[Path, tuple[int, ...]]:
  """Returns the shapes that a source's variables have in `model`'s size."""
  return _shapes(source.model.clone(widths=model.widths, shared=model.shared))


def fit(
  model: SlimNet,
  source: Source,
  draw: Callable[[], Variables],
) -> tuple[dict[str, Any], Taken]:
  """Returns variables of `model` that begin with those of a source.

  Args:
    model: the network to begin.
    source: weights of the same architecture, or of a classifier of its
      backbone's, no thinner, which `check_source` passes.
    draw: function that gives variables of `model` as drawn, of which those of
      `fresh` are taken; called only if there are any.

  Raises:
    ValueError: the source is thinner than the model.
  """
  part = target(model, source)
  if part is not model:
    return _fit_backbone(model, part, source, draw)
  on_host = jax.tree.map(np.asarray, dict(source.variables))
  source = dataclasses.replace(source, variables=on_host)
  used: set[Path] = set()
  variables: dict[str, Any] = {PARAMS: {}}
  norms: dict[Width, Width] = {}
  for width in model.ordered_widths:
    channels = model.channels(width)
    nearest = source.nearest(channels)
    small = _part(source, nearest, channels, used)
    for name in private_collections(small):
      private, _ = split_shared(model, name, small[name])
      variables.setdefault(name, {})[model.switch(width)] = private
    if source.model.channels(nearest) != channels and len(small) > 1:
      norms[width] = nearest
  whole = _part(
    source, source.nearest(model.full_channels), model.full_channels, used
  )
  variables[PARAMS] = whole[PARAMS]
  for name in private_collections(whole):
    _, shared = split_shared(model, name, whole[name])
    if shared:
      variables[name][SHARED] = shared
  new = fresh(model, source)
  given = _given(model, source).keys()
  aside = given - _shapes(model).keys()
  if new or aside:
    drawn = draw() if new else {}
    variables = _with_head(variables, new, aside, drawn)
  total = len(traverse_util.flatten_dict(dict(source.variables)))
  layers = {'/'.join(path[1:-1]) if path in given else path[1] for path in new}
  heads = sorted({path[1] for path in aside})
  return variables, Taken(
    name=source.name,
    taken=len({path for path in used if bare(path) not in new | aside}),
    total=total,
    new=tuple(sorted(layers)),
    classes=(source.model.num_classes, model.num_classes),
    norms=norms,
    notes=(*source.notes, *(f'left aside: its {name}' for name in heads)),
  )


def _fit_backbone(
  model: SlimNet,
  part: SlimNet,
  source: Source,
  draw: Callable[[], Variables],
) -> tuple[dict[str, Any], Taken]:
  """Returns variables of `model`, of which `part` is the backbone."""
  variables, taken = fit(part, source, dict)
  classifier = head(part)
  new = fresh(model, source)
  flat = {
    path: jnp.asarray(leaf)
    for path, leaf in traverse_util.flatten_dict(dict(draw())).items()
    if bare(path) in new
  }
  left = 0
  for path, leaf in traverse_util.flatten_dict(variables).items():
    if bare(path) in classifier:
      left += 1
      continue
    place = 1 if path[0] == PARAMS else 2
    flat[*path[:place], BACKBONE, *path[place:]] = leaf
  missing = traverse_util.flatten_dict(variable_shapes(model)).keys() - flat
  if missing:
    raise ValueError(
      f'{source.name} does not give {"/".join(min(missing))}, nor'
      f' {len(missing) - 1} more variables of {type(model).__name__}'
    )
  return traverse_util.unflatten_dict(flat), dataclasses.replace(
    taken,
    taken=taken.taken - left,
    new=tuple(dict.fromkeys(path[1] for path in sorted(new))),
    classes=(0, 0),
    notes=(*taken.notes, 'left aside: its classifier'),
  )


def _part(
  source: Source, width: Width, channels: tuple[int, ...], used: set[Path]
) -> dict[str, Any]:
  """Returns the trees of a source's width, as narrow as `channels`."""
  switch = switch_name(width)
  selected = select(source.variables, switch)
  small = take_width(source.model, selected, width=width)
  for name, *path in traverse_util.flatten_dict(small):
    trees = source.variables[name]
    place: tuple[str, ...] = (switch,)
    if name == PARAMS:
      place = ()
    elif SHARED in trees and not _has(trees[switch], path):
      place = (SHARED,)
    used.add((name, *place, *path))
  if source.model.channels(width) == channels:
    return small
  # It is cut from a network that has just this width: inside its groups.
  return take_width(narrow(source.model, width), small, width=channels)


def _has(tree: Any, path: Any) -> bool:
  for name in path:
    if not isinstance(tree, Mapping) or name not in tree:
      return False
    tree = tree[name]
  return True


def bare(path: Path) -> Path:
  """Returns a path without its switch, as `describe` has it."""
  return path if path[0] == PARAMS else (path[0], *path[2:])


def _with_head(
  variables: Variables,
  new: frozenset[Path],
  aside: Collection[Path],
  drawn: Variables,
) -> dict[str, Any]:
  """Returns variables with those that are new, without those left aside."""
  flat = traverse_util.flatten_dict(dict(variables), keep_empty_nodes=True)
  kept = {path: leaf for path, leaf in flat.items() if bare(path) not in aside}
  for path, leaf in traverse_util.flatten_dict(dict(drawn)).items():
    if bare(path) in new:
      kept[path] = jnp.asarray(leaf)
  return traverse_util.unflatten_dict(kept)


def _short(channels: tuple[int, ...]) -> str:
  text = ', '.join(map(str, channels[:6]))
  return f'({text}{", ..." if len(channels) > 6 else ""})'
