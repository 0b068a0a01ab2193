"""Running statistics of any width from some batches, without training.

Each batch normalises itself, as in training, so that what follows a norm sees
what it saw there; the batches' means and unbiased variances are averaged with
equal weights (Yu and Huang, ICCV 2019, section 3.3; PyTorch's cumulative
average). All norms are averaged in one pass.

A width that was not trained takes scales and biases of a wider one, its source,
and runs in one program with all others of that source, masked inside it
(`slimjax.variables.masking`). So the statistics of a width do not depend on
what else is calibrated, not in their last digit.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any
import warnings

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import backbone_of
from slimjax.models.net import check_static
from slimjax.models.net import SlimNet
from slimjax.nn.norm import MOMENTS
from slimjax.variables.format import check_inputs
from slimjax.variables.format import PARAMS
from slimjax.variables.format import select
from slimjax.variables.format import SHARED
from slimjax.variables.format import split_shared
from slimjax.variables.format import TRAINED
from slimjax.variables.format import Variables
from slimjax.variables.masking import check_maskable
from slimjax.variables.masking import counts_of
from slimjax.variables.masking import mask_norm
from slimjax.variables.masking import NORM
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import Path
from slimjax.variables.slicing import take_width
from slimjax.widths import canonical
from slimjax.widths import check_widths
from slimjax.widths import label
from slimjax.widths import switch_name
from slimjax.widths import Width

STATISTICS = 'batch_stats'
VARIANCES = ('unbiased', 'pooled')
# Numbers per channel of a batch, below which its variance says little.
_FEW = 32


def calibrate(
  model: SlimNet,
  variables: Variables,
  batches: Iterable[Any],
  *,
  widths: Sequence[Any] = (),
  variance: str = 'unbiased',
  like: Width | None = None,
) -> dict[str, Any]:
  """Returns the variables with running statistics of some widths, any widths.

  `apply`, `extract` and the like then take these widths.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own, with
      batch normalisation.
    variables: variables of the model; not changed.
    batches: inputs as the network takes them in training, images [b, h, w, 3]
      preprocessed, or a tuple of several inputs; some hundred images at least,
      in batches of one size. Published: 5 batches of 1024.
    widths: numbers, or channels of every layer, that fit into the parameters;
      default: all that the model was made for.
    variance: 'unbiased' (default) averages the batches' unbiased variances;
      'pooled' is the variance of all images at once, which differs where
      batches are small.
    like: trained width whose scales and biases a width that was not trained
      takes, sliced; it is for norms that the widths do not share. Default: the
      next wider trained width.

  Raises:
    ValueError: there are no batches, a width does not fit, the network has no
      running statistics, or those of a trained width are shared.
  """
  check_static(model)
  if variance not in VARIANCES:
    raise ValueError(
      f'variance must be one of {", ".join(VARIANCES)}, got {variance!r}'
    )
  if STATISTICS not in variables:
    raise ValueError(
      f'{type(model).__name__} has no running statistics to calibrate: it has'
      ' no batch normalisation'
    )
  chosen = check_widths(widths or model.widths)
  _check_private(model, chosen)
  groups = _groups(model, variables, chosen, like)
  sums: dict[Width, _Sums] = {width: _Sums() for width in chosen}
  number = 0
  for number, batch in enumerate(batches, 1):
    inputs = batch if isinstance(batch, tuple) else (batch,)
    inputs = tuple(map(jnp.asarray, inputs))
    check_inputs(model, inputs)
    if number == 1 and len(inputs[0]) < 2:
      raise ValueError('a batch of one image has no variance; give more images')
    for group in groups:
      for width in group.widths:
        sums[width].add(group.moments(width, inputs))
  if not number:
    raise ValueError('there are no batches to calibrate with')
  least = min(of_width.least for of_width in sums.values())
  if least < _FEW:
    warnings.warn(
      f'a channel has {least:.0f} numbers in a batch, whose variance says'
      f' little; give batches of {math.ceil(_FEW / least)} times as many images'
      ' or more',
      stacklevel=2,
    )
  result = {name: dict(tree) for name, tree in variables.items()}
  result[PARAMS] = variables[PARAMS]
  for group in groups:
    for width in group.widths:
      trees = _trees(model, group, width, sums[width].statistics(variance))
      for collection, tree in trees.items():
        result[collection][switch_name(width)] = tree
  return result


def _check_private(model: SlimNet, widths: Sequence[Width]) -> None:
  """Refuses trained widths whose running statistics are others' as well."""
  shared = any(path.split('/')[0] == STATISTICS for path in model.shared)
  trained = [width for width in widths if width in model.widths]
  if shared and trained:
    raise ValueError(
      'the widths share running statistics, so that there are none of'
      f' {label(trained[0])} alone to calibrate: shared is {model.shared};'
      ' widths that were not trained can be calibrated'
    )


@dataclasses.dataclass(frozen=True)
class _Group:
  """Widths that one program runs.

  Attributes:
    model: the network, without synchronisation.
    bound: width that the program is compiled at.
    weights: what a network of that width is applied to.
    masked: whether the widths are masked inside the bound.
    widths: the widths; one that is not masked is the bound.
  """

  model: SlimNet
  bound: Width
  weights: Mapping[str, Any]
  masked: bool
  widths: tuple[Width, ...]

  def moments(self, width: Width, inputs: Any) -> dict[Path, np.ndarray]:
    """Returns the moments of every norm in a batch, at a width."""
    small = narrow(self.model, self.bound)
    counts = counts_of(self.model, width) if self.masked else None
    found = _moments(small, self.weights, counts, *inputs)
    parts = cuts(small, width)
    moments = {}
    for path, (value,) in traverse_util.flatten_dict(dict(found)).items():
      array = np.asarray(value, np.float64)
      # Of idle channels, rubbish.
      active = slice(*parts[STATISTICS, *path].shape) if array.ndim else ...
      moments[path] = array[active]
    return moments


def _groups(
  model: SlimNet,
  variables: Variables,
  widths: Sequence[Width],
  like: Width | None,
) -> list[_Group]:
  """Returns the programs of some widths."""
  alone, shared = model.clone(axis_name=None), _shares_norms(variables)
  programs: dict[tuple[Width, Width, bool], list[Width]] = {}
  for width in widths:
    model.channels(width)  # it fits, or an error says why not
    source = _source(model, variables, width, like)
    # Of shared norms, the source is a width like others.
    masked = (shared or width != source) and _masks(alone)
    key = (source, source if masked else width, masked)
    programs.setdefault(key, []).append(width)
  return [
    _Group(
      alone,
      bound,
      take_width(model, select(variables, switch_name(source)), width=bound),
      masked,
      tuple(members),
    )
    for (source, bound, masked), members in programs.items()
  ]


def _masks(model: SlimNet) -> bool:
  try:
    check_maskable(model)
  except ValueError:
    return False
  return True


def _source(
  model: SlimNet, variables: Variables, width: Width, like: Width | None
) -> Width:
  """Returns the width whose norms a width begins with."""
  shared = _shares_norms(variables)
  if not shared and switch_name(width) in variables.get(NORM, {}):
    return width
  if not shared and like is not None:
    model.switch(like)
    if not _holds(model, like, width):
      raise ValueError(
        f'like={label(canonical(like))} is thinner than {label(width)}, which'
        ' needs more scales and biases than it has'
      )
    return canonical(like)
  # Where norms are shared, all widths that can be run in one program.
  ordered = model.ordered_widths
  for trained in reversed(ordered) if shared else ordered:
    if _holds(model, trained, width):
      return trained
  raise ValueError(
    f'no trained width is at least as wide as {label(width)} in every layer'
  )


def _shares_norms(variables: Variables) -> bool:
  """Returns whether all widths share all scales and biases."""
  trees = variables.get(NORM, {})
  return SHARED in trees and not any(
    tree for switch, tree in trees.items() if switch != SHARED
  )


def _holds(model: SlimNet, wide: Width, width: Width) -> bool:
  pairs = zip(model.channels(wide), model.channels(width), strict=True)
  return all(most >= count for most, count in pairs)


@functools.partial(jax.jit, static_argnums=0)
def _moments(small: SlimNet, weights, counts, *inputs):
  if counts is not None:
    norm = mask_norm(small, weights[NORM], counts)
    weights = {**weights, NORM: norm}
  state = [name for name in weights if name not in TRAINED]
  # A detector holds its norms in training too; those of its backbone move.
  method = None if backbone_of(small) is None else 'features'
  _, moved = small.apply(
    weights,
    *inputs,
    width=small.widths[0],
    method=method,
    train=True,
    mutable=[*state, MOMENTS],
    rngs={'dropout': jax.random.key(0)},
  )
  return moved[MOMENTS]


class _Sums:
  """Sums of moments over batches, in float64, which costs nothing.

  Attributes:
    least: the fewest numbers a channel had in a batch.
  """

  def __init__(self):
    self._sums: dict[Path, Any] = {}
    self._batches = 0
    self.least = math.inf

  def add(self, moments: Mapping[Path, np.ndarray]) -> None:
    """Adds the moments of a batch, and the squares they stand for."""
    self._batches += 1
    for path in {path[:-1] for path in moments}:
      mean, var = moments[*path, 'mean'], moments[*path, 'var']
      count = moments[*path, 'count']
      self.least = min(self.least, float(count))
      square = var * (count - 1) / count + mean**2
      for name, value in (
        ('mean', mean), ('var', var), ('square', square), ('count', count),
      ):  # fmt: skip
        self._sums[*path, name] = self._sums.get((*path, name), 0.0) + value

  def statistics(self, variance: str) -> dict[Path, np.ndarray]:
    """Returns mean and variance of each norm, by the path of the variable."""
    found = {}
    for path in {path[:-1] for path in self._sums}:
      mean = self._sums[*path, 'mean'] / self._batches
      found[*path, 'mean'] = mean
      if variance == 'unbiased':
        found[*path, 'var'] = self._sums[*path, 'var'] / self._batches
      else:
        numbers = self._sums[*path, 'count']
        biased = self._sums[*path, 'square'] / self._batches - mean**2
        found[*path, 'var'] = biased * numbers / (numbers - 1)
    return found


def _trees(
  model: SlimNet,
  group: _Group,
  width: Width,
  statistics: Mapping[Path, np.ndarray],
) -> dict[str, Any]:
  """Returns the private trees of a calibrated width, by collection."""
  small = take_width(narrow(model, group.bound), group.weights, width=width)
  flat = traverse_util.flatten_dict(dict(small[STATISTICS]))
  for path, value in statistics.items():
    if path in flat:
      flat[path] = jnp.asarray(value, flat[path].dtype)
  trees = {
    name: split_shared(model, name, tree)[0]
    for name, tree in small.items()
    if name != PARAMS
  }
  # Statistics that are shared do not fit it: it has all of its own.
  trees[STATISTICS] = traverse_util.unflatten_dict(flat)
  return trees
