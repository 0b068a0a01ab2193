"""What is timed: the same parts of a training step in PyTorch and in slimjax.

The parts of both sides have the same names: `forward` is the widest switch in
training mode with no gradient, `gradient WIDTH` is forward and backward of one
switch, `update` the optimizer alone, `step` all switches and the update. Each
library is imported where it is used, so that a worker process holds one.
"""

import dataclasses

from speed.side_by_side import cores
from speed.side_by_side import Part
from speed.side_by_side import Parts
from speed.task import make_batch
from speed.task import NUM_CLASSES
from speed.task import WEIGHT_DECAY

# Of the timed steps. Small, for the batch is always the same.
LR = 0.001


@dataclasses.dataclass(frozen=True)
class Cell:
  """One line of the table."""

  name: str
  image_size: int
  batch_size: int
  widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)


def torch_batch(cell: Cell):
  """`batch` as tensors; the images are [b, 3, h, w] in channels-last order."""
  import torch

  given = make_batch(cell.batch_size, cell.image_size)
  images = torch.from_numpy(given['image']).permute(0, 3, 1, 2)
  return images, torch.from_numpy(given['label']).long()


def torch_parts(cell: Cell) -> Parts:
  """The PyTorch side."""
  from speed import torch_networks
  import torch

  torch.set_num_threads(cores())
  torch.manual_seed(0)
  net = torch_networks.create_net(cell.name, cell.widths, NUM_CLASSES)
  trainer = torch_networks.Trainer(net, lr=LR, weight_decay=WEIGHT_DECAY)
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


def jax_parts(cell: Cell) -> Parts:
  """The slimjax side."""
  import jax
  from speed.jax_training import JaxTrainer

  from slimjax.variables import select

  trainer = JaxTrainer(
    cell.name, cell.widths, make_batch(cell.batch_size, cell.image_size), lr=LR
  )
  model, programs, data = trainer.model, trainer.programs, trainer.batch
  data, key = programs.prepare(data, programs.key, trainer.state.step)
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
      seen, data, key, dict(carry)
    )
    carry.update(new)
    jax.block_until_ready((carry, private[switch]))

  def copies():  # The update takes its arguments' memory.
    given = carry['shared'], private
    return jax.block_until_ready(jax.tree.map(jax.numpy.copy, given))

  def update(shared, private):
    trainer.state, _ = programs.update(trainer.state, shared, private)
    jax.block_until_ready(trainer.state)

  for switch in programs.gradient:  # Now all gradients exist.
    gradient(switch)
  parts = {'step': Part(trainer.step), 'forward': Part(run_forward)}
  for width in reversed(cell.widths):
    switch = model.switch(width)
    parts[f'gradient {width}'] = Part(lambda switch=switch: gradient(switch))
  parts['update'] = Part(update, copies)
  return parts
