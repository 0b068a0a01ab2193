"""Checks that both sides train the same network, from the same weights."""

import numpy as np
import sides
from speed.side_by_side import cores
from speed.task import make_batch
from speed.task import NUM_CLASSES
from speed.task import WEIGHT_DECAY

# Conv + classifier and BN of the widest switch: Yu et al. 2019, table 2.
PARAMS = {
  'mobilenet_v1': (4_210_088, 21_888),
  'resnet50': (25_503_912, 53_120),
}
STEPS = 2
LR = 0.1
# Both sides run in float64, where a step amplifies no rounding worth mention.
# Largest relative difference of a loss, and of a tensor's move (L2).
LOSS_TOLERANCE = 1e-6
MOVE_TOLERANCE = 1e-5


def run(name: str) -> str:
  """Trains both sides for a few steps and returns what was found.

  Raises:
    AssertionError: the two sides differ.
  """
  import jax
  from speed import torch_networks
  from speed.jax_training import JaxTrainer
  import torch

  jax.config.update('jax_enable_x64', True)
  cell = sides.Cell(name, image_size=64, batch_size=8)
  torch.set_num_threads(cores())
  torch.manual_seed(0)
  net = torch_networks.create_net(name, cell.widths, NUM_CLASSES).double()
  counts = torch_networks.count_params(net)
  if counts != PARAMS[name]:
    raise AssertionError(f'{counts} parameters, expected {PARAMS[name]}')

  start = _arrays(net)
  theirs = torch_networks.Trainer(net, lr=LR, weight_decay=WEIGHT_DECAY)
  images, labels = sides.torch_batch(cell)
  batch = make_batch(cell.batch_size, cell.image_size)
  batch['image'] = batch['image'].astype(np.float64)
  ours = JaxTrainer(
    cell.name, cell.widths, batch, lr=LR, checkpoint=start, dtype='float64'
  )
  expected, got = [], []
  for _ in range(STEPS):
    expected.append(
      [loss.item() for loss in theirs.step(images.double(), labels)]
    )
    metrics = ours.step()['widths']
    switches = map(ours.model.switch, reversed(cell.widths))
    sums = [metrics[switch]['loss'] for switch in switches]
    got.append([float(total) / float(count) for total, count in sums])
  expected, got = np.array(expected), np.array(got)
  loss = float(np.max(np.abs(got / expected - 1)))
  if not loss < LOSS_TOLERANCE:
    raise AssertionError(f'losses {got}, expected {expected}')

  from slimjax import save_torch

  after, moved = save_torch(ours.model, ours.state.variables), {}
  for key, value in _arrays(net).items():
    distance = np.linalg.norm(value - start[key])
    error = np.linalg.norm(after[key] - value)
    moved[key] = float(error / max(distance, 1e-12))
  worst = max(moved, key=moved.get)
  if not moved[worst] < MOVE_TOLERANCE:
    raise AssertionError(f'{worst} has moved otherwise: {moved[worst]:.2g}')
  return (
    f'{counts[0]:,} + {counts[1]:,} parameters; after {STEPS} steps losses'
    f' differ by {loss:.1e} at most, what a tensor moved by {moved[worst]:.1e}'
    f' ({worst}; median {np.median(list(moved.values())):.1e})'
  )


def _arrays(net) -> dict[str, np.ndarray]:
  return {k: v.numpy(force=True).copy() for k, v in net.state_dict().items()}
