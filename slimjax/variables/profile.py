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
  jaxpr, shapes = trace(model, width, image_size)
  conv_fc, bn = (_size(shapes.get(name, {})) for name in TRAINED)
  return Profile(
    macs=count_macs(jaxpr),
    params=conv_fc + bn,
    conv_fc_params=conv_fc,
    bn_params=bn,
  )


def trace(
  model: SlimNet, width: Width, image_size: tuple[int, int] | None
) -> tuple[core.Jaxpr, dict[str, Any]]:
  """Returns a width's forward pass of one example, and its variables' shapes.

  Args:
    model: the network.
    width: width that it is built at; it may be wider than the parameters.
    image_size: (height, width); None is that of `model.example()`.
  """
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, image_size) for x in inputs)
  # Initialising is drawing, which multiplies nothing, and the forward pass.
  initialise = functools.partial(narrow(model, width).init, width=width)
  traced = jax.make_jaxpr(initialise, return_shape=True)
  jaxpr, shapes = traced(key_shape(), *inputs)
  return jaxpr.jaxpr, shapes


def _size(tree: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_macs(jaxpr: core.Jaxpr) -> int:
  """Returns the multiply-accumulates of a traced program's products."""
  return sum(product.macs for product in products(jaxpr))


@dataclasses.dataclass(frozen=True)
class Product:
  """A convolution or matrix product of a traced program.

  Attributes:
    dims: numbers whose product, over `divisor`, is its multiply-accumulates:
      the axes of the output, then those that are summed over.
    left, right: shapes of its operands, such as a map and a kernel.
    equation: equation of the program.
    divisor: see `dims`; default: 1.
    times: number of times that it runs; default: 1.
  """

  dims: tuple[int, ...]
  left: tuple[int, ...]
  right: tuple[int, ...]
  equation: core.JaxprEqn
  divisor: int = 1
  times: int = 1

  @property
  def macs(self) -> int:
    """Returns the multiply-accumulates."""
    return self.times * (math.prod(self.dims) // self.divisor)


def products(jaxpr: core.Jaxpr) -> list[Product]:
  """Returns the convolutions and matrix products of a traced program.

  Where platforms have formulations of their own, the definition counts. Loops
  count each turn, other branches the dearest.
  """
  found: list[Product] = []
  equations: list[Any] = list(jaxpr.eqns)
  for equation in equations:
    name, params = equation.primitive.name, equation.params
    if name == 'conv_general_dilated':
      found.append(_convolution(equation))
    elif name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      left, right = (operand.aval.shape for operand in equation.invars)
      summed = tuple(left[axis] for axis in contracted)
      dims = equation.outvars[0].aval.shape + summed
      found.append(Product(dims, left, right, equation))
    elif name == 'cond':
      branches = [products(branch.jaxpr) for branch in params['branches']]
      platforms = params.get('branches_platforms')
      if platforms is None:
        found += max(branches, key=lambda b: sum(p.macs for p in b))
      else:
        found += branches[platforms.index(None)]
    elif name == 'scan':
      found += [
        dataclasses.replace(product, times=params['length'] * product.times)
        for product in products(params['jaxpr'].jaxpr)
      ]
    else:
      inner = params.get('jaxpr', params.get('call_jaxpr'))
      if inner is not None:
        found += products(getattr(inner, 'jaxpr', inner))
  return found


def _convolution(equation) -> Product:
  maps, kernel = (operand.aval.shape for operand in equation.invars)
  numbers = equation.params['dimension_numbers']
  # One output channel's share of the kernel: window x input channels.
  window = tuple(kernel[axis] for axis in numbers.rhs_spec[1:])
  # Zeros between the pixels of a transposed convolution are not multiplied.
  spread = math.prod(equation.params['lhs_dilation'])
  dims = equation.outvars[0].aval.shape + window
  return Product(dims, maps, kernel, equation, spread)


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
