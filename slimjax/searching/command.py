"""Searches in a run: the program `slimjax.search`."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import os
from typing import Any

from etils import epath
import jax

from slimjax import files
from slimjax.data import workers
from slimjax.models.net import SlimNet
from slimjax.runtime.measuring import describe_device
from slimjax.runtime.runs import read_run
from slimjax.searching import latency
from slimjax.searching.costs import macs_of
from slimjax.searching.costs import params_of
from slimjax.searching.problem import make_problem
from slimjax.searching.progress import Progress
from slimjax.searching.results import Describer
from slimjax.searching.results import names_of
from slimjax.searching.results import NETS
from slimjax.searching.results import plot_nets
from slimjax.searching.results import print_nets
from slimjax.searching.results import uniform_widths
from slimjax.searching.results import write_nets
from slimjax.searching.running import chosen_cost
from slimjax.searching.running import run_search
from slimjax.searching.supernet import open_supernet
from slimjax.tasks.base import image_size
from slimjax.training import processes
from slimjax.training.compiling import alive

SPLITS = ('held_out', 'train')


def search_run(
  workdir: epath.PathLike,
  out: epath.PathLike,
  *,
  target_macs: Sequence[float] = (),
  target_ms: Sequence[float] = (),
  device_table: epath.PathLike | None = None,
  split: str = 'held_out',
  images: int | None = None,
  batch_size: int | None = None,
  data_dir: epath.PathLike | None = None,
  best: bool = False,
  strategy: str = 'greedy',
  score: str = 'loss',
  step_of_unit: int | None = None,
  minimum: int = 8,
  keep: Sequence[str] = (),
) -> list[dict[str, Any]]:
  """Returns the networks that a search in a run found; writes OUT/nets.json.

  It also writes OUT/trace.jsonl, by which a search that was killed resumes,
  OUT/error.png and, for a target in milliseconds, OUT/device_table.json.

  Args:
    workdir: folder of the run, a supernet.
    out: folder to write to.
    target_macs: multiply-accumulates to reach.
    target_ms: milliseconds to reach on the device of the table.
    device_table: file of the table; where it does not exist this device is
      measured, and it is written. Default: OUT/device_table.json.
    split: 'held_out' (default), or 'train', which the run was trained on.
    images: number of images to score with; default: all of the split.
    batch_size: images that are normalised together; default: as many as in an
      evaluation.
    data_dir: folder that has the data now; default: as the run found them.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.
    strategy, score, minimum, keep: see `slimjax.search`.
    step_of_unit: `step` of `slimjax.search`; default: a twelfth.

  Raises:
    ValueError: the run has no such split, or see `slimjax.search`.
  """
  workers.refuse_import()
  if split not in SPLITS:
    raise ValueError(
      f'split must be {" or ".join(SPLITS)}, got {split!r}: the test images'
      ' are for what is found'
    )
  out, primary = files.expand(out, 'out'), processes.is_primary()
  steps: list[dict[str, Any]] = []
  with contextlib.ExitStack() as stack:
    if primary:
      stack.enter_context(processes.exclusive(out))
    progress = stack.enter_context(Progress(enabled=primary))
    with alive(progress.say, lambda: 'reading the images'):
      supernet = open_supernet(
        workdir, split, images, batch_size, data_dir, best=best
      )
    said = f'{supernet.images:,} images of the split {split}'
    progress.say(f'{said} to score with')
    model, size = supernet.model, supernet.size
    macs, table = macs_of(model, size), None
    if target_ms or device_table is not None:
      path = files.expand(device_table or out / 'device_table.json')
      table = open_table(path, model, size, progress.say)
    problem = make_problem(
      model,
      chosen_cost(macs, table, target_macs, target_ms),
      target_macs or target_ms,
      step=step_of_unit,
      minimum=minimum,
      keep=keep,
    )
    progress.begin(problem)
    scorer = supernet.scorer(macs, score, progress.say)

    def on_step(record: dict[str, Any]) -> None:
      steps.append(record)
      progress.step(record)

    found = run_search(
      problem,
      scorer,
      strategy=strategy,
      trace=out / 'trace.jsonl',
      writes=primary,
      on_step=on_step,
    )
  scorer.restart()
  headline, unit = supernet.task.metrics[0], problem.cost.unit
  describe = Describer(scorer, macs, params_of(model, size), table, headline)
  nets = describe(names_of(found, unit))
  uniform = describe(uniform_widths(model))
  if table is not None:
    add_measured([*nets, *uniform], model, size, table.batch_size)
  if primary:
    write_nets(out / NETS, {**supernet.about, 'split': split}, nets, uniform)
    print_nets(nets, uniform, headline)
    plot_nets(
      out / 'error.png',
      steps,
      nets,
      uniform,
      unit=unit,
      headline=headline,
      title=f'{supernet.name}: {split} images, weights of the supernet',
    )
    print(
      f'written: {out / NETS}; --config.model.widths=@{out / NETS} trains what'
      ' was found'
    )
  return nets


def add_measured(
  nets: Sequence[dict[str, Any]],
  model: SlimNet,
  size: tuple[int, int],
  batch_size: int,
) -> None:
  """Adds what whole networks take on this device, and its name."""
  channels = [net['channels'] for net in nets]
  times = latency.time_nets(
    model, channels, image_size=size, batch_size=batch_size
  )
  for net, ms in zip(nets, times, strict=True):
    net |= {'measured_ms': ms, 'measured_on': describe_device('jax')}


def measure_run(
  workdir: epath.PathLike, out: epath.PathLike, *, batch_size: int = 1
) -> latency.LatencyTable:
  """Returns the latencies of the blocks of a run's network, on this device.

  The data of the run are not needed.

  Args:
    workdir: folder of the run.
    out: file to write.
    batch_size: images in a call; default: 1.
  """
  run = read_run(workdir)
  size = image_size(run.task, run.data)
  model = run.model.clone(axis_name=None)
  table = latency.measure(
    model, image_size=size, batch_size=batch_size, say=print
  )
  table.save(out)
  print(f'written: {os.fspath(out)}; its latencies are {table.errors}')
  return table


def open_table(
  path: epath.Path,
  model: SlimNet,
  size: tuple[int, int],
  say: Callable[[str], None],
) -> latency.LatencyTable:
  """Returns a table of latencies; measures this device if there is none."""
  if path.exists():
    table = latency.LatencyTable.load(path)
  elif jax.process_count() > 1:
    raise ValueError(
      f'there is no table of latencies {path}: several processes would measure'
      ' several; begin the search with one, which writes it'
    )
  else:
    say(f'there is no {path} yet: measuring this device')
    table = latency.measure(model, image_size=size, say=say)
    table.save(path)
  table.check_model(model, size)
  say(f'latencies of {table.device}, batch {table.batch_size}: {table.errors}')
  return table
