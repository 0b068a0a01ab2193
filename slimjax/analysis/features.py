"""Measures what a slimmable network learned: layers, activations, norms.

The widths of a layer are compared on the channels that all of them have (the
*common* ones): the leading channels, or the leading channels of each group if
the layer is slimmed inside groups.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import itertools

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.data.batches import Share
from slimjax.data.dataset import Dataset
from slimjax.layers import ConvNorm
from slimjax.layers import SwitchableBatchNorm
from slimjax.layers import take_active
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.format import extract
from slimjax.variables.format import private_collections
from slimjax.variables.format import resized
from slimjax.variables.format import select
from slimjax.variables.format import Variables
from slimjax.widths import Width

# The values of every norm, in the order of the paper's figure 4.
NORM_VALUES = ('scale', 'bias', 'mean', 'var')
# Extracted models and their variables, thinnest first.
Networks = Mapping[Width, tuple[SlimNet, Variables]]
# Arrays with examples as the first axis, most activating first: activation,
# wrong, number (the place in the split), image.
Examples = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution with its norm, or a norm that stands alone.

  Attributes:
    norm: path of the norm.
    groups: number of blocks of channels, each slimmed inside.
    activated: whether an activation comes last; default: no.
  """

  norm: str
  groups: int
  activated: bool = False


def find_layers(model: SlimNet, image_size: Size) -> dict[str, Layer]:
  """Returns the layers that have a norm, by path, in the order of execution.

  They are found by tracing a forward pass; nothing is computed.

  Args:
    model: from `slimjax.create_model`, or a `SlimNet` of your own.
    image_size: pixels, or (height, width).
  """
  found: dict[str, Layer] = {}

  def record(call, args, kwargs, context):
    outputs = call(*args, **kwargs)
    module = context.module
    # Other methods are also called on networks that are not bound to a path.
    if context.method_name != '__call__':
      return outputs
    path = '/'.join(module.path)
    if isinstance(module, SwitchableBatchNorm):
      found[path.removesuffix('/norm')] = Layer(path, module.groups)
    elif isinstance(module, ConvNorm) and path in found:  # its norm was before
      activated = module.activation is not None
      found[path] = dataclasses.replace(found[path], activated=activated)
    return outputs

  inputs = [resized(x, pair(image_size)) for x in model.example()]
  initialise = functools.partial(model.init, width=model.full_channels)
  with nn.intercept_methods(record):
    jax.eval_shape(initialise, jax.random.key(0), *inputs)
  return found


def extract_all(model: SlimNet, variables: Variables) -> Networks:
  """Returns the stand-alone network of every width, thinnest first."""
  return {
    width: extract(model, variables, width=width)
    for width in model.ordered_widths
  }


def norm_values(
  networks: Networks, layers: Mapping[str, Layer]
) -> dict[str, dict[str, np.ndarray]]:
  """Returns {layer: {value: [widths, common channels]}}, of `NORM_VALUES`."""
  trees = [_norm_tree(*network) for network in networks.values()]
  values: dict[str, dict[str, np.ndarray]] = {}
  for name, layer in layers.items():
    values[name] = {}
    for value in NORM_VALUES:
      arrays = [tree[f'{layer.norm}/{value}'] for tree in trees]
      common = min(len(array) for array in arrays)
      values[name][value] = np.stack(
        [take_active(array, 0, common, layer.groups) for array in arrays]
      )
  return values


def _norm_tree(model, variables) -> dict[str, jax.Array]:
  """Returns {path: array} of an extracted model's norms and statistics."""
  selected = select(variables, model.switch(model.widths[0]))
  return {
    path: array
    for collection in private_collections(variables)
    for path, array in traverse_util.flatten_dict(
      selected[collection], sep='/'
    ).items()
  }


def divergence(values: np.ndarray) -> float:
  """Returns how far apart the switches of a norm are, relative to their values.

  sqrt(mean over channels i and pairs of switches s < t of (x_si - x_ti)^2)
  / sqrt(mean over channels i and switches s of x_si^2)

  It is 0 if all values are equal (also if all are 0, or for one switch), and
  about 1.41 for values as far apart as unrelated ones of mean 0. A common
  factor cancels.

  Args:
    values: x [switches, channels], as `norm_values` returns them.
  """
  values = np.asarray(values, np.float64)
  pairs = list(itertools.combinations(values, 2))
  apart = np.mean([(one - other) ** 2 for one, other in pairs] or [0.0])
  if apart == 0.0:  # also if all values are 0
    return 0.0
  return float(np.sqrt(apart / np.mean(values**2)))


def divergences(
  values: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, float]]:
  """Returns the `divergence` of everything in `norm_values`."""
  return {
    layer: {name: divergence(array) for name, array in of_layer.items()}
    for layer, of_layer in values.items()
  }


def channel_positions(
  networks: Networks, layer: Layer, channel: int
) -> dict[Width, int]:
  """Returns the place of one common channel in the layer's output, per width.

  It is the same at all widths, unless the layer is slimmed inside groups.

  Args:
    networks: networks that `extract_all` returns.
    layer: one of the layers of `find_layers`.
    channel: number of the channel among the common ones.

  Raises:
    ValueError: not all widths have the channel.
  """
  counts = {
    width: len(_norm_tree(*network)[f'{layer.norm}/scale'])
    for width, network in networks.items()
  }
  common = min(counts.values())
  if not 0 <= channel < common:
    raise ValueError(
      f'channel {channel}: the widths have {common} channels of'
      f' {layer.norm.removesuffix("/norm")} in common; the largest valid for'
      f' all of them is {common - 1}'
    )
  return {
    width: int(take_active(jnp.arange(n), 0, common, layer.groups)[channel])
    for width, n in counts.items()
  }


def most_activating(
  networks: Networks,
  dataset: Dataset,
  *,
  layer: str,
  positions: Mapping[Width, int],
  count: int,
  split: str = 'test',
  batch_size: int = 128,
) -> dict[Width, Examples]:
  """Returns the images of a split that activate a channel most, per width.

  The activation is the maximum over positions of the layer's output, after its
  activation function. Among equal ones the earlier image comes first (ReLU6
  ends at 6). The split is read once, and no more than `count` images are kept.
  Only examples with a `label` can be wrong; no image of another task is.

  Args:
    networks: networks that `extract_all` returns.
    dataset: data set of the split.
    layer: path of the layer.
    positions: place of the channel per width, as of `channel_positions`.
    count: number of images per width; fewer if the split has fewer.
    split: name of the split; default: test.
    batch_size: images computed at a time, on one device; default: 128.
  """
  probes = {
    width: _make_probe(model, layer, positions[width], dataset.preprocess)
    for width, (model, _) in networks.items()
  }
  best: dict[Width, Examples] = {}
  first = 0
  for batch in dataset.eval_batches(split, batch_size, share=Share()):
    mask, images = batch['mask'], batch['image']
    computed = {  # all widths start before one is waited for
      width: probe(networks[width][1], images)
      for width, probe in probes.items()
    }
    for width, (activations, classes) in computed.items():
      new = {
        'activation': np.asarray(activations)[mask],
        'wrong': _wrong(np.asarray(classes), batch.get('label'))[mask],
        'number': (first + np.arange(len(mask)))[mask],
        'image': images[mask],
      }
      parts = [best[width]] if width in best else []
      best[width] = _best([*parts, _best([new], count)], count)
    first += len(mask)
  return best


def _wrong(classes: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
  """Returns which images are misclassified; none if nothing is classified."""
  if labels is None or labels.shape != classes.shape:
    return np.zeros(len(classes), bool)
  return classes != labels


def _make_probe(model: SlimNet, layer: str, position: int, preprocess):
  """Returns (variables, uint8 images) -> activation, predicted class: [b]."""
  (width,) = model.widths
  switch = model.switch(width)

  def wanted(module, method):
    return method == '__call__' and '/'.join(module.path) == layer

  def probe(variables, images):
    logits, captured = model.apply(
      select(variables, switch),
      preprocess(images),
      width=width,
      capture_intermediates=wanted,
      mutable=['intermediates'],
    )
    (maps,) = jax.tree.leaves(captured)  # [b, h, w, c]
    channel = maps[..., position].astype(jnp.float32)
    activations = jnp.max(channel, axis=(1, 2))
    return activations, jnp.argmax(jax.tree.leaves(logits)[0], axis=-1)

  return jax.jit(probe)


def _best(parts: Sequence[Examples], count: int) -> Examples:
  """Returns the `count` most activating examples; the earlier of equal ones."""
  joined = {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
  order = np.argsort(-joined['activation'], kind='stable')[:count]
  return {name: array[order] for name, array in joined.items()}
