"""The server that people copy, with its driver, over a real connection."""

import asyncio
import contextlib
import importlib.util
import itertools
import sys
import threading

from bundles import export_digits
from places import ROOT
import pytest

import slimjax

uvicorn = pytest.importorskip('uvicorn')
pytest.importorskip('starlette')

WIDTHS = (0.125, 0.25)


def module(name):
  path = ROOT / 'experiments' / 'serve_http' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(f'serve_http_{name}', path)
  made = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = made
  spec.loader.exec_module(made)
  return made


@pytest.fixture(scope='module')
def predictor(tmp_path_factory):
  path = tmp_path_factory.mktemp('bundles') / 'digits'
  export_digits(path, WIDTHS)
  return slimjax.load(path, max_batch=16, batch_sizes=(1, 16))


class Turns:
  """A controller that picks one width after another."""

  def __init__(self):
    self.observed = []
    self._widths = itertools.cycle(WIDTHS)

  def pick(self):
    return next(self._widths)

  def observe(self, latency_ms, width):
    assert latency_ms > 0
    self.observed.append(width)


@contextlib.contextmanager
def serving(app):
  """Yields the port on which a server in another thread answers."""
  config = uvicorn.Config(app, port=0, log_level='warning')
  server = uvicorn.Server(config)
  started = threading.Event()
  startup = server.startup

  async def said(sockets=None):
    await startup(sockets)
    started.set()

  server.startup = said
  thread = threading.Thread(target=server.run)
  thread.start()
  assert started.wait(60)
  try:
    yield server.servers[0].sockets[0].getsockname()[1]
  finally:
    server.should_exit = True
    thread.join(60)


async def ask(drive, port, picture):
  reader, writer = await asyncio.open_connection('localhost', port)
  try:
    return await drive.ask(reader, writer, picture)
  finally:
    writer.close()
    await writer.wait_closed()


def test_concurrent_requests_are_answered(predictor, tmp_path):
  drive, controller = module('drive'), Turns()
  app = module('server').create_app(predictor, controller)
  examples = drive.pictures()
  with serving(app) as port:
    requests = asyncio.run(drive.drive(port, 0.3, few=2, many=20))
    answer = asyncio.run(ask(drive, port, examples[0][0]))
    with pytest.raises(RuntimeError, match="says {'error': 'picture: "):
      asyncio.run(ask(drive, port, b'<html>'))
  assert len(requests) >= 20  # one of each client, so two batches or more
  assert {request.width for request in requests} == {*WIDTHS}
  assert sorted(controller.observed[:-1]) == sorted(r.width for r in requests)
  image = predictor.decode(examples[0][0])
  (expected,) = predictor.predict(image, width=answer['width'])
  for found, guess in zip(answer['classes'], expected, strict=True):
    assert (found['index'], found['name']) == (guess.index, guess.name)
    assert found['probability'] == pytest.approx(guess.probability, rel=1e-4)

  policies = {'controller': requests}
  options = type(
    'Options', (), dict(seconds=0.3, few=2, many=20, budget_ms=9.0)
  )
  drive.plot(policies, options, tmp_path / 'serving.png')
  assert (tmp_path / 'serving.png').read_bytes().startswith(b'\x89PNG')
