"""Compares finished runs with the published rows of their configurations.

python -m slimjax.report runs/resnet50_seed0 runs/resnet50_seed1

Runs that differ in nothing but the seed are one entry: the mean of their errors
and its standard deviation. The exit status is 1 if a run is not finished, or
has other MACs or parameters than the published network.
"""

from collections.abc import Sequence

from absl import flags
import rich.console

from slimjax import cli
from slimjax import files
from slimjax.analysis import compare
from slimjax.analysis import showing


def main(argv: Sequence[str]) -> None:
  entries, missing = [], []
  for workdir in argv[1:]:
    try:
      entries.append(compare.read(workdir))
    except FileNotFoundError as error:
      missing.append(str(error))
  console = rich.console.Console()
  comparisons = [compare.compare(entry) for entry in compare.group(entries)]
  for comparison in comparisons:
    showing.show(comparison, console)
  for line in missing:
    showing.say(console, line, style='red')
  if _JSON.value:
    records = [comparison.as_json() for comparison in comparisons]
    files.write_json(_JSON.value, records, indent=1)
  if missing or any(comparison.wrong_counts for comparison in comparisons):
    raise SystemExit(1)


if __name__ == '__main__':
  _JSON = flags.DEFINE_string(
    'json', None, 'File to write the numbers to as JSON. Default: none.'
  )
  cli.run(main, positionals='WORKDIR...')
