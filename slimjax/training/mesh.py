"""The devices of a run: a mesh along one axis, and what lies on it how."""

from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from slimjax.data.batches import Batch

AXIS = 'data'


def data_mesh(devices: list | None = None) -> Mesh:
  """Returns a mesh of `devices` along `data`; default: of all devices."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def compiler_options(mesh: Mesh) -> dict[str, Any] | None:
  """Returns how programs are compiled: on CPU they are scheduled for memory."""
  if mesh.devices.flat[0].platform != 'cpu':
    return None
  return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Returns `tree` on every device of the mesh, in buffers of its own."""
  # Steps donate the state: an array the caller still holds must not go with it.
  # By way of the host, as XLA would compile a copy for every shape.
  host = jax.device_get(tree)
  return jax.device_put(host, NamedSharding(mesh, P()), may_alias=False)


def shard(batch: Batch, mesh: Mesh) -> Batch:
  """Returns this process's examples as global arrays, split over the mesh."""
  sharding = NamedSharding(mesh, P(AXIS))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
    for name, array in batch.items()
  }


def shapes_of(batch: Batch) -> tuple[tuple[str, tuple[int, ...], str], ...]:
  """Returns a key of programs compiled for a batch: its names and shapes."""
  return tuple(
    (name, array.shape, str(array.dtype))
    for name, array in sorted(batch.items())
  )
