"""How many candidates does a search score in a second?

    python experiments/channel_search/speed.py [--quick]

See README.md. Candidates of one search step are scored in four ways, in one
process: cut out, each with a program of its own; masked, one after another;
masked, all at once (vmap); and as the search does it, split over devices.
"""

import argparse
import importlib.metadata
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# Before jax is imported. CPU has one device for both cores unless it is told.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=2',
  ]
)

import evidence
import jax
import numpy as np

import slimjax
from slimjax import files
from slimjax.runtime.measuring import describe_device
from slimjax.searching.costs import macs_of
from slimjax.searching.problem import make_problem
from slimjax.searching.scoring import Scorer
from slimjax.tasks import Classification
from slimjax.training.mesh import data_mesh

IMAGE_SIZE, IMAGES = 64, 16
SLICED = 3  # candidates that are cut out: each is compiled
ROUNDS = 5


def main(arguments=None):
  parser = argparse.ArgumentParser(description='See README.md.')
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--out', type=pathlib.Path)
  given = parser.parse_args(arguments)
  # Programs of an earlier run would make those of slices free.
  jax.config.update('jax_enable_compilation_cache', False)
  name = 'resnet14' if given.quick else 'mobilenet_v1'
  model = slimjax.create_model(
    name, num_classes=1000, widths=(0.25, 1.0), shared=('norm',)
  )
  variables = slimjax.init(model, jax.random.key(0))
  random = np.random.default_rng(0)
  batch = {
    'image': random.standard_normal(
      (IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32
    ),
    'label': random.integers(0, 1000, IMAGES).astype(np.int32),
  }
  macs = macs_of(model, IMAGE_SIZE)
  start = tuple(model.channels(0.75))
  problem = make_problem(model, macs, [macs([model.channels(0.25)])[0] * 1.01])
  counts, allowed = problem.slimmed(start)
  counts = counts[allowed]

  def scorer(devices, together=1, bound=start):
    made = Scorer(
      model,
      variables,
      [batch],
      task=Classification(),
      macs=macs,
      mesh=data_mesh(jax.devices()[:devices]),
      together=together,
    )
    made.follow(bound)
    return made

  def sliced():
    for channels in counts[:SLICED]:
      scorer(1, bound=tuple(channels.tolist()))([channels])

  ways = {
    'masked, one after another': scorer(1),
    'masked, all at once': scorer(1, len(counts)),
    'masked, over two devices': scorer(2),
  }
  first = {}
  for way, score in ways.items():
    began = time.perf_counter(), time.process_time()
    score(counts)
    first[way] = elapsed(began)
  times = {way: [] for way in ways}
  for _ in range(1 if given.quick else ROUNDS):
    for way, score in ways.items():
      began = time.perf_counter(), time.process_time()
      score(counts)
      times[way].append(elapsed(began))
  began = time.perf_counter(), time.process_time()
  sliced()
  wall, processor = elapsed(began)
  rows = {
    'sliced, each compiled': {
      'per_second': SLICED / wall,
      'per_processor_second': SLICED / processor,
    }
  }
  for way, turns in times.items():
    wall, processor = np.median(turns, axis=0)
    rows[way] = {
      'per_second': len(counts) / wall,
      'per_processor_second': len(counts) / processor,
      'first_seconds': first[way][0],
      'first_processor_seconds': first[way][1],
    }
  base = rows['sliced, each compiled']
  for way, row in rows.items():
    row['ratio'] = row['per_processor_second'] / base['per_processor_second']
    print(
      f'{way:<28} {row["per_second"]:8.2f} /s'
      f' {row["per_processor_second"]:8.2f} / processor second'
      f' {row["ratio"]:7.1f} x'
    )
  out = given.out or pathlib.Path(__file__).resolve().parent
  if given.out or not given.quick:
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(
      out / 'speed.json',
      {
        'commit': evidence._commit(),
        'machine': describe_device('jax'),
        'jax': importlib.metadata.version('jax'),
        'model': name,
        'candidates': len(counts),
        'ways': rows,
      },
      indent=1,
    )


def elapsed(began):
  """Returns seconds and processor seconds since a moment."""
  return time.perf_counter() - began[0], time.process_time() - began[1]


if __name__ == '__main__':
  main()
