"""Is a switch as fast as a network built at its size, and as other software?

    python experiments/switch_latency/measure.py [--model=mobilenet_v1]

Exports each family and times every width of the bundle, by XLA, by ONNX Runtime
and by whichever `backend='auto'` takes, beside the network of that width alone
in JAX and in PyTorch. Each has a process of its own, and they take turns. See
README.md.
"""

import argparse
import functools
import pathlib
import sys
import tempfile

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from speed.side_by_side import cores
from speed.side_by_side import Part
from speed.side_by_side import Parts
from speed.side_by_side import SideBySide
from speed.side_by_side import Timing

from slimjax import files

FAMILIES = {
  'mobilenet_v1': (0.25, 0.5, 0.75, 1.0),
  'mobilenet_v2': (0.35, 0.5, 0.75, 1.0),
  'shufflenet': (0.5, 1.0, 2.0),
  'resnet50': (0.25, 0.5, 0.75, 1.0),
}
IN_PYTORCH = ('mobilenet_v1', 'resnet50')
XLA, ONNX, AUTO = 'XLA', 'ONNX Runtime', 'auto'
ALONE, PYTORCH = 'alone', 'PyTorch'


def name_of(width, batch_size):
  return f'{width}, {batch_size}'


def images_of(batch_size, image_size):
  shape = (batch_size, image_size, image_size, 3)
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def bundle(name: str, folder: pathlib.Path, image_size: int) -> None:
  """Writes a family's bundle, its answers, and its weights for PyTorch."""
  import jax

  import slimjax
  from slimjax import runtime

  widths = FAMILIES[name]
  model = slimjax.create_model(name, num_classes=1000, widths=widths)
  variables = slimjax.init(model, jax.random.key(0), image_size=image_size)
  runtime.export(
    model,
    variables,
    folder / 'bundle',
    image_size=image_size,
    formats=('jax', 'onnx'),
  )
  net = runtime.load(folder / 'bundle')
  images = images_of(1, image_size)
  answers = {str(w): np.asarray(net(images, width=w)) for w in widths}
  np.savez(folder / 'answers.npz', **answers)
  if name in IN_PYTORCH:
    for width in widths:
      small, weights = slimjax.extract(model, variables, width=width)
      state = slimjax.save_torch(small, weights)
      np.savez(folder / f'{width}.npz', **state)


def parts(folder, image_size, batch_sizes, function_of) -> Parts:
  """Returns a part for each width and batch size, which answer rightly.

  Args:
    folder: folder that `bundle` has written.
    image_size: height and width of the images.
    batch_sizes: numbers of images.
    function_of: (width, images) -> function that returns the logits.
  """
  found = {}
  with np.load(folder / 'answers.npz') as answers:
    for width, expected in answers.items():
      for size in batch_sizes:
        images = images_of(size, image_size)
        function = function_of(float(width), images)
        largest = np.abs(expected).max()
        if size == 1 and np.abs(function() - expected).max() > 1e-3 * largest:
          raise RuntimeError(f'{function_of} answers otherwise at {width}')
        found[name_of(width, size)] = Part(function)
  return found


def of_bundle(folder, image_size, batch_sizes, backend) -> Parts:
  from slimjax import runtime

  net = runtime.load(
    folder / 'bundle', backend=backend, batch_sizes=batch_sizes
  )

  def function_of(width, images):
    net.compiled(width, len(images), np.float32)  # not a smaller one meanwhile
    return lambda: np.asarray(net(images, width=width))

  return parts(folder, image_size, batch_sizes, function_of)


def of_alone(folder, image_size, batch_sizes, name) -> Parts:
  """A network of one width, its norms folded, compiled by `jax.jit`."""
  import jax

  import slimjax

  whole = slimjax.create_model(name, num_classes=1000, widths=FAMILIES[name])
  variables = slimjax.init(whole, jax.random.key(0), image_size=image_size)

  def function_of(width, images):
    small = slimjax.extract(whole, variables, width=width)
    model, weights = slimjax.fold_batch_norm(*small)
    weights = jax.device_put(weights)
    run = jax.jit(functools.partial(slimjax.apply, model, width=width))
    return lambda: np.asarray(run(weights, images))

  return parts(folder, image_size, batch_sizes, function_of)


def of_pytorch(folder, image_size, batch_sizes, name) -> Parts:
  """A network of one width, its norms folded, in channels-last order."""
  from speed import torch_networks
  import torch

  torch.set_num_threads(cores())

  def function_of(width, images):
    net = torch_networks.create_net(name, (width,))
    with np.load(folder / f'{width}.npz') as state:
      net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    net = torch_networks.fold_norms(net)
    given = torch.from_numpy(images).permute(0, 3, 1, 2)

    def run():
      with torch.inference_mode():
        return net(given, 0).numpy()

    return run

  return parts(folder, image_size, batch_sizes, function_of)


def sides_of(name, folder, arguments):
  """Returns {side: (factory of its parts, arguments)}."""
  given = folder, arguments.image_size, arguments.batch_sizes
  sides = {
    AUTO: (of_bundle, (*given, 'auto')),
    XLA: (of_bundle, (*given, 'jax')),
    ONNX: (of_bundle, (*given, 'onnxruntime')),
    ALONE: (of_alone, (*given, name)),
  }
  if name in IN_PYTORCH:
    sides[PYTORCH] = (of_pytorch, (*given, name))
  return sides


def slower_than_best(timing: Timing) -> float:
  """Returns auto's median time over that of the fastest other side."""
  others = [side for side in timing.seconds if side != AUTO]
  return max(timing.ratio(AUTO, side).median for side in others)


def show(console, name, image_size, timings):
  table = Table(
    'width, images',
    *(XLA, ONNX, AUTO, ALONE, PYTORCH),
    'XLA / alone',
    'auto / best',
    title=f'S-{name} at {image_size} px, ms',
    title_justify='left',
  )
  for timing in timings:
    cells = [
      f'{timing.ms(side).median:.2f}' if side in timing.seconds else ''
      for side in (XLA, ONNX, AUTO, ALONE, PYTORCH)
    ]
    table.add_row(
      timing.part,
      *cells,
      timing.ratio(XLA, ALONE).show(2),
      f'{slower_than_best(timing):.2f}',
    )
  console.print(table)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', choices=FAMILIES, action='append')
  parser.add_argument('--image_size', type=int, default=128)
  parser.add_argument('--batch_sizes', type=int, nargs='+', default=(1, 32))
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  console = Console(width=None if sys.stdout.isatty() else 100)
  written = {}
  for name in arguments.model or FAMILIES:
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      bundle(name, folder, arguments.image_size)
      with SideBySide(sides_of(name, folder, arguments)) as both:
        timings = [both.time(p, arguments.rounds) for p in both.parts]
    show(console, name, arguments.image_size, timings)
    foreign = max(timing.foreign for timing in timings)
    console.print(f'other processes kept {foreign:.2f} cores busy at most')
    written[name] = [
      {**timing.as_json(AUTO), 'auto_to_best': slower_than_best(timing)}
      for timing in timings
    ]
  if arguments.json:
    from slimjax.runtime.measuring import describe_device

    written = {'device': describe_device('jax'), **written}
    files.write_json(arguments.json, written, indent=1)


if __name__ == '__main__':
  main()
