"""Multiply-accumulates and parameters of a network at each width."""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.extend import core

from slimjax.models import MODELS
from slimjax.models.net import backbone_of
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
    backbone: what of it is the backbone's, the part of a detector that a width
      slims; default: None, the network has no backbone.
  """

  macs: int
  params: int
  conv_fc_params: int
  bn_params: int
  backbone: 'Profile | None' = None

  @property
  def rest(self) -> 'Profile | None':
    """Returns what is not the backbone's: of a detector, pyramid and heads."""
    if self.backbone is None:
      return None
    return Profile(
      *(
        getattr(self, field.name) - getattr(self.backbone, field.name)
        for field in dataclasses.fields(self)
        if field.name != 'backbone'
      )
    )


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
  backbone = backbone_of(model)
  if backbone is None:
    return _count(model, width, image_size, '__call__')
  # Its images are the detector's.
  size = image_size or pair(model.example()[0].shape[1:3])
  return dataclasses.replace(
    _count(model, width, image_size, '__call__'),
    backbone=_count(backbone, width, size, 'features'),
  )


@functools.lru_cache(maxsize=64)  # detectors have backbones in common
def _count(
  model: SlimNet,
  width: Width,
  image_size: tuple[int, int] | None,
  method: str,
) -> Profile:
  jaxpr, shapes = trace(model, width, image_size, method)
  conv_fc, bn = (_size(shapes.get(name, {})) for name in TRAINED)
  return Profile(
    macs=count_macs(jaxpr),
    params=conv_fc + bn,
    conv_fc_params=conv_fc,
    bn_params=bn,
  )


def trace(
  model: SlimNet,
  width: Width,
  image_size: tuple[int, int] | None,
  method: str = '__call__',
) -> tuple[core.Jaxpr, dict[str, Any]]:
  """Returns a width's forward pass of one example, and its variables' shapes.

  Args:
    model: the network.
    width: width that it is built at; it may be wider than the parameters.
    image_size: (height, width); None is that of `model.example()`.
    method: name of the method of the forward pass; default: the whole.
  """
  inputs = model.example()
  if image_size is not None:
    inputs = tuple(resized(x, image_size) for x in inputs)
  # Initialising is drawing, which multiplies nothing, and the forward pass.
  small = narrow(model, width)
  initialise = functools.partial(small.init, width=width, method=method)
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
  """What a model of `MODELS` costs on ImageNet, or a detector on COCO.

  It has its family's default widths; a classifier has 1000 classes, a detector
  COCO's. The counts are worked out when they are first asked for, by shape
  evaluation: a second for each width, a few for each of a detector.

  Attributes:
    name: name that `slimjax.create_model` takes.
  """

  name: str

  @functools.cached_property
  def image_size(self) -> tuple[int, int]:
    """Returns (height, width) of the image: 224 x 224, or 800 x 1344."""
    return (224, 224) if backbone_of(self._model) is None else (800, 1344)

  @functools.cached_property
  def parameters(self) -> int:
    """Returns the number of trained parameters, all widths together."""
    return count_parameters(self._model)

  @functools.cached_property
  def macs(self) -> dict[Width, int]:
    """Returns the multiply-accumulates of an image, thinnest width first."""
    return {width: profile.macs for width, profile in self._profiles.items()}

  @functools.cached_property
  def backbone_macs(self) -> dict[Width, int]:
    """Returns those of a detector's backbone, likewise; else {}."""
    return {
      width: profile.backbone.macs
      for width, profile in self._profiles.items()
      if profile.backbone is not None
    }

  @functools.cached_property
  def _model(self) -> SlimNet:
    return MODELS[self.name]()

  @functools.cached_property
  def _profiles(self) -> dict[Width, Profile]:
    return {
      width: profile_model(self._model, width=width, image_size=self.image_size)
      for width in self._model.ordered_widths
    }


def list_models() -> list[ModelCost]:
  """Returns the models by name; each tells its parameters and MACs."""
  return [ModelCost(name) for name in MODELS]
