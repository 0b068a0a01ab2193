"""What does training four widths cost, beside training them apart?

    python experiments/training_throughput/measure.py [--json=result.json]

Times, in turns: the slimmable step of four widths; the step of each width
alone; and a plain Flax network of the widest. Prints them beside the
multiply-accumulates and the bytes that the compiled programs move. See
README.md.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import plain_flax
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from speed.jax_training import JaxTrainer
from speed.jax_training import temporary_bytes
from speed.task import make_batch

import slimjax
from slimjax import files
from slimjax.runtime.measuring import describe_device
from slimjax.training.devices import peak_tflops

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def bytes_moved(programs):
  """Returns the bytes in the compiler's analysis, or None if it has none."""
  moved = [(p.cost_analysis() or {}).get('bytes accessed') for p in programs]
  return None if None in moved else int(sum(moved))


def slimmable(name, widths, batch, dtype):
  """Returns a function that trains one step, its programs, and the MACs."""
  trainer = JaxTrainer(name, widths, batch, dtype=dtype)
  size = batch['image'].shape[1]
  macs = sum(
    slimjax.profile_model(trainer.model, width=w, image_size=size).macs
    for w in widths
  )
  return trainer.step, trainer.parts, macs


def in_pytorch(name, batch, dtype):
  """Returns a function that trains the widest in PyTorch, compiled."""
  from speed import torch_networks
  import torch

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  net = torch_networks.create_net(name, WIDTHS[-1:]).to(device)
  trainer = torch_networks.Trainer(net)
  trainer.net = torch.compile(net)
  images = torch.from_numpy(batch['image']).permute(0, 3, 1, 2).to(device)
  labels = torch.from_numpy(batch['label']).long().to(device)
  half = dtype == 'bfloat16'

  def run():
    with torch.autocast(device, torch.bfloat16, enabled=half):
      losses = trainer.step(images, labels)
    return [loss.item() for loss in losses]  # waits for the device

  return run


def plain(name, batch, dtype):
  batch = jax.device_put(batch)
  step, state = plain_flax.make_step(name, batch, dtype)
  holder = [state]

  def run():
    holder[0], loss = step(holder[0], batch)
    jax.block_until_ready((holder[0], loss))

  return run, [step]


def in_turns(sides, rounds, seconds):
  """Returns seconds of a step of each side, by round."""
  counts = {}
  for name, run in sides.items():
    run()
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    counts[name] = max(1, int(seconds / once))
  times = {name: [] for name in sides}
  for number in range(rounds):
    order = list(sides)
    for name in order if number % 2 else order[::-1]:
      start = time.perf_counter()
      for _ in range(counts[name]):
        sides[name]()
      times[name].append((time.perf_counter() - start) / counts[name])
  return times


def median_ratio(numerators, denominators):
  return statistics.median(
    a / b for a, b in zip(numerators, denominators, strict=True)
  )


def measure(name, arguments):
  batch = make_batch(arguments.batch_size, arguments.image_size)
  sides, programs, macs = {}, {}, {}
  for key, widths in [('four', WIDTHS), *((str(w), (w,)) for w in WIDTHS)]:
    sides[key], programs[key], macs[key] = slimmable(
      name, widths, batch, arguments.dtype
    )
  widest = str(WIDTHS[-1])
  sides['flax'], programs['flax'] = plain(name, batch, arguments.dtype)
  macs['flax'] = macs[widest]
  if arguments.torch:
    sides['torch'] = in_pytorch(name, batch, arguments.dtype)
    macs['torch'] = macs[widest]
  times = in_turns(sides, arguments.rounds, arguments.seconds)
  apart = [
    sum(times[str(w)][i] for w in WIDTHS) for i in range(arguments.rounds)
  ]
  rows = {
    key: {
      'step_ms': 1000 * statistics.median(times[key]),
      'images_per_second': arguments.batch_size / statistics.median(times[key]),
      'gigamacs_forward': macs[key] * arguments.batch_size / 1e9,
      'gigabytes_moved': moved / 1e9
      if key in programs and (moved := bytes_moved(programs[key])) is not None
      else None,
      'temporary_megabytes': temporary_bytes(programs[key]) / 1e6
      if key in programs
      else None,
      'tflops': 6e-12
      * macs[key]
      * arguments.batch_size
      / statistics.median(times[key]),
    }
    for key in sides
  }
  return {
    'rows': rows,
    'four_to_sum_of_alone': median_ratio(times['four'], apart),
    'four_to_flax_widest': median_ratio(times['four'], times['flax']),
    'widest_to_flax_widest': median_ratio(times[widest], times['flax']),
    **(
      {'widest_to_torch_widest': median_ratio(times[widest], times['torch'])}
      if arguments.torch
      else {}
    ),
    'macs_four_to_widest': macs['four'] / macs[widest],
  }


NAMES = {
  'four': 'slimjax, four widths',
  'flax': 'plain Flax, widest',
  'torch': 'PyTorch (compiled), widest',
  **{str(w): f'slimjax, {w} alone' for w in WIDTHS},
}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--models', default='mobilenet_v1,resnet50')
  parser.add_argument('--image_size', type=int, default=64)
  parser.add_argument('--batch_size', type=int, default=16)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--torch', action='store_true', help='beside PyTorch')
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--seconds', type=float, default=1.0)
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  device = jax.devices()[0]
  peak = peak_tflops(device)
  results = {
    'device': describe_device('jax'),
    'batch_size': arguments.batch_size,
    'image_size': arguments.image_size,
    'dtype': arguments.dtype,
    'models': {},
  }
  for name in arguments.models.split(','):
    result = measure(name, arguments)
    results['models'][name] = result
    table = Table(
      'training step',
      'ms',
      'images/s',
      'GMACs',
      'GB moved',
      'temporary MB',
      'TFLOP/s' + ('' if peak is None else f' (of {peak:.0f})'),
      title=f'{name}, {arguments.batch_size} at {arguments.image_size} px,'
      f' {arguments.dtype}',
    )
    for key, row in result['rows'].items():
      moved, memory = row['gigabytes_moved'], row['temporary_megabytes']
      table.add_row(
        NAMES[key],
        f'{row["step_ms"]:.1f}',
        f'{row["images_per_second"]:.1f}',
        f'{row["gigamacs_forward"]:.2f}',
        '' if moved is None else f'{moved:.2f}',
        '' if memory is None else f'{memory:.0f}',
        f'{row["tflops"]:.3g}',
      )
    console = Console(width=100)
    console.print(table)
    console.print(
      f'four widths in one step / the sum of four steps:'
      f' {result["four_to_sum_of_alone"]:.3f}; / plain Flax of the widest:'
      f' {result["four_to_flax_widest"]:.2f} (MACs'
      f' {result["macs_four_to_widest"]:.2f})'
    )
  if arguments.json:
    files.write_json(arguments.json, results, indent=1)


if __name__ == '__main__':
  main()
