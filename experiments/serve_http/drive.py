"""Drives the server with 20, 200 and 20 concurrent requests, and plots.

    python experiments/serve_http/drive.py --bundle=bundles/few_digits

Starts server.py twice: with its controller, and with the widest alone. Clients
send pictures of the digits' test split, each the next as soon as it has an
answer. Writes result.json and serving.png beside this file (or under --out).
See README.md.
"""

import argparse
import asyncio
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax import files
from slimjax import plots
from slimjax import runtime
from slimjax.data import digits

HERE = pathlib.Path(__file__).resolve().parent
HEADERS = 'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n'


@dataclasses.dataclass
class Request:
  """One answer.

  Attributes:
    at_s: seconds from the first request to this one.
    latency_ms: time until the answer was there.
    width: width it was answered at.
    correct: whether the most probable class is the label.
  """

  at_s: float
  latency_ms: float
  width: float
  correct: bool


def pictures():
  """Returns the test images as PNG files, with their labels."""
  test = digits.load('test')
  encoded = []
  for image in test['image']:
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'png')
    encoded.append(file.getvalue())
  return list(zip(encoded, test['label'].tolist(), strict=True))


async def ask(reader, writer, picture):
  """Sends a picture over a connection that stays; returns the answer."""
  writer.write(HEADERS.format(len(picture)).encode() + picture)
  await writer.drain()
  head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
  length = int(head.partition('content-length:')[2].split()[0])
  answer = json.loads(await reader.readexactly(length))
  if ' 200 ' not in head.splitlines()[0]:
    raise RuntimeError(f'the server says {answer}')
  return answer


async def client(port, examples, random, begin_s, until_s, start, requests):
  """Sends one request after another, from a time to a time, at least one."""
  await asyncio.sleep(max(0.0, start + begin_s - time.perf_counter()))
  reader, writer = await asyncio.open_connection('localhost', port)
  while True:
    picture, label = examples[random.integers(len(examples))]
    sent = time.perf_counter()
    answer = await ask(reader, writer, picture)
    requests.append(
      Request(
        at_s=sent - start,
        latency_ms=1e3 * (time.perf_counter() - sent),
        width=answer['width'],
        correct=answer['classes'][0]['name'] == str(label),
      )
    )
    if time.perf_counter() - start >= until_s:
      break
  writer.close()


async def drive(port, seconds, few, many):
  """Returns the requests of a third with few clients, one with many, one few.

  Args:
    port: port of the server on this machine.
    seconds: length of all three parts.
    few, many: numbers of concurrent requests.
  """
  examples, random = pictures(), np.random.default_rng(0)
  requests: list[Request] = []
  start = time.perf_counter()
  third = seconds / 3
  times = few * [(0.0, seconds)] + (many - few) * [(third, 2 * third)]
  await asyncio.gather(
    *(client(port, examples, random, *t, start, requests) for t in times)
  )
  return requests


async def wait_for(port, server):
  """Waits until the server takes connections, and answers one request."""
  picture, _ = pictures()[0]
  while server.poll() is None:
    try:
      reader, writer = await asyncio.open_connection('localhost', port)
    except OSError:
      await asyncio.sleep(0.2)
      continue
    await ask(reader, writer, picture)
    writer.close()
    return
  raise RuntimeError(f'the server has ended with status {server.returncode}')


def served(port, arguments, options):
  """Returns the requests that a server with these options answers."""
  command = [sys.executable, HERE / 'server.py', f'--bundle={options.bundle}']
  server = subprocess.Popen([*command, f'--port={port}', *arguments])
  try:
    asyncio.run(wait_for(port, server))
    return asyncio.run(drive(port, options.seconds, options.few, options.many))
  finally:
    server.terminate()
    server.wait()


def summary(requests, seconds, budget_ms):
  """Returns what the table shows, of the parts with few and many clients."""
  third = seconds / 3
  parts = {'few': [], 'many': []}
  for request in requests:
    parts['many' if third <= request.at_s < 2 * third else 'few'].append(
      request
    )
  spans = {'few': 2 * third, 'many': third}
  return {
    name: {
      'requests_per_second': len(part) / spans[name],
      'p50_ms': float(np.median([r.latency_ms for r in part])),
      'p95_ms': float(np.quantile([r.latency_ms for r in part], 0.95)),
      'within_budget_percent': 100
      * float(np.mean([r.latency_ms <= budget_ms for r in part])),
      'accuracy_percent': 100 * float(np.mean([r.correct for r in part])),
      'mean_width': float(np.mean([r.width for r in part])),
    }
    for name, part in parts.items()
  }


def plot(policies, options, path):
  """Saves the latency of each request and its width over time."""
  figure = plots.figure((9, 6), dpi=130)
  latency, width = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
  for axes in (latency, width):
    third = options.seconds / 3
    axes.axvspan(third, 2 * third, color='0.92', zorder=0)
    axes.grid(alpha=0.3)
  for index, (name, requests) in enumerate(policies.items()):
    color = f'C{index}'
    done = sorted(requests, key=lambda r: r.at_s + r.latency_ms / 1e3)
    times = [r.at_s + r.latency_ms / 1e3 for r in done]
    latency.plot(
      times,
      [r.latency_ms for r in done],
      '.',
      markersize=2,
      alpha=0.4,
      color=color,
      label=name,
    )
    width.plot(times, [r.width for r in done], '.', markersize=2, color=color)
  latency.axhline(options.budget_ms, color='k', linestyle='--', linewidth=1)
  latency.annotate(
    f'budget {options.budget_ms:.0f} ms',
    (0, options.budget_ms),
    xytext=(2, 3),
    textcoords='offset points',
    fontsize=8,
  )
  latency.set(
    ylabel='latency of a request, ms',
    yscale='log',
    title=f'{options.few} concurrent requests; grey: {options.many}',
  )
  latency.legend(markerscale=6, fontsize=8, loc='upper right')
  width.set(xlabel='seconds', ylabel='width', ylim=(0, 1.1))
  plots.save(figure, path)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--bundle', required=True)
  parser.add_argument('--out', type=pathlib.Path, default=HERE)
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--few', type=int, default=20)
  parser.add_argument('--many', type=int, default=200)
  parser.add_argument('--budget_ms', type=float, default=300.0)
  parser.add_argument('--port', type=int, default=8765)
  options = parser.parse_args()
  manifest = runtime.load(
    options.bundle, prepare='use', batch_sizes=()
  ).manifest
  table = runtime.Table.load(f'{options.bundle}.benchmark.json')
  widest = manifest.widths[-1].width
  policies = {
    'controller': served(
      options.port, [f'--budget_ms={options.budget_ms}'], options
    ),
    f'always {widest}': served(options.port, [f'--widths={widest}'], options),
  }
  options.out.mkdir(parents=True, exist_ok=True)
  plot(policies, options, options.out / 'serving.png')
  record = {
    'device': table.device,
    'versions': table.versions,
    'network': manifest.model['class'],
    'seconds': options.seconds,
    'concurrent': {'few': options.few, 'many': options.many},
    'budget_ms': options.budget_ms,
    'p50_ms_of_a_batch': {str(row.width): row.p50_ms for row in table.rows},
    'error_percent': {str(e.width): e.error for e in manifest.widths},
    'policies': {
      name: summary(requests, options.seconds, options.budget_ms)
      for name, requests in policies.items()
    },
  }
  files.write_json(options.out / 'result.json', record, indent=1)
  print(json.dumps(record['policies'], indent=1))


if __name__ == '__main__':
  main()
