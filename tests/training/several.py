"""Several processes that train as one, on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time

from held import held_in_step
from places import ROOT
from tiny_net import RUN_MODULE


def _free_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


@contextlib.contextmanager
def started(workdir, processes, arguments, *, devices=1, hold_last=None):
  """Starts processes; returns them, and the files of what they say.

  Args:
    workdir: folder of the run, or one per process.
    processes: how many.
    arguments: what slimjax.train is told beside folder and processes.
    devices: devices of each.
    hold_last: step after which the last process waits; default: none.
  """
  port = _free_port()
  python = held_in_step(hold_last) if hold_last else ('-c', RUN_MODULE)
  workdirs = workdir if isinstance(workdir, list) else [workdir] * processes
  running, outputs = [], []
  for index, workdir in enumerate(workdirs):
    output = workdir.with_name(f'{workdir.name}.{index}.{time.time_ns()}.txt')
    outputs.append(output)
    joined = (
      f'--coordinator=localhost:{port}',
      f'--process_count={processes}',
      f'--process_id={index}',
    )
    with output.open('w') as file:
      running.append(
        subprocess.Popen(
          [
            sys.executable,
            *(python if index == processes - 1 else ('-c', RUN_MODULE)),
            'slimjax.train',
            *arguments,
            f'--workdir={workdir}',
            *joined,
          ],
          cwd=ROOT,
          env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            # The suite's, which are quick to compile.
            'XLA_FLAGS': os.environ['XLA_FLAGS'].replace(
              'device_count=4', f'device_count={devices}'
            ),
            'PYTHONPATH': str(ROOT / 'tests'),
            'PYTHONUNBUFFERED': '1',
          },
          stdout=file,
          stderr=subprocess.STDOUT,
        )
      )
  try:
    yield running, outputs
  finally:
    for process in running:
      process.kill()
      process.wait()
