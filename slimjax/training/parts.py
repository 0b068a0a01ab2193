"""Freezes parts of a network, and gives parts a learning rate of their own.

A part is named by a pattern of paths: `stem`, `stage[12]_*`, `*/depthwise`,
`classifier/bias`. It matches whatever lies below. A path may begin with its
collection (`norm`, `params/stem`), and behind that with a switch
(`norm/w025`); without one it is that of all switches.

A frozen norm normalises by its running statistics, in training too, and these
stay as they are: what follows sees in training what it sees in evaluation, and
nothing of a frozen part drifts.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import fnmatch
import functools
import math
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
from jax import lax
import optax

from slimjax import naming
from slimjax.models.net import SlimNet
from slimjax.nn.norm import SwitchableBatchNorm
from slimjax.variables.format import PARAMS
from slimjax.variables.format import SHARED
from slimjax.variables.format import TRAINED
from slimjax.variables.format import variable_shapes
from slimjax.variables.slicing import Path

Paths = frozenset[Path]


@dataclasses.dataclass(frozen=True)
class Parts:
  """Parts of a network that are not trained as the rest.

  Attributes:
    frozen: paths of what is not trained, (collection, switch, *path), without
      a switch in `params`; default: none.
    scaled: paths and the factor of their learning rate; default: none.
  """

  frozen: Paths = frozenset()
  scaled: tuple[tuple[Paths, float], ...] = ()


def find_parts(
  model: SlimNet,
  freeze: Sequence[str] = (),
  rate_factors: Sequence[tuple[str, float]] = (),
) -> Parts:
  """Returns the parts of a network that patterns name.

  Args:
    model: the network.
    freeze: patterns of what is not trained; default: none.
    rate_factors: patterns and factors of the learning rate; the first pattern
      that matches a path counts. Default: none.

  Raises:
    ValueError: a pattern matches nothing, or everything is frozen.
  """
  if not freeze and not rate_factors:
    return Parts()
  paths = list(_trained_shapes(model))
  frozen: set[Path] = set()
  for pattern in freeze:
    frozen |= _matched(pattern, paths, model, 'config.init.freeze')
  if len(frozen) == len(paths):
    raise ValueError(
      f'config.init.freeze {", ".join(freeze)} leaves nothing to train'
    )
  scaled, seen = [], set(frozen)
  for pattern, factor in rate_factors:
    matched = _matched(pattern, paths, model, 'config.init.rate_factors')
    scaled.append((frozenset(matched - seen), factor))
    seen |= matched
  return Parts(frozenset(frozen), tuple(scaled))


def describe_parts(model: SlimNet, parts: Parts) -> list[str]:
  """Returns lines for people on what is frozen or scaled."""
  if parts == Parts():
    return []
  shapes = _trained_shapes(model)
  lines = []
  if parts.frozen:
    numbers = sum(math.prod(shapes[path].shape) for path in parts.frozen)
    lines.append(
      f'frozen: {len(parts.frozen)} of {len(shapes)} tensors,'
      f' {numbers:,} parameters'
    )
  lines += [
    f'learning rate times {factor:g}: {len(paths)} tensors'
    for paths, factor in parts.scaled
  ]
  return lines


def _trained_shapes(model: SlimNet) -> Mapping[Path, Any]:
  shapes = variable_shapes(model)
  return traverse_util.flatten_dict(
    {name: shapes[name] for name in TRAINED if name in shapes}
  )


def _matched(
  pattern: str, paths: Sequence[Path], model: SlimNet, where: str
) -> set[Path]:
  found = {p for p in paths if any(map(_fits(pattern), _spellings(p)))}
  if found:
    return found
  known = {
    '/'.join(bare[:n])
    for bare in map(_bare, paths)
    for n in range(1, len(bare) + 1)
  }
  first = sorted({_bare(path)[0] for path in paths})
  hint = naming.near(pattern, known) or (
    f'; there are {", ".join(first[:8])}{", ..." if len(first) > 8 else ""}'
  )
  raise ValueError(
    f'{where}: {pattern!r} matches nothing of {type(model).__name__}{hint}'
  )


def _bare(path: Path) -> Path:
  """Returns the path of the module and its leaf."""
  return path[1:] if path[0] == PARAMS else path[2:]


def _spellings(path: Path) -> list[Path]:
  """Returns the ways in which a pattern may name a path."""
  bare = _bare(path)
  return [bare, (path[0], *bare), path]


def _fits(pattern: str):
  """Returns whether a path, or one of the modules it lies in, fits."""

  def fits(path: Path) -> bool:
    starts = (path[:n] for n in range(1, len(path) + 1))
    return any(fnmatch.fnmatchcase('/'.join(s), pattern) for s in starts)

  return fits


# The optimiser.


@functools.lru_cache(maxsize=16)  # equal ones are one object: a key of programs
def partly(
  optimizer: optax.GradientTransformation, parts: Parts
) -> optax.GradientTransformation:
  """Returns an optimiser that leaves frozen parts alone and scales others.

  Nothing of a frozen part enters it: no decay, no momentum, no norm of the
  gradient.

  Args:
    optimizer: optimiser of the whole network.
    parts: parts of the network to freeze or to scale.
  """
  links = [
    optax.masked(optax.scale(factor), _mask(paths, inside=True))
    for paths, factor in parts.scaled
  ]
  if parts.frozen:
    links.insert(0, optax.masked(optimizer, _mask(parts.frozen, inside=False)))
    links.append(
      optax.masked(optax.set_to_zero(), _mask(parts.frozen, inside=True))
    )
  elif links:
    links.insert(0, optimizer)
  return optax.chain(*links) if links else optimizer


def _mask(paths: Paths, *, inside: bool):
  """Returns a mask that is `inside` at these paths of the trained tree."""

  def mask(tree):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (tuple(key.key for key in path) in paths) == inside, tree
    )

  return mask


# The forward pass of one switch.


def stop_frozen(tree: Mapping[str, Any], switch: str, frozen: Paths) -> Any:
  """Returns the trained trees of a switch; no gradient reaches frozen parts.

  So their gradients are zero and are not computed.
  """
  flat = traverse_util.flatten_dict(dict(tree))
  return traverse_util.unflatten_dict(
    {
      path: lax.stop_gradient(leaf) if _is_in(path, switch, frozen) else leaf
      for path, leaf in flat.items()
    }
  )


def hold_norms(switch: str, frozen: Paths):
  """Returns a context in which frozen batch norms run as in evaluation."""
  if not frozen:
    return contextlib.nullcontext()

  def intercept(call, args, kwargs, context):
    module = context.module
    called = context.method_name == '__call__'
    if (
      called
      and isinstance(module, SwitchableBatchNorm)
      and _is_in(('norm', *module.path, 'scale'), switch, frozen)
    ):
      kwargs = {**kwargs, 'train': False}
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)


def _is_in(path: Path, switch: str, frozen: Paths) -> bool:
  """Returns whether a switch's path, (collection, *path), is frozen."""
  if path[0] == PARAMS:
    return path in frozen
  collection, *rest = path
  return any((collection, tree, *rest) in frozen for tree in (switch, SHARED))
