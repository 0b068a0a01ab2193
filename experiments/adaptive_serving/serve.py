"""Serves digits while other programs load the machine and stop again.

    python experiments/adaptive_serving/serve.py --bundle=bundles/digits

Answers one stream of requests three times: at the width a `Controller` picks,
at the widest, and at the thinnest. In the middle third of each, other processes
keep all cores busy. Writes result.json and serving.png beside this file (or
under --out). See README.md.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax import files
from slimjax import plots
from slimjax import runtime
from slimjax.data import digits
from slimjax.widths import Width

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Request:
  """A request that was answered.

  Attributes:
    at_s: seconds since the stream began.
    width: width at which it was answered.
    latency_ms: time from images on the host to logits there.
    correct: number of its images that were classified correctly.
  """

  at_s: float
  width: Width
  latency_ms: float
  correct: int


def keep_busy():
  """Multiplies matrices on one core, as another program might."""
  a = np.random.default_rng(0).standard_normal((256, 256))
  while True:
    a = np.tanh(a @ a)


class Load:
  """Keeps the cores busy with other processes inside `with`."""

  def __init__(self, processes: int):
    # Each process uses one core, even if its numpy would use more.
    os.environ['OPENBLAS_NUM_THREADS'] = '1'
    spawn = multiprocessing.get_context('spawn')
    self._processes = [
      spawn.Process(target=keep_busy, daemon=True) for _ in range(processes)
    ]

  def __enter__(self):
    for process in self._processes:
      process.start()

  def __exit__(self, *_):
    for process in self._processes:
      process.kill()
      process.join()


def stream(net, choose, *, seconds, processes, batch_size, pause_s):
  """Answers requests: a third calm, a third under load, a third calm."""
  test = digits.load('test')
  random = np.random.default_rng(0)
  requests: list[Request] = []
  start = time.perf_counter()

  def serve(until):
    while time.perf_counter() - start < until:
      chosen = random.integers(0, len(test['label']), batch_size)
      images, labels = test['image'][chosen], test['label'][chosen]
      width = choose.pick()
      before = time.perf_counter()
      logits = np.asarray(net(images, width=width))
      latency_ms = 1e3 * (time.perf_counter() - before)
      choose.observe(latency_ms)
      correct = int((logits.argmax(-1) == labels).sum())
      requests.append(Request(before - start, width, latency_ms, correct))
      time.sleep(pause_s)

  serve(seconds / 3)
  with Load(processes):
    serve(2 * seconds / 3)
  serve(seconds)
  return requests


class Fixed:
  """A controller that always picks one width."""

  def __init__(self, width: Width):
    self._width = width

  def pick(self):
    return self._width

  def observe(self, latency_ms):
    """Ignores the latency."""


def summary(requests, budget_ms, batch_size, seconds):
  """Returns the numbers of the table, for all requests and those under load."""
  loaded = [r for r in requests if seconds / 3 <= r.at_s < 2 * seconds / 3]
  widths = [r.width for r in requests]

  def within(some):
    return 100 * np.mean([r.latency_ms <= budget_ms for r in some])

  return {
    'requests': len(requests),
    'within_budget_percent': within(requests),
    'within_budget_under_load_percent': within(loaded),
    'accuracy_percent': 100
    * np.mean([r.correct / batch_size for r in requests]),
    'switches': sum(a != b for a, b in itertools.pairwise(widths)),
    'share_of_widths': {
      str(w): widths.count(w) / len(widths) for w in sorted(set(widths))
    },
  }


def plot(streams, budget_ms, batch_size, seconds, path):
  """Saves latency of each request, its width, and accuracy, over time."""
  from matplotlib.ticker import StrMethodFormatter

  figure = plots.figure((9, 7.5), dpi=130)
  latency, width, accuracy = figure.subplots(
    3, 1, sharex=True, height_ratios=(3, 1.4, 2)
  )
  for axes in (latency, width, accuracy):
    axes.axvspan(seconds / 3, 2 * seconds / 3, color='0.92', zorder=0)
    axes.grid(alpha=0.3)
  for index, (name, requests) in enumerate(streams.items()):
    times = np.asarray([r.at_s for r in requests])
    latency.plot(
      times,
      [r.latency_ms for r in requests],
      '.',
      markersize=2.5,
      color=f'C{index}',
      alpha=0.6,
      label=name,
    )
    width.step(
      times, [r.width for r in requests], where='post', color=f'C{index}'
    )
    right = np.asarray([100 * r.correct / batch_size for r in requests])
    bins = np.linspace(0, seconds, 31)
    which = np.digitize(times, bins) - 1
    means = [right[which == i].mean() for i in range(30) if (which == i).any()]
    middles = [bins[i] + seconds / 60 for i in range(30) if (which == i).any()]
    accuracy.plot(middles, means, color=f'C{index}', marker='.', label=name)
  latency.axhline(budget_ms, color='k', linestyle='--', linewidth=1)
  latency.annotate(
    f'budget {budget_ms:.1f} ms',
    (0, budget_ms),
    xytext=(2, 3),
    textcoords='offset points',
    fontsize=8,
  )
  latency.set_yscale('log')
  latency.yaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
  latency.yaxis.set_minor_formatter(StrMethodFormatter('{x:g}'))
  latency.set(
    ylabel='latency of a request, ms',
    title='Requests of one stream; grey: other processes keep all cores busy',
  )
  latency.legend(markerscale=4, fontsize=8, loc='upper right')
  width.set(ylabel='width', ylim=(0, 1.1))
  accuracy.set(xlabel='seconds', ylabel='accuracy, % of images')
  plots.save(figure, path)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--bundle', required=True, help='bundle of the digits run'
  )
  parser.add_argument('--out', type=pathlib.Path, default=HERE)
  parser.add_argument(
    '--seconds', type=float, default=60.0, help='length of a stream'
  )
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--processes', type=int, default=os.cpu_count() or 1)
  parser.add_argument(
    '--budget', type=float, help='ms; default: 1.4 times the p95 of the widest'
  )
  parser.add_argument('--quick', action='store_true', help='0.5 s per stream')
  arguments = parser.parse_args()
  seconds = 0.5 if arguments.quick else arguments.seconds
  size = arguments.batch_size

  net = runtime.load(arguments.bundle, batch_sizes=(size,))
  table = net.benchmark(
    batch_sizes=(size,), rounds=5 if arguments.quick else 30
  )
  rows = {row.width: row for row in table.of_batch(size)}
  widest, thinnest = net.widths[-1], net.widths[0]
  budget_ms = arguments.budget or 1.4 * rows[widest].p95_ms
  controller = runtime.Controller(table, budget_ms=budget_ms, batch_size=size)
  print(controller.explain())
  policies = {
    'controller': controller,
    f'always {widest}': Fixed(widest),
    f'always {thinnest}': Fixed(thinnest),
  }
  streams, results = {}, {}
  for name, policy in policies.items():
    streams[name] = stream(
      net,
      policy,
      seconds=seconds,
      processes=arguments.processes,
      batch_size=size,
      pause_s=0.005,
    )
    results[name] = summary(streams[name], budget_ms, size, seconds)
    print(name, json.dumps(results[name]))
  arguments.out.mkdir(parents=True, exist_ok=True)
  plot(streams, budget_ms, size, seconds, arguments.out / 'serving.png')
  record = {
    'device': table.device,
    'versions': table.versions,
    'budget_ms': budget_ms,
    'batch_size': size,
    'seconds': seconds,
    'load_processes': arguments.processes,
    'p50_ms': {str(w): row.p50_ms for w, row in rows.items()},
    'p95_ms': {str(w): row.p95_ms for w, row in rows.items()},
    'error_percent': {str(w): row.error for w, row in rows.items()},
    'policies': results,
  }
  files.write_json(arguments.out / 'result.json', record, indent=1)


if __name__ == '__main__':
  main()
