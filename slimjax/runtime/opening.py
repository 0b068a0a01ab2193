"""Loads a run or a bundle to predict with it: `slimjax.load`."""

import os
from typing import Any

from slimjax import files
from slimjax.runtime import bundle
from slimjax.runtime import loading
from slimjax.runtime.forking import check_process
from slimjax.runtime.forking import first_process
from slimjax.runtime.predictor import Predictor

_CONFIG = 'config.json'  # of a run


def load(
  source: str | os.PathLike, *, best: bool = False, **options: Any
) -> Predictor:
  """Loads a run or a bundle, to predict what is in pictures.

  ```
  net = slimjax.load('runs/digits')
  net.predict('three.png', width=0.5)[0][0].name
  net = slimjax.load('runs/scenes')  # a detector
  net.predict('scene.png', width=0.5, min_score=0.5)[0].boxes
  ```

  Args:
    source: folder of a run (of `slimjax.train`) or of a bundle (of
      `slimjax.export`).
    best: whether to take the run's checkpoint with the least validation error;
      by default the latest.
    **options: those of `slimjax.runtime.load`; here nothing is prepared or
      compiled before it is used (prepare='use', batch_sizes=()) by default.

  Raises:
    FileNotFoundError: there is no such folder, or no whole checkpoint yet.
    ValueError: it is neither a run nor a bundle, or an option is wrong.
    RuntimeError: the process was forked from one that has loaded a network.
  """
  check_process(first_process(), 'a network')
  folder = files.expand(source, 'the run or bundle')
  name = str(folder)
  options = {'prepare': 'use', 'batch_sizes': (), **options}
  if (folder / bundle.MANIFEST).exists():
    if best:
      raise ValueError(
        f'{name} is a bundle, and has no best checkpoint; export the run with'
        ' --checkpoint=best'
      )
    return Predictor(loading.load(name, **options), f'bundle {name}')
  if (folder / _CONFIG).exists():
    # Models and Flax are imported for runs alone.
    from slimjax.runtime.runs import read_run
    from slimjax.runtime.runs import run_network

    if options.pop('sha256', None) is not None:
      raise ValueError(
        f'{name} is a run, which changes as it is trained: only a bundle has a'
        ' sha256 to expect'
      )
    run = read_run(name, best=best)
    network = run_network(run, **options)
    said = f'run {name}, step {run.source["step"]}'
    return Predictor(network, said, run.data.decode)
  if not folder.exists():
    raise FileNotFoundError(f'there is no folder {name}')
  raise ValueError(
    f'{name} is neither a run (no {_CONFIG}) nor a bundle (no'
    f' {bundle.MANIFEST})'
  )
