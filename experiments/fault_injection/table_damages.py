"""Damages the table of a benchmark."""

from collections.abc import Callable
from collections.abc import Iterator
import json
from typing import Any

from manifest_damages import put
import numpy as np

Damage = Callable[[bytes], bytes]


def make(
  random: np.random.Generator, content: Any
) -> Iterator[tuple[str, str, Damage]]:
  """Yields (kind, name, damage), a damage from bytes to bytes."""
  rows = range(len(content['rows']))
  wrong: dict[str, tuple] = {
    'width': (-1, 0, 'x', None, True, [], [0], [1.5], 1e9),
    'batch_size': (0, -1, 1.5, '1', None, True),
    'p50_ms': (0, -1, 1e300, None, '3', True, [1]),
    'p95_ms': (0, -1, 1e-9, None, 'x', {}),
    'p99_ms': (0, -1, 1e-9, None, False),
    'p50_ci': ([], [1], [2, 1], [0, 1], 'ab', None, [1, 2, 3], [1, None]),
    'p95_ci': ([-1, 1], {}, [3, 'x'], 5),
    'p99_ci': ([[1], 2], None, [True, 2]),
    'images_per_second': (0, -1, 1e300, None, 'fast'),
    'requests': (0, -3, 2.5, None, '30'),
    'compile_s': (-1, 'x', True, [1]),
    'weight_bytes': (-1, 0.5, None, '1 MB', 2**70),
    'temp_bytes': (-1, 0.5, 'x', 2**70),
    'macs': (-1, 1e6 + 0.5, None, 'x', 2**70),
    'params': (-1, 0.5, None, 'x'),
    'error': ('x', True, [5.0], {}),
  }
  damages: list[tuple[str, str, Damage]] = []
  for name, values in wrong.items():
    for value in values:
      row = int(random.choice(rows))
      damages.append(_value(('rows', row, name), value))
    damages.append(_literal(int(random.choice(rows)), name, random))
    damages.append(_lost(int(random.choice(rows)), name))
  for path, values in {
    ('schema',): (0, 3, '1', None, True, 1.0, [1]),
    ('rows',): ([], {}, None, 'x', [None], [[]], [{}]),
    ('device',): (None, 3, '\0', 'x' * 5000),
    ('backend',): ('torch', '', None, 1),
    ('measured',): ('yesterday', '', None, 20260101),
    ('versions',): (None, [], {'jax': 1}, {'': None}),
    ('headline',): (None, 'error', {}, {'title': 'x'}),
    ('headline', 'direction'): ('up', None, 1),
    ('extra',): (1,),
    ('rows', 0, 'extra'): (1,),
  }.items():
    damages += [_value(path, value) for value in values]
  damages.append(('table', 'a row twice', _edit(_twice)))
  damages.append(('table', 'another error at batch 2', _edit(_contradict)))
  for data in (b'', b'[]', b'null', b'{', b'\xff\xfe', b'[' * 100_000, b'3'):
    damages.append(('table', f'{data[:9]!r}', lambda _, d=data: d))
  for _ in range(171 + 9 - len(damages)):
    place = random.random()
    damages.append(('table', f'cut at {place:.3f}', _cut(place)))
  yield from damages


def _edit(change: Callable[[Any], Any]) -> Damage:
  return lambda data: json.dumps(change(json.loads(data))).encode()


def _value(path, value):
  name = f'{".".join(map(str, path))} = {str(value)[:30]}'
  return 'table', name, _edit(lambda content: put(content, path, value))


def _literal(row, name, random):
  literal = str(random.choice(['NaN', 'Infinity', '-Infinity', '1e999']))

  def damage(data):
    path = ('rows', row, name)
    text = json.dumps(put(json.loads(data), path, '<here>'))
    return text.replace('"<here>"', literal).encode()

  return 'table', f'rows.{row}.{name} = {literal}', damage


def _lost(row, name):
  def change(content):
    del content['rows'][row][name]
    return content

  return 'table', f'without rows.{row}.{name}', _edit(change)


def _twice(content):
  content['rows'].append(content['rows'][0])
  return content


def _contradict(content):
  content['rows'][1]['error'] = 50.0
  return content


def _cut(place):
  return lambda data: data[: int(place * len(data))]
