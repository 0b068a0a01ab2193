"""Folds batch norms into the convolutions they follow."""

from typing import Any

from flax import traverse_util
import jax.numpy as jnp

from slimjax.models.net import check_static
from slimjax.models.net import SlimNet
from slimjax.nn.slicing import Fold
from slimjax.variables.format import PARAMS
from slimjax.variables.format import select
from slimjax.variables.format import Variables
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import Path
from slimjax.widths import switch_name


def fold_batch_norm(
  model: SlimNet, variables: Variables
) -> tuple[SlimNet, dict[str, Any]]:
  """Folds the batch norms of an extracted network into its convolutions.

  kernel' = kernel * scale / sqrt(var + epsilon) and bias' = bias + (b - mean)
  * scale / sqrt(var + epsilon), where b is the convolution's own bias: the
  network gives equal outputs and has no batch norms. Layer and group norms,
  which depend on their input, stay as they are.

  Args:
    model: a network of one width, from `extract`.
    variables: variables of the model; not changed.

  Returns:
    The model without batch norms, its convolutions biased, and its variables.

  Raises:
    ValueError: the model has several widths, was folded before, or has batch
      norms that are not a `ConvNorm`'s.
  """
  check_static(model)
  if len(model.widths) != 1:
    raise ValueError(
      f'batch norm folds into the kernels of one width, got {model.widths};'
      ' extract one first'
    )
  if model.folded:
    raise ValueError('the batch norms of this network are folded already')
  folds, others = batch_norms(model)
  if others:
    raise ValueError(
      'only the norm of a ConvNorm folds into its convolution, not'
      f' {", ".join(others)}'
    )
  selected = select(variables, switch_name(model.widths[0]))
  flat = traverse_util.flatten_dict(selected)
  for norm, fold in folds.items():
    conv = (PARAMS, *norm[:-1], fold.conv)
    kernel = (*conv, 'kernel')
    if kernel not in flat:
      raise ValueError(
        f'{"/".join(norm)} folds into {fold.conv}, but'
        f' {"/".join(conv[1:])} is no layer with a kernel'
      )
    scale = flat.pop(('norm', *norm, 'scale'))
    bias = flat.pop(('norm', *norm, 'bias'))
    mean = flat.pop(('batch_stats', *norm, 'mean'))
    var = flat.pop(('batch_stats', *norm, 'var'))
    factor = scale / jnp.sqrt(var + fold.epsilon)
    row = (1,) * (flat[kernel].ndim - 1) + (-1,)
    flat[kernel] = flat[kernel] * factor.reshape(row)
    own = flat.get((*conv, 'bias'), 0.0)
    flat[(*conv, 'bias')] = bias + (own - mean) * factor
  switch = switch_name(model.widths[0])
  return model.clone(folded=True), {
    name: tree if name == PARAMS else {switch: tree}
    for name, tree in traverse_util.unflatten_dict(flat).items()
  }


def batch_norms(model: SlimNet) -> tuple[dict[Path, Fold], list[str]]:
  """Returns the batch norms of a network that fold, and paths of the rest.

  Args:
    model: a network of any number of widths.
  """
  folds, others = {}, []
  described = describe(model, model.full_channels)
  for collection, *path in described:
    if collection != 'batch_stats' or path[-1] != 'var':
      continue
    norm = tuple(path[:-1])
    scale = described.get(('norm', *norm, 'scale'))
    if scale is None or scale.fold is None:
      others.append('/'.join(norm))
    else:
      folds[norm] = scale.fold
  return folds, others


def foldable(model: SlimNet) -> bool:
  """Returns whether `fold_batch_norm` takes an extracted width of a network."""
  if model.folded:
    return False
  folds, others = batch_norms(model)
  return bool(folds) and not others
