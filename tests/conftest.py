"""Four fake devices, strict promotion and a compilation cache for all."""

import gc
from importlib import metadata
import os
import pathlib
import tempfile

# Before jax is imported. The suite compiles more than it computes.
os.environ['JAX_PLATFORMS'] = 'cpu'
# The older emitters compile in a third of the time; newer ones lack the choice.
OLDER = '--xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
    '--xla_backend_optimization_level=0',
    '--xla_cpu_parallel_codegen_split_count=1',
    OLDER if metadata.version('jaxlib').startswith('0.10.') else '',
  ]
)
CACHE = pathlib.Path(tempfile.gettempdir()) / 'slimjax_test_cache'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

import jax
import pytest

# Tracing makes many small objects; to look for garbage among them takes long.
gc.set_threshold(100_000, 50, 50)

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_collection_finish():
  """Leaves what all imports have made out of the search for garbage."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope='module', autouse=True)
def small_heap():
  """Forgets what a module has traced and compiled, which burdens the next."""
  yield
  jax.clear_caches()
  gc.collect()


@pytest.fixture
def x64():
  """Allows float64 for the length of a test."""
  with jax.enable_x64(True):
    yield
