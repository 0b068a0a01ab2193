"""Does bfloat16 compute cost accuracy? Digits, several seeds of each precision.

    python experiments/precision/measure.py --workdir=runs/precision

Trains configs/digits.py for every seed in float32 and in bfloat16 (parameters,
statistics and loss stay float32) and prints the table; --json=FILE writes the
numbers too. Runs that are finished are not repeated. See README.md.
"""

import argparse
import json
import pathlib
import statistics
import sys

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax import files
from slimjax.configs import digits
from slimjax.train import train_and_evaluate

DTYPES = ('float32', 'bfloat16')


def train(workdir, dtype, seed, epochs):
  """Returns {width: top-1 error} of one run; trains it if necessary."""
  config = digits.get_config()
  config.seed = seed
  config.epochs = epochs
  config.model.dtype = dtype
  path = workdir / f'{dtype}_{seed}'
  if not (path / 'results.json').exists():
    train_and_evaluate(config, path)
  results = json.loads((path / 'results.json').read_text())
  return {str(row['width']): row['top1_error'] for row in results}


def summarise(errors):
  """Returns {width: {dtype: mean and deviation, difference and its error}}."""
  seeds = errors[DTYPES[0]].keys()
  summary = {}
  for width in next(iter(errors[DTYPES[0]].values())):
    of = {d: [errors[d][s][width] for s in seeds] for d in DTYPES}
    differences = [b - a for a, b in zip(*of.values(), strict=True)]
    summary[width] = {
      **{
        d: {'mean': statistics.mean(e), 'deviation': statistics.stdev(e)}
        for d, e in of.items()
      },
      'difference': statistics.mean(differences),
      'standard_error': statistics.stdev(differences) / len(differences) ** 0.5,
    }
  return summary


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--workdir', type=pathlib.Path, required=True)
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--epochs', type=int, default=30)
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  errors = {dtype: {} for dtype in DTYPES}
  for seed in range(arguments.seeds):
    for dtype in DTYPES:
      errors[dtype][str(seed)] = train(
        arguments.workdir, dtype, seed, arguments.epochs
      )
  summary = summarise(errors)
  table = Table('width', *DTYPES, 'difference', title='test error, %')
  for width, row in summary.items():
    table.add_row(
      width,
      *(f'{row[d]["mean"]:.2f} ± {row[d]["deviation"]:.2f}' for d in DTYPES),
      f'{row["difference"]:+.2f} ± {row["standard_error"]:.2f}',
    )
  Console().print(table)
  if arguments.json:
    record = {'summary': summary, 'errors': errors}
    files.write_json(arguments.json, record, indent=1)


if __name__ == '__main__':
  main()
