"""Is a switch as fast as a network built at its size? Batch 1, this device.

    python experiments/switch_latency/measure.py [--model=mobilenet_v1]

Exports each family, loads the bundle, and times every width beside the same
network built with only that width (norms folded, compiled by `jax.jit`), in
turns; each is first in every other round. Prints the ratios. See README.md.
"""

import argparse
import functools
import pathlib
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import slimjax
from slimjax import files
from slimjax import runtime
from slimjax.runtime.measuring import describe_device

FAMILIES = {
  'mobilenet_v1': (0.25, 0.5, 0.75, 1.0),
  'mobilenet_v2': (0.35, 0.5, 0.75, 1.0),
  'shufflenet': (0.5, 1.0, 2.0),
  'resnet50': (0.25, 0.5, 0.75, 1.0),
}
CALLS = 10


def alone(name, width, image_size):
  """Returns a network that has one width from the start, as a function."""
  model = slimjax.create_model(name, num_classes=1000, widths=(width,))
  model = model.clone(folded=True)
  weights = slimjax.init(model, jax.random.key(0), image_size=image_size)

  @jax.jit
  def run(weights, images):
    return slimjax.apply(model, weights, images, width=width)

  return lambda images: run(weights, images)


def turn(function, images):
  """Returns milliseconds of ten requests, after one that is not counted."""
  np.asarray(function(images))
  times = []
  for _ in range(CALLS):
    start = time.perf_counter()
    np.asarray(function(images))
    times.append(1e3 * (time.perf_counter() - start))
  return times


def compare(sides, images, rounds):
  """Returns {width: both latencies, their ratio, quartiles of the rounds'}."""
  times = {width: {'switch': [], 'alone': []} for width in sides}
  for round_ in range(rounds):
    for width, functions in sides.items():
      names = ['switch', 'alone'] if round_ % 2 else ['alone', 'switch']
      for name in names:
        times[width][name].append(turn(functions[name], images))
  results = {}
  for width, both in times.items():
    switch, single = (np.median(both[name], axis=1) for name in both)
    ratios = switch / single
    results[width] = {
      'switch_ms': float(np.median(switch)),
      'alone_ms': float(np.median(single)),
      'ratio': float(np.median(ratios)),
      'quartiles': [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
    }
  return results


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', choices=FAMILIES, action='append')
  parser.add_argument('--image_size', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=30)
  parser.add_argument('--onnx', action='store_true', help='beside ONNX Runtime')
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  size = arguments.image_size
  images = np.random.default_rng(0).standard_normal((1, size, size, 3))
  images = jnp.asarray(images, jnp.float32)
  console = Console()
  written = {'device': describe_device('jax'), 'jax': jax.__version__}
  for name in arguments.model or FAMILIES:
    model = slimjax.create_model(name, num_classes=1000, widths=FAMILIES[name])
    variables = slimjax.init(model, jax.random.key(0), image_size=size)
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / name
      runtime.export(
        model,
        variables,
        path,
        image_size=size,
        formats=('jax', 'onnx') if arguments.onnx else ('jax',),
      )
      net = runtime.load(path)
      sides = {
        width: {
          'switch': functools.partial(net, width=width),
          'alone': alone(name, width, size),
        }
        for width in net.widths
      }
      results = compare(sides, images, arguments.rounds)
      if arguments.onnx:
        other = runtime.load(path, backend='onnxruntime')
        sides = {
          width: {
            'switch': functools.partial(net, width=width),
            'alone': functools.partial(other, width=width),
          }
          for width in net.widths
        }
        for width, result in compare(sides, images, arguments.rounds).items():
          results[width]['onnxruntime_ms'] = result['alone_ms']
          results[width]['jax_to_onnxruntime'] = result['ratio']
    table = Table(
      'width',
      'switch, ms',
      'alone, ms',
      'ratio (quartiles)',
      'XLA / ONNX',
      title=f'{name}, batch 1 at {size} px',
    )
    for width, r in results.items():
      low, high = r['quartiles']
      table.add_row(
        str(width),
        f'{r["switch_ms"]:.2f}',
        f'{r["alone_ms"]:.2f}',
        f'{r["ratio"]:.3f} ({low:.3f} - {high:.3f})',
        f'{r["jax_to_onnxruntime"]:.2f}' if arguments.onnx else '',
      )
    console.print(table)
    written[name] = {str(width): r for width, r in results.items()}
  if arguments.json:
    files.write_json(arguments.json, written, indent=1)


if __name__ == '__main__':
  main()
