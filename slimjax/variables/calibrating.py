"""Running statistics of widths from some batches, without training.

Each batch normalises itself, as in training, so that what follows a norm sees
what it saw there; the batches' means and unbiased variances are averaged with
equal weights (Yu and Huang, ICCV 2019, section 3.3; PyTorch's cumulative
average).
"""

from collections.abc import Iterable
from collections.abc import Sequence
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import SlimNet
from slimjax.nn.norm import MOMENTS
from slimjax.variables.format import check_inputs
from slimjax.variables.format import merge
from slimjax.variables.format import select
from slimjax.variables.format import TRAINED
from slimjax.variables.format import Variables
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width
from slimjax.widths import Width

STATISTICS = 'batch_stats'


def calibrate_statistics(
  model: SlimNet,
  variables: Variables,
  batches: Iterable[Any],
  *,
  widths: Sequence[Width] = (),
) -> dict[str, Any]:
  """Returns the variables with new running statistics of some widths.

  Args:
    model: the network; none of its switches shares running statistics.
    variables: variables of the model; not changed.
    batches: inputs as the network takes them in training, images [b, h, w, 3]
      preprocessed, or a tuple of several inputs; some hundred images at least,
      in batches of one size.
    widths: widths whose statistics are replaced; default: all.

  Raises:
    ValueError: there are no batches, or statistics are shared.
  """
  if any(path.split('/')[0] == STATISTICS for path in model.shared):
    raise ValueError(
      'the widths share running statistics, so that there are none of one'
      f' width to calibrate: shared is {model.shared}'
    )
  chosen = model.find_widths(widths)
  networks = {width: _network(model, variables, width) for width in chosen}
  sums: dict[Width, dict] = {width: {} for width in chosen}
  number = 0
  for number, batch in enumerate(batches, 1):
    inputs = batch if isinstance(batch, tuple) else (batch,)
    inputs = tuple(map(jnp.asarray, inputs))
    check_inputs(model, inputs)
    if number == 1 and len(inputs[0]) < 2:
      raise ValueError('a batch of one image has no variance; give more images')
    for width, (small, weights) in networks.items():
      moments = traverse_util.flatten_dict(_moments(small, weights, *inputs))
      for path, (value,) in moments.items():
        # The sums are float64, which costs nothing: they are few.
        sums[width][path] = sums[width].get(path, 0.0) + np.float64(value)
  if not number:
    raise ValueError('there are no batches to calibrate with')
  result = dict(variables)
  for width, of_width in sums.items():
    switch = model.switch(width)
    flat = traverse_util.flatten_dict(dict(variables[STATISTICS][switch]))
    for path, total in of_width.items():
      if path not in flat:
        continue
      flat[path] = jnp.asarray(total / number, flat[path].dtype)
    tree = traverse_util.unflatten_dict(flat)
    result = merge(result, switch, {STATISTICS: tree})
  return result


def _network(model: SlimNet, variables: Variables, width: Width):
  """Returns a width's network and its weights, by themselves."""
  small = narrow(model.clone(axis_name=None), width)
  selected = select(variables, model.switch(width))
  return small, take_width(model, selected, width=width)


@functools.partial(jax.jit, static_argnums=0)
def _moments(small: SlimNet, weights, *inputs):
  state = [name for name in weights if name not in TRAINED]
  _, moved = small.apply(
    weights,
    *inputs,
    width=small.widths[0],
    train=True,
    mutable=[*state, MOMENTS],
    rngs={'dropout': jax.random.key(0)},
  )
  return moved[MOMENTS]
