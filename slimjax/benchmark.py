"""Measures a bundle on this device, at every width.

python -m slimjax.benchmark BUNDLE [--backend=onnxruntime] [--batch_sizes=1,8]

Prints a table, and writes it as JSON (for `slimjax.runtime.Controller`) and as
a plot of error against latency.
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags
from absl import logging
import rich.console

from slimjax.runtime import load
from slimjax.runtime import measure
from slimjax.runtime import report
from slimjax.runtime.network import BACKENDS
from slimjax.widths import canonical


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) != 2:
    raise app.UsageError('one argument is needed: the folder of the bundle')
  folder = pathlib.Path(argv[1])
  batch_sizes = [int(size) for size in _BATCH_SIZES.value]
  network = load(
    folder,
    widths=[canonical(width) for width in _WIDTHS.value],
    backend=_BACKEND.value,
    batch_sizes=batch_sizes,
  )
  console = rich.console.Console()
  with console.status('measuring') as status:
    table = measure(
      network,
      batch_sizes=batch_sizes,
      rounds=_ROUNDS.value,
      on_round=lambda done, of: status.update(f'round {done} of {of}'),
    )
  report.print_table(table, console)
  console.print(str(network.memory()), highlight=False)
  suffix = '' if _BACKEND.value == 'jax' else f'.{_BACKEND.value}'
  stem = _OUT.value or f'{folder}{suffix}.benchmark'
  table.save(f'{stem}.json')
  report.plot(table, pathlib.Path(f'{stem}.png'), title=folder.name)
  console.print(f'written: {stem}.json, {stem}.png', highlight=False)


if __name__ == '__main__':
  _WIDTHS = flags.DEFINE_list('widths', [], 'Default: all the bundle has.')
  _BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['1'], 'Images in a request.')
  _BACKEND = flags.DEFINE_enum(
    'backend', 'jax', list(BACKENDS), 'What runs it.'
  )
  _ROUNDS = flags.DEFINE_integer('rounds', 30, 'Turns of every width.')
  _OUT = flags.DEFINE_string(
    'out', None, 'Path without suffix. Default: BUNDLE.benchmark.'
  )
  app.run(main)
