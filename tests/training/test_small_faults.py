"""Faults that were met, each small: paths, loggers, epochs, peaks, norms."""

import logging
import types

import numpy as np
import pytest
import tiny_net

from slimjax import configuration
from slimjax.training import processes
from slimjax.training import setup
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.devices import peak_tflops


class Cloud:
  """A folder of a cloud storage that is always there."""

  def __init__(self, path):
    self.path = path

  def __str__(self):
    return self.path

  def __truediv__(self, name):
    return Cloud(f'{self.path}/{name}')

  def mkdir(self, **_):
    pass


def test_an_error_inside_a_run_on_cloud_storage_stays_what_it_is():
  with (
    pytest.raises(OSError, match='the network is gone'),
    processes.exclusive(Cloud('gs://bucket/run')),
  ):
    raise OSError('the network is gone')


def test_checkpoints_leave_the_loggers_of_the_process_alone(tmp_path, caplog):
  levels = [logging.getLogger(n).level for n in ('absl', 'asyncio')]
  with Checkpoints(tmp_path) as checkpoints:
    with caplog.at_level(logging.INFO, 'absl'):
      checkpoints.save(1, {'x': np.zeros(3)}, {}, None)
      checkpoints.wait()
    assert not caplog.records  # orbax says something of each array
    logging.getLogger('absl').warning('of somebody else')
    assert [r.message for r in caplog.records] == ['of somebody else']
  assert [logging.getLogger(n).level for n in ('absl', 'asyncio')] == levels


@pytest.mark.parametrize(
  'kind, tflops',
  [
    ('NVIDIA L4', 121.0),
    ('NVIDIA L40', 181.05),
    ('NVIDIA L40S', 362.05),
    ('NVIDIA A100-SXM4-80GB', 312.0),
    ('NVIDIA H100 PCIe', 756.0),
    ('TPU v5 lite', 197.0),
    ('NVIDIA L4000', None),
  ],
)
def test_a_peak_is_that_of_the_whole_name(kind, tflops):
  assert peak_tflops(types.SimpleNamespace(device_kind=kind)) == tflops


def test_norms_are_synchronised_by_the_configuration():
  """What it does then is in test_steps."""
  config = tiny_net.get_config(model__axis_name='data', batch_size=8)
  built = setup.set_up(configuration.parse(config), None)
  assert built.model.axis_name == 'data'
  config = tiny_net.get_config(model__axis_name='batch')
  with pytest.raises(ValueError, match="axis_name must be 'data'"):
    setup.set_up(configuration.parse(config), None)
