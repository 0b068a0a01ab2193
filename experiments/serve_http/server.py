"""Serves pictures over HTTP, at the width that a `Controller` picks.

    pip install 'slimjax[serve]'
    python -m slimjax.benchmark bundles/few_digits --batch_sizes=16
    python experiments/serve_http/server.py --bundle=bundles/few_digits
    curl --data-binary @three.png http://localhost:8000/

POST a picture; the answer is JSON: the width, and classes with probabilities.
Requests that wait together are answered together, up to 16 in a batch.
"""

import argparse
import asyncio
import contextlib
import time

import numpy as np
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import uvicorn

import slimjax
from slimjax import runtime
from slimjax.runtime.decoding import PictureError

BATCH = 16


def create_app(predictor, controller):
  """Returns the application; one event loop owns the queue and controller."""
  waiting = asyncio.Queue()

  async def answer(request):
    began, body = time.perf_counter(), await request.body()
    try:
      image = await asyncio.to_thread(predictor.decode, body)
    except PictureError as error:
      return JSONResponse({'error': str(error)}, status_code=400)
    answered = asyncio.get_running_loop().create_future()
    waiting.put_nowait((image, answered))
    width, guesses = await answered
    controller.observe(1e3 * (time.perf_counter() - began), width)
    classes = [vars(guess) for guess in guesses]
    return JSONResponse({'width': width, 'classes': classes})

  async def answer_batches():
    while True:
      batch = [await waiting.get()]
      while len(batch) < BATCH and not waiting.empty():
        batch.append(waiting.get_nowait())
      images, width = np.stack([image for image, _ in batch]), controller.pick()
      try:
        said = await asyncio.to_thread(predictor.predict, images, width=width)
      except Exception as error:
        said = [error] * len(batch)
      for (_, answered), guesses in zip(batch, said, strict=True):
        if answered.done():  # its client is gone
          continue
        if isinstance(guesses, Exception):
          answered.set_exception(guesses)
        else:
          answered.set_result((width, guesses))

  @contextlib.asynccontextmanager
  async def lifespan(app):
    task = asyncio.create_task(answer_batches())
    yield
    task.cancel()

  routes = [Route('/', answer, methods=['POST'])]
  return Starlette(routes=routes, lifespan=lifespan)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--bundle', required=True)
  parser.add_argument('--budget_ms', type=float, default=300.0)
  parser.add_argument('--widths', type=float, nargs='*', default=())
  parser.add_argument('--port', type=int, default=8000)
  options = parser.parse_args()
  predictor = slimjax.load(
    options.bundle,
    widths=options.widths,
    prepare='load',
    max_batch=BATCH,
    batch_sizes=(1, 4, BATCH),
  )
  table = runtime.Table.load(f'{options.bundle}.benchmark.json')
  rows = [r for r in table.of_batch(BATCH) if r.width in predictor.widths]
  controller = runtime.Controller(rows, budget_ms=options.budget_ms)
  app = create_app(predictor, controller)
  uvicorn.run(app, port=options.port, log_level='warning')


if __name__ == '__main__':
  main()
