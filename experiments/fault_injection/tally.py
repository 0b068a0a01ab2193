"""Counts what `inject` and `mutate` found, and writes result.json.

python experiments/fault_injection/tally.py WORKDIR...
"""

from collections import Counter
from collections.abc import Iterable
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax import files

HERE = pathlib.Path(__file__).resolve().parent


def read(paths: Iterable[pathlib.Path], name: str) -> list[dict[str, Any]]:
  """Returns the records of files such as points-0.jsonl in these folders."""
  found = [file for path in paths for file in sorted(path.glob(name))]
  return [json.loads(line) for file in found for line in file.open()]


def tally_points(records: list[dict[str, Any]]) -> dict[str, Counter]:
  """Returns counts by program and by fault."""
  rows = [record['program'] for record in records]
  rows += [record['fault'] for record in records]
  table = {row: Counter[str]() for row in sorted(set(rows), key=rows.index)}
  # Workers with other seeds may have met the same point.
  points = {(r['program'], r['site'], r['fault']): r for r in records}
  for record in points.values():
    for row in (record['program'], record['fault'], 'all'):
      counts = table.setdefault(row, Counter())
      counts['points'] += 1
      counts[record['first']] += 1
      counts['wrong'] += bool(record.get('wrong'))
      counts['lost'] += bool(record.get('lost'))
      counts['not again'] += record['again'] != 'done'
  return table


def tally_mutations(records: list[dict[str, Any]]) -> dict[str, Counter]:
  """Returns counts by kind and reader."""
  table: dict[str, Counter] = {}
  for record in records:
    for row in (record['kind'], 'all'):
      counts = table.setdefault(row, Counter())
      counts['mutations'] += 1
      for reader in record.keys() - {'kind', 'where'}:
        who = reader if reader in ('read', 'resumed') else 'others'
        counts[f'{who}: {record[reader]}'] += 1
  return table


def markdown(table: dict[str, Counter]) -> str:
  """Returns a table with a row for each name, and one for all at the end."""
  last = table.pop('all')
  table = {**table, 'all': last}
  columns = list(dict.fromkeys(name for row in table.values() for name in row))
  columns[1:] = sorted(columns[1:])
  lines = [['', *columns], ['---'] * (len(columns) + 1)]
  for name, counts in table.items():
    lines.append([name, *(str(counts[column]) for column in columns)])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main() -> None:
  folders = [pathlib.Path(argument) for argument in sys.argv[1:]]
  points = tally_points(read(folders, 'points-*.jsonl'))
  mutations = tally_mutations(read(folders, 'mutations-*.jsonl'))
  files.write_json(
    HERE / 'result.json', {'points': points, 'mutations': mutations}, indent=1
  )
  made = [table for table in (points, mutations) if table]
  print(*map(markdown, made), sep='\n\n')


if __name__ == '__main__':
  main()
