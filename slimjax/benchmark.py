"""Measures a bundle on this device, at every width; or the blocks of a run.

python -m slimjax.benchmark BUNDLE [--backend=onnxruntime] [--batch_sizes=1,8]
  [--record]
python -m slimjax.benchmark RUN --blocks [--batch_sizes=1] [--out=FILE]

Prints a table, and writes it as JSON (for `slimjax.runtime.Controller`) and as
a plot of error against latency; with --record also into the bundle's manifest,
beside the error of each width (of the first batch size). With --blocks it times
the blocks of a run's network, without its data: `slimjax.search` takes the file
as --device_table, on any machine.
"""

from collections.abc import Sequence

from absl import flags
import rich.console

from slimjax import cli
from slimjax import files
from slimjax import flag_lists
from slimjax.runtime import display
from slimjax.runtime import load
from slimjax.runtime import measure
from slimjax.runtime.backends import BACKENDS
from slimjax.runtime.measuring import record
from slimjax.searching.command import measure_run


def main(argv: Sequence[str]) -> None:
  folder = files.expand(argv[1], 'the bundle')
  batch_sizes = [int(size) for size in _BATCH_SIZES.value]
  if _BLOCKS.value:
    out = f'{_OUT.value or folder}.device_table.json'
    measure_run(folder, out, batch_size=batch_sizes[0])
    return
  network = load(
    folder,
    widths=_WIDTHS.value,
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
  display.print_table(table, console)
  console.print(str(network.memory()), highlight=False)
  suffix = '' if _BACKEND.value == 'jax' else f'.{_BACKEND.value}'
  stem = _OUT.value or f'{folder}{suffix}.benchmark'
  table.save(f'{stem}.json')
  display.plot(table, f'{stem}.png', title=folder.name)
  if _RECORD.value:
    manifest = record(table, folder, batch_sizes[0])
    console.print(f'sha256 {manifest.sha256}, now', highlight=False)
  console.print(f'written: {stem}.json, {stem}.png', highlight=False)


if __name__ == '__main__':
  _WIDTHS = flag_lists.define_widths('Widths to measure; all by default')
  _BATCH_SIZES = flag_lists.define_wholes(
    'batch_sizes', ['1'], 'Numbers of images in a request.'
  )
  _BACKEND = flags.DEFINE_enum(
    'backend', 'jax', list(BACKENDS), 'Backend that runs the bundle.'
  )
  _ROUNDS = flags.DEFINE_integer('rounds', 30, 'Turns of a width; at least 3.')
  _RECORD = flags.DEFINE_bool('record', False, 'Whether the bundle gets them.')
  _OUT = flags.DEFINE_string(
    'out',
    None,
    'Path of table and plot without suffix; else BUNDLE[.BACKEND].benchmark.',
  )
  _BLOCKS = flags.DEFINE_bool('blocks', False, 'Whether to time a run instead.')
  cli.run(main, positionals='BUNDLE')
