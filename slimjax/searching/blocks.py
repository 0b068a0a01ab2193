"""The blocks of a network, as programs of their own, to be timed.

A block is a convolution with its bias and activation, together with a depthwise
one before it; or the classifier. Blocks of equal geometry differ in channels
alone. What they are, the products of a probe network tell.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax.models.net import SlimNet
from slimjax.nn.kernels.convolution import convolve
from slimjax.nn.kernels.depthwise import depthwise_conv
from slimjax.searching.costs import Axis
from slimjax.searching.costs import Layered
from slimjax.searching.costs import layered_products
from slimjax.variables.format import resized
from slimjax.variables.masking import units
from slimjax.variables.slicing import key_shape

MULTIPLE = 8  # of channels that are timed: those that devices like


@dataclasses.dataclass(frozen=True)
class Step:
  """A convolution of a block, without its channels; or a matrix product.

  Attributes:
    kernel: height and width of the kernel; empty for a matrix product.
    size: height and width of the input map, likewise.
    strides: strides of rows and columns.
    padding: (low, high) of rows and columns.
    depthwise: whether each channel is its own group.
  """

  kernel: tuple[int, ...] = ()
  size: tuple[int, ...] = ()
  strides: tuple[int, ...] = ()
  padding: tuple[tuple[int, int], ...] = ()
  depthwise: bool = False


Geometry = tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of a network.

  Attributes:
    geometry: its steps.
    inputs: what comes in: the number of a layer, or None and channels.
    outputs: what goes out, likewise.
  """

  geometry: Geometry
  inputs: Axis
  outputs: Axis


def blocks_of(model: SlimNet, image_size: tuple[int, int]) -> list[Block]:
  """Returns the blocks of a network, in order.

  Raises:
    ValueError: it has other products than convolutions and dense layers.
  """
  found: list[Block] = []
  waiting: Block | None = None  # a depthwise convolution
  for layered in layered_products(model, image_size):
    block = _block(model, layered)
    if waiting is not None and waiting.outputs == block.inputs:
      block = dataclasses.replace(
        block, geometry=waiting.geometry + block.geometry
      )
      waiting = None
    elif waiting is not None:
      found.append(waiting)
      waiting = None
    if block.geometry[-1].depthwise:
      waiting = block
    else:
      found.append(block)
  return [*found, *([waiting] if waiting is not None else [])]


def _block(model: SlimNet, layered: Layered) -> Block:
  equation = layered.product.equation
  params, inputs = equation.params, layered.product.left
  if equation.primitive.name == 'dot_general' and len(inputs) == 2:
    return Block((Step(),), layered.inputs[-1], layered.axes[1])
  if equation.primitive.name == 'conv_general_dilated' and len(inputs) == 4:
    kernel = layered.product.right
    groups = params['feature_group_count']
    depthwise = groups == inputs[-1] and groups > 1
    numbers = params['dimension_numbers']
    ours = numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1)
    plain = {*params['lhs_dilation'], *params['rhs_dilation']} == {1}
    if ours and plain and (depthwise or groups == 1):
      step = Step(
        kernel[:2],
        inputs[1:3],
        tuple(params['window_strides']),
        tuple(map(tuple, params['padding'])),
        depthwise,
      )
      return Block((step,), layered.inputs[-1], layered.axes[3])
  raise ValueError(
    f'{type(model).__name__} has a product that is neither a plain convolution'
    f' nor a dense layer ({equation.primitive.name} of {list(inputs)}); its'
    ' latency cannot be told from blocks: give a target of MACs'
  )


def block_call(
  geometry: Geometry, channels: tuple[int, int], batch_size: int
) -> Callable[[], Any]:
  """Returns a compiled call of a block, with inputs and weights of its own.

  Args:
    geometry: steps of the block.
    channels: input and output channels.
    batch_size: images in a call.
  """
  first, last = channels
  random = np.random.default_rng(0)
  draw = lambda *shape: random.standard_normal(shape, dtype=np.float32)
  weights = []
  for step in geometry:
    out = first if step.depthwise else last
    if step.kernel:
      shape = (*step.kernel, 1 if step.depthwise else first, out)
    else:
      shape = (first, out)
    weights.append((draw(*shape), draw(out)))
  inputs = draw(batch_size, *geometry[0].size, first)
  arguments = jax.device_put((inputs, weights))
  run = jax.jit(functools.partial(_run, geometry)).lower(*arguments).compile()
  return functools.partial(run, *arguments)


def _run(geometry: Geometry, x: Any, weights: Any) -> Any:
  for step, (kernel, bias) in zip(geometry, weights, strict=True):
    if not step.kernel:
      return x @ kernel + bias[None]
    convolution = depthwise_conv if step.depthwise else convolve
    x = convolution(x, kernel, strides=step.strides, padding=step.padding)
    x = jnp.clip(x + bias[None, None, None], 0.0, 6.0)
  return x


def empty_call() -> Callable[[], Any]:
  """Returns a compiled call that does next to nothing: what a launch takes."""
  x = jax.device_put(np.float32(0))
  run = jax.jit(lambda x: x + 1).lower(x).compile()
  return functools.partial(run, x)


def network_call(
  model: SlimNet,
  channels: Sequence[int],
  image_size: tuple[int, int],
  batch_size: int,
) -> Callable[[], Any]:
  """Returns a compiled call of a whole network, extracted and folded.

  Its weights are drawn: they do not matter to its latency.

  Args:
    model: network of any widths.
    channels: channels of every layer.
    image_size: (height, width).
    batch_size: images in a call.
  """
  width = tuple(int(c) for c in channels)
  small = model.clone(
    widths=(width,), shared=(), folded=True, axis_name=None, remat=False
  )
  (example,) = small.example()
  like = resized(example, image_size)
  shapes = jax.eval_shape(
    functools.partial(small.init, width=width), key_shape(), like
  )
  random = np.random.default_rng(0)

  def drawn(leaf):
    # As large as a trained one's: tiny numbers are slow on some processors.
    fan_in = max(1, int(np.prod(leaf.shape[:-1])))
    values = random.standard_normal(leaf.shape, dtype=np.float32)
    return (values / np.sqrt(fan_in)).astype(leaf.dtype)

  flat = traverse_util.flatten_dict(shapes)
  weights = traverse_util.unflatten_dict(
    {path: drawn(getattr(leaf, 'value', leaf)) for path, leaf in flat.items()}
  )
  images = drawn(
    jax.ShapeDtypeStruct((batch_size, *like.shape[1:]), like.dtype)
  )
  arguments = jax.device_put((weights, images))
  run = jax.jit(functools.partial(small.apply, width=width))
  return functools.partial(run.lower(*arguments).compile(), *arguments)


def random_nets(model: SlimNet, count: int) -> np.ndarray:
  """Returns the widest, the thinnest and random channels, [count, layers]."""
  full, thin = model.full_channels, model.channels(model.ordered_widths[0])
  random = np.random.default_rng(0)
  nets = [full, thin]
  while len(nets) < count:
    channels = [*full]
    for places in units(model):
      least, most = thin[places[0]], full[places[0]]
      drawn = int(random.integers(least, most + 1))
      rounded = min(most, -(-drawn // MULTIPLE) * MULTIPLE)
      for place in places:
        channels[place] = rounded
    nets.append(tuple(channels))
  return np.array(nets[: max(count, 2)])
