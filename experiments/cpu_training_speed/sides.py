"""What is timed: the same parts of a training step in PyTorch and in slimjax.

The parts of both sides have the same names: `forward` is the widest switch in
training mode with no gradient, `gradient WIDTH` is forward and backward of one
switch, `update` the optimizer alone, `step` all switches and the update. Each
library is imported where it is used, so that a worker process holds one.
"""

import dataclasses
import os

import numpy as np
from side_by_side import Part
from side_by_side import Parts

NUM_CLASSES = 1000
WEIGHT_DECAY = 1e-4
# (channels, stride) of S-MobileNet v1's depthwise layers at the widest.
DEPTHWISE = (
  (32, 1),
  (64, 2),
  (128, 1),
  (128, 2),
  (256, 1),
  (256, 2),
  *[(512, 1)] * 5,
  (512, 2),
  (1024, 1),
)
# Of the timed steps. Small, for the batch is always the same.
LR = 0.001


@dataclasses.dataclass(frozen=True)
class Cell:
  """One line of the table."""

  name: str
  image_size: int
  batch_size: int
  widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)


def cores() -> int:
  """The cores this process may run on."""
  return len(os.sched_getaffinity(0))


def batch(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
  """Returns images [b, h, w, 3] and labels [b]."""
  generator = np.random.default_rng(0)
  shape = (cell.batch_size, cell.image_size, cell.image_size, 3)
  images = generator.standard_normal(shape, np.float32)
  return images, generator.integers(NUM_CLASSES, size=cell.batch_size)


def torch_batch(cell: Cell):
  """`batch` as tensors; the images are [b, 3, h, w] in channels-last order."""
  import torch

  images, labels = batch(cell)
  return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def torch_parts(cell: Cell) -> Parts:
  """The PyTorch side."""
  import torch
  import torch_nets

  torch.set_num_threads(cores())
  torch.manual_seed(0)
  net = torch_nets.create_net(cell.name, cell.widths, NUM_CLASSES)
  trainer = torch_nets.Trainer(net, lr=LR, weight_decay=WEIGHT_DECAY)
  images, labels = torch_batch(cell)
  widest = len(cell.widths) - 1

  def gradient(switch):
    if switch == widest:  # As in a step, narrower ones add to its gradient.
      trainer.clear()
    trainer.accumulate(images, labels, switch)

  trainer.step(images, labels)  # Now all gradients exist.
  parts = {
    'step': Part(lambda: trainer.step(images, labels)),
    'forward': Part(lambda: trainer.forward(images)),
  }
  for switch in reversed(range(len(cell.widths))):
    name = f'gradient {cell.widths[switch]}'
    parts[name] = Part(lambda switch=switch: gradient(switch))
  parts['update'] = Part(trainer.optimizer.step)
  return parts


class JaxTrainer:
  """slimjax's step with its state and batch, as its users run it."""

  def __init__(
    self, cell: Cell, lr: float = LR, checkpoint=None, dtype: str = 'float32'
  ):
    """Compiles. `checkpoint` is a dict of arrays for `load_torch`."""
    import jax
    import optax

    import slimjax
    from slimjax.variables.format import torch_names as convert
    from slimjax.training import optim
    from slimjax.training import steps
    from slimjax.training import state as train_state

    self.model = slimjax.create_model(
      cell.name,
      num_classes=NUM_CLASSES,
      widths=cell.widths,
      dtype=jax.numpy.dtype(dtype),
    )
    if checkpoint is None:
      variables = slimjax.init(
        self.model, jax.random.key(0), image_size=cell.image_size
      )
    else:
      variables = convert.load_torch(self.model, checkpoint)
    mesh = steps.data_mesh(jax.devices()[:1])
    schedule = optax.constant_schedule(lr)
    optimizer = optim.sgd(schedule, weight_decay=WEIGHT_DECAY)
    state = train_state.TrainState.create(variables, optimizer)
    self.state = steps.replicate(state, mesh)
    images, labels = batch(cell)
    self.batch = steps.shard(
      {'image': images.astype(dtype), 'label': labels.astype(np.int32)}, mesh
    )
    step = steps.make_train_step(self.model, optimizer, schedule, mesh)
    self.programs = step.compile(self.state, self.batch)

  def step(self):
    """Trains all widths; returns the metrics."""
    import jax

    self.state, metrics = self.programs(self.state, self.batch)
    jax.block_until_ready(self.state)
    return metrics


def jax_parts(cell: Cell) -> Parts:
  """The slimjax side."""
  import jax

  from slimjax.variables import select

  trainer = JaxTrainer(cell)
  model, programs, data = trainer.model, trainer.programs, trainer.batch
  carry, private = {}, {}

  def forward(variables, images):
    return model.apply(
      variables,
      images,
      width=cell.widths[-1],
      train=True,
      mutable=['batch_stats'],
    )

  forward = jax.jit(forward)
  widest = model.switch(cell.widths[-1])

  def run_forward():
    variables = select(trainer.state.variables, widest)
    return jax.block_until_ready(forward(variables, data['image']))

  def gradient(switch):
    if switch == widest:  # As in a step, narrower ones add to its gradient.
      carry.clear()
    seen = select(trainer.state.variables, switch)
    new, private[switch] = programs.gradient[switch](
      seen['params'], seen['norm'], seen['batch_stats'], data, dict(carry)
    )
    carry.update(new)
    jax.block_until_ready((carry, private[switch]))

  def copies():  # The update takes its arguments' memory.
    given = carry['gradient'], private
    return jax.block_until_ready(jax.tree.map(jax.numpy.copy, given))

  def update(gradient, private):
    trainer.state, _ = programs.update(trainer.state, gradient, private)
    jax.block_until_ready(trainer.state)

  for switch in programs.gradient:  # Now all gradients exist.
    gradient(switch)
  parts = {'step': Part(trainer.step), 'forward': Part(run_forward)}
  for width in reversed(cell.widths):
    switch = model.switch(width)
    parts[f'gradient {width}'] = Part(lambda switch=switch: gradient(switch))
  parts['update'] = Part(update, copies)
  return parts


def depthwise_shapes(cell: Cell) -> dict[str, tuple[int, int, int, int]]:
  """Depthwise layers of S-MobileNet v1 at its widest.

  Returns:
    {name of the part: (channels, input size, stride, layers of this shape)}
  """
  shapes = {}
  size = -(-cell.image_size // 2)
  for channels, stride in DEPTHWISE:
    name = f'{channels} x {size} x {size} / {stride}'
    *_, count = shapes.get(name, (0,))
    shapes[name] = (channels, size, stride, count + 1)
    size = -(-size // stride)
  return shapes


def depthwise_arrays(cell, channels, size, stride):
  """Returns x [b, h, w, c], kernel [3, 3, 1, c] and the output's cotangent."""
  generator = np.random.default_rng(0)
  out = -(-size // stride)

  def draw(*shape):
    return generator.standard_normal(shape, np.float32)

  return (
    draw(cell.batch_size, size, size, channels),
    draw(3, 3, 1, channels),
    draw(cell.batch_size, out, out, channels),
  )


def torch_depthwise_parts(cell: Cell) -> Parts:
  """Forward and backward of depthwise convolutions in PyTorch."""
  import torch
  from torch.nn import functional

  torch.set_num_threads(cores())
  parts = {}
  for name, (channels, size, stride, _) in depthwise_shapes(cell).items():
    x, kernel, cotangent = map(
      torch.from_numpy, depthwise_arrays(cell, channels, size, stride)
    )
    x = x.permute(0, 3, 1, 2).requires_grad_()
    kernel = kernel.permute(3, 2, 0, 1).contiguous().requires_grad_()
    cotangent = cotangent.permute(0, 3, 1, 2)

    def run(x=x, kernel=kernel, cotangent=cotangent, stride=stride):
      y = functional.conv2d(x, kernel, None, stride, 1, 1, x.shape[1])
      return torch.autograd.grad(y, (x, kernel), cotangent)

    parts[name] = Part(run)
  return parts


def jax_depthwise_parts(cell: Cell, native: bool) -> Parts:
  """The same in JAX, by slimjax's formulation or XLA's own."""
  import jax

  from slimjax.nn.kernels.depthwise import depthwise_conv

  parts = {}
  for name, (channels, size, stride, _) in depthwise_shapes(cell).items():
    strides, padding = (stride, stride), ((1, 1), (1, 1))

    def conv(x, kernel, strides=strides, padding=padding):
      if not native:
        return depthwise_conv(x, kernel, strides=strides, padding=padding)
      return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1],
      )

    @jax.jit
    def both(x, kernel, cotangent, conv=conv):
      y, pullback = jax.vjp(conv, x, kernel)
      return y, pullback(cotangent)

    arrays = jax.device_put(depthwise_arrays(cell, channels, size, stride))

    def run(both=both, arrays=arrays):
      return jax.block_until_ready(both(*arrays))

    parts[name] = Part(run)
  return parts
