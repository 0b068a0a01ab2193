"""Multiply-accumulates and parameters of a network at each width."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.extend import core

from slimjax.models import MODELS
from slimjax.models.net import check_static
from slimjax.models.net import pair
from slimjax.models.net import Size
from slimjax.models.net import SlimNet
from slimjax.variables.format import resized
from slimjax.variables.format import TRAINED
from slimjax.variables.format import variable_shapes
from slimjax.variables.slicing import key_shape
from slimjax.variables.slicing import narrow
from slimjax.widths import canonical
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Profile:
  """The cost of one width.

  Attributes:
    macs: multiply-accumulates of convolutions and matrix products for one
      example: layers, per position or token, and products of activations such
      as those of attention.
    params: parameters this width uses, `conv_fc_params + bn_params`.
    conv_fc_params: those of the collection `params`: convolutions, fully
      connected layers and the like.
    bn_params: scales and biases of norms.
  """

  macs: int
  params: int
  conv_fc_params: int
  bn_params: int


def profile_model(
  model: SlimNet, *, width: Width, image_size: Size | None = None
) -> Profile:
  """Counts by shape evaluation; nothing is computed or allocated.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    width: any width that fits into its parameters.
    image_size: pixels, or (height, width); default: that of
      `model.example()`.
  """
  check_static(model)
  width = canonical(width)
  model.channels(width)
  size = None if image_size is None else pair(image_size)
  return _profile(model, width, size)


@functools.lru_cache(maxsize=256)  # it is asked for again and again
def _profile(model, width, image_size):
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, image_size) for x in inputs)
  # Initialising is drawing, which multiplies nothing, and the forward pass.
  initialise = functools.partial(narrow(model, width).init, width=width)
  traced = jax.make_jaxpr(initialise, return_shape=True)
  jaxpr, shapes = traced(key_shape(), *inputs)
  conv_fc, bn = (_size(shapes.get(name, {})) for name in TRAINED)
  return Profile(
    macs=count_macs(jaxpr.jaxpr),
    params=conv_fc + bn,
    conv_fc_params=conv_fc,
    bn_params=bn,
  )


def _size(tree: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_macs(jaxpr: core.Jaxpr) -> int:
  """Returns the multiply-accumulates of a traced program's products.

  Where platforms have formulations of their own, the definition counts. Loops
  count each turn, other branches the dearest.
  """
  total = 0
  equations: list[Any] = list(jaxpr.eqns)
  for equation in equations:
    name, params = equation.primitive.name, equation.params
    if name == 'conv_general_dilated':
      total += _conv_macs(equation)
    elif name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      left = equation.invars[0].aval.shape
      total += math.prod(equation.outvars[0].aval.shape) * math.prod(
        left[axis] for axis in contracted
      )
    elif name == 'cond':
      counts = [count_macs(branch.jaxpr) for branch in params['branches']]
      platforms = params.get('branches_platforms')
      if platforms is None:
        total += max(counts)
      else:
        total += counts[platforms.index(None)]
    elif name == 'scan':
      total += params['length'] * count_macs(params['jaxpr'].jaxpr)
    else:
      inner = params.get('jaxpr', params.get('call_jaxpr'))
      if inner is not None:
        total += count_macs(getattr(inner, 'jaxpr', inner))
  return total


def _conv_macs(equation) -> int:
  kernel = equation.invars[1].aval.shape
  numbers = equation.params['dimension_numbers']
  outputs = math.prod(equation.outvars[0].aval.shape)
  # One output channel's share of the kernel: window x input channels.
  window = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  # Zeros between the pixels of a transposed convolution are not multiplied.
  return outputs * window // math.prod(equation.params['lhs_dilation'])


@functools.lru_cache(maxsize=64)
def count_parameters(model: SlimNet) -> int:
  """Returns the trained parameters: the shared, and each switch's norms."""
  shapes = variable_shapes(model)
  return sum(_size(shapes.get(name, {})) for name in TRAINED)


@dataclasses.dataclass(frozen=True)
class ModelCost:
  """What a model of `MODELS` costs on ImageNet.

  Attributes:
    name: name that `slimjax.create_model` takes.
    parameters: trained parameters, all widths together.
    macs: {width: multiply-accumulates of an image}, thinnest first.
  """

  name: str
  parameters: int
  macs: Mapping[Width, int]


def list_models() -> list[ModelCost]:
  """Returns the models by name, with parameters, and MACs at their widths.

  For 1000 classes, images of 224 x 224 and each family's default widths; by
  shape evaluation, which takes some seconds.
  """
  costs = []
  for name, make in MODELS.items():
    model = make(num_classes=1000)
    costs.append(
      ModelCost(
        name,
        count_parameters(model),
        {
          width: profile_model(model, width=width, image_size=224).macs
          for width in model.ordered_widths
        },
      )
    )
  return costs
