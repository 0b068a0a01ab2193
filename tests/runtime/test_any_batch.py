"""Batches of any size, programs made once, images of the wrong kind."""

from concurrent.futures import ThreadPoolExecutor
import itertools
import logging
import threading
import warnings

from bundles import close
from bundles import export_digits
from bundles import images_of
from bundles import SIZE
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax import runtime
from slimjax.data import digits
from slimjax.runtime import batching
from slimjax.runtime.inputs import measure_range
from slimjax.runtime.programs import Programs

WIDTHS = (0.125, 0.25)
LOW, HIGH = -0.31 / 0.33, 0.69 / 0.33


def test_a_batch_is_padded_or_split():
  sizes = batching.bucket_sizes(8, (6, 12))
  assert sizes == (1, 2, 4, 6, 8, 12)
  assert batching.bucket_sizes(1) == (1,)
  assert batching.bucket_sizes(7) == (1, 2, 4)

  def split(count, sizes):
    chunks = batching.split(count, sizes)
    # One after another, every example once.
    assert chunks[0].start == 0
    assert chunks[-1].stop == count
    for one, other in itertools.pairwise(chunks):
      assert one.stop == other.start
    assert all(c.stop - c.start <= c.size for c in chunks)
    return [chunk.size for chunk in chunks]

  assert split(0, sizes) == [1]
  assert split(3, sizes) == [4]
  assert split(6, sizes) == [6]
  assert split(29, sizes) == [12, 12, 6]
  # With few sizes, less is wasted by several small ones than by a large one.
  assert split(5, (1, 64)) == [1] * 5
  assert split(33, (1, 64)) == [64]
  assert split(5, (2,)) == [2, 2, 2]


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('bundles') / 'digits'
  export_digits(path, WIDTHS)
  return path


@pytest.fixture
def net(path):
  return runtime.load(path, max_batch=4)


def test_any_batch_is_answered_as_its_images_alone(net):
  images = images_of(11)
  alone = np.concatenate(
    [net(images[i : i + 1], width=0.25) for i in range(len(images))]
  )
  net.compiled(0.25, 11, np.uint8)  # 4 + 4 + 3, padded to 4
  for count in (2, 3, 4, 5, 11):
    logits = net(images[:count], width=0.25)
    assert isinstance(logits, jax.Array)
    assert close(logits, alone[:count])
    on_device = net(jnp.asarray(images[:count]), width=0.25)
    np.testing.assert_array_equal(on_device, logits)
  assert not close(alone[:1], alone[1:2], 0.1)  # they depend on the images
  empty = net(images[:0], width=0.25)
  assert (empty.shape, empty.dtype) == ((0, 10), np.float32)


def test_the_default_width(net):
  images = images_of(1)
  assert net.default_width == 0.25
  np.testing.assert_array_equal(net(images), net(images, width=0.25))


class Slow:
  """A backend whose compilations of some sizes wait to be released."""

  def __init__(self, backend, slow):
    self._backend = backend
    self._slow = slow
    self.release = threading.Event()
    self.compiled = []

  def __getattr__(self, name):
    return getattr(self._backend, name)

  def compile(self, entry, inputs, weights):
    size = len(inputs[0])
    if size in self._slow:
      assert self.release.wait(60)
    self.compiled.append((entry.width, size))
    return self._backend.compile(entry, inputs, weights)


def test_no_request_waits_for_a_compilation(path, caplog):
  """What is ready answers, while the program of the right size is made."""
  net = runtime.load(path, max_batch=4)
  net._backend = Slow(net._backend, slow=(4,))
  images = images_of(3)
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    first = net(images, width=0.25)  # by the program of one image
    second = net(images, width=0.25)
    assert not net._backend.compiled
    assert not caplog.text
  assert first.shape == (3, 10)
  np.testing.assert_array_equal(first, second)
  # It was begun once. Who wants it by name waits for the same one.
  with ThreadPoolExecutor(3) as pool:
    asked = [pool.submit(net.compiled, 0.25, 4, np.uint8) for _ in range(3)]
    net._backend.release.set()
    programs = {id(future.result()) for future in asked}
  assert net._backend.compiled == [(0.25, 4)]
  assert len(programs) == 1
  assert close(net(images, width=0.25), first)


def test_a_large_batch_goes_on_with_what_has_become_ready(path):
  net = runtime.load(path, max_batch=4)
  net._backend = Slow(net._backend, slow=(2, 4))
  chunks = net._chunks(0.25, (6, SIZE, SIZE, 3), np.dtype(np.uint8))
  assert next(chunks) == batching.Chunk(0, 1, 1)
  net._backend.release.set()
  net.compiled(0.25, 6, np.uint8)  # 4 + 2
  assert [*chunks] == [batching.Chunk(1, 5, 4), batching.Chunk(5, 6, 1)]


def test_programs_are_made_once_and_beside_others():
  made, release = [], threading.Event()

  def make(key):
    if key == 'slow':
      assert release.wait(60)
    made.append(key)
    return key.upper()

  programs = Programs(make, limit=8)
  with ThreadPoolExecutor(5) as pool:
    slow = [pool.submit(programs.get, 'slow') for _ in range(4)]
    assert programs.get('quick') == 'QUICK'  # nobody waits for another's
    assert programs.ready('slow') is None
    release.set()
    assert [future.result() for future in slow] == ['SLOW'] * 4
  assert made == ['quick', 'slow']
  assert programs.ready('slow') == 'SLOW'


def test_the_least_recently_used_program_is_forgotten():
  made = []
  programs = Programs(lambda key: made.append(key) or key, limit=2)
  for key in ('a', 'b', 'a'):
    programs.get(key)
  assert 'b' in programs  # to ask is not to use
  programs.get('c')
  assert made == ['a', 'b', 'c']
  assert len(programs) == 2
  assert 'b' not in programs
  assert programs.ready('b') is None
  assert programs.ready('a') == 'a'


def test_a_compilation_that_fails_is_told_and_tried_again(caplog):
  failures = [OSError('no memory'), OSError('no memory')]

  def make(key):
    if failures:
      raise failures.pop()
    return key

  programs = Programs(make, limit=2)
  with pytest.raises(OSError, match='no memory'):
    programs.get('a')
  programs.start('a')
  for thread in threading.enumerate():
    if thread.name.startswith('slimjax'):
      thread.join(60)
  assert 'the program of a was not compiled: no memory' in caplog.text
  assert programs.get('a') == 'a'


def test_programs_are_counted(path):
  net = runtime.load(path, max_programs=1)
  assert net.memory().programs == 2  # never less than are compiled now
  for size in (2, 4):
    net.compiled(0.25, size, np.uint8)
  memory = net.memory()
  assert memory.programs == 2
  assert memory.temp_bytes == net.compiled(0.25, 4, np.uint8).temp_bytes
  assert 'programs: 2, the largest takes' in str(memory)


# Floating images.


def test_the_range_of_preprocessed_images():
  assert measure_range(digits.preprocess, (8, 8)) == pytest.approx((LOW, HIGH))

  def by_image(images):  # as some do; then the range is unknown
    images = jnp.asarray(images, jnp.float32)
    mean = images.mean((1, 2, 3), keepdims=True)
    return (images - mean) / (images.std((1, 2, 3), keepdims=True) + 1e-6)

  assert measure_range(by_image, (8, 8)) is None


def test_floating_images_must_be_preprocessed(net):
  assert net.manifest.input_range == pytest.approx((LOW, HIGH))
  images = images_of(1)
  way = r'-0.9394 and 2.091, .* give uint8 images, .*: \(images / 255 - 0.31\)'
  for wrong in (images.astype(np.float32), jnp.asarray(images, jnp.float32)):
    with pytest.raises(ValueError, match=way):
      net(wrong, width=0.25)
    with pytest.raises(ValueError, match='between 0 and 255'):
      net.functions[0.25](wrong)
  unknown = np.full((1, SIZE, SIZE, 3), np.nan, np.float32)
  with pytest.raises(ValueError, match='between nan and nan'):
    net(unknown, width=0.25)


def test_images_from_0_to_1_are_warned_of_once(net):
  images = images_of(1).astype(np.float32) / 255
  with pytest.warns(UserWarning, match='if they were not normalised') as seen:
    net(images, width=0.25)
  assert seen[0].filename == __file__
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    net(images, width=0.25)  # once is enough
    other = np.zeros((1, SIZE, SIZE, 3), np.float32)
    net(other, width=0.25)
    # What augmentation and resizing add is allowed.
    net(np.asarray(digits.preprocess(images_of(1))) * 1.2, width=0.25)
