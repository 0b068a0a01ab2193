"""Damages the manifest and the files of a bundle."""

from collections.abc import Callable
from collections.abc import Iterator
import copy
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

Damage = Callable[[pathlib.Path], None]
Found = Iterator[tuple[str, str, Damage, str]]

# What stands in for a value of another type, or is no sense of its own.
_STRANGE = (
  None, True, False, -1, 0, 0.5, -0.25, 1e308, 2**70, '', 'x', '0.5', 'NaN',
  [], [None], [[]], {}, {'a': 1}, ['x', 'y'], '\0', '\ud800', 'y' * 20_000,
  [1, 2, 3], '../x',
)  # fmt: skip
_LITERALS = ('NaN', 'Infinity', '-Infinity', '1e999', '-1e999', '1' * 5000)


def rehash(content: dict[str, Any]) -> dict[str, Any]:
  """Returns a manifest with the digest that fits it."""
  rest = {key: value for key, value in content.items() if key != 'sha256'}
  text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
  return {**rest, 'sha256': hashlib.sha256(text.encode()).hexdigest()}


def write(folder: pathlib.Path, content: dict[str, Any]) -> None:
  (folder / 'manifest.json').write_text(json.dumps(rehash(content)))


def read(folder: pathlib.Path) -> dict[str, Any]:
  return json.loads((folder / 'manifest.json').read_text())


def refile(folder: pathlib.Path, name: str) -> None:
  """Writes size and hash of a file that was changed into the manifest."""
  data, content = (folder / name).read_bytes(), read(folder)
  digest = hashlib.sha256(data).hexdigest()
  content['files'][name] = {'bytes': len(data), 'sha256': digest}
  write(folder, content)


def paths(value: Any, start: tuple = ()) -> Iterator[tuple]:
  """Yields the path of every value inside a value."""
  items: Any = ()
  if isinstance(value, dict):
    items = value.items()
  elif isinstance(value, list):
    items = enumerate(value)
  for key, item in items:
    yield (*start, key)
    yield from paths(item, (*start, key))


def put(content: Any, path: tuple, value: Any) -> Any:
  """Returns a copy of the content with another value at a path."""
  content = copy.deepcopy(content)
  node = content
  for key in path[:-1]:
    node = node[key]
  node[path[-1]] = value
  return content


def get(content: Any, path: tuple) -> Any:
  for key in path:
    content = content[key]
  return content


def make(random: np.random.Generator, base: pathlib.Path) -> Found:
  """Yields (kind, name, damage, backend)."""
  yield from _types(random, base)
  yield from _numbers(random, base)
  yield from _structure(random, base)
  yield from _names(random)
  yield from _unhashed(random, base)


def _types(random, base) -> Found:
  """Yields values of wrong types, at places drawn by kind of field."""
  content = read(base)
  known = [p for p in paths(content) if p[0] not in ('sha256', 'format')]
  # One place of many alike is enough: each input, channel, class and file.
  alike: dict[tuple, list[tuple]] = {}
  for path in known:
    key = tuple(k for k in path if isinstance(k, str) and '/' not in k)
    alike.setdefault((*key, len(path)), []).append(path)
  for _ in range(220):
    places = list(alike.values())[random.integers(len(alike))]
    path = places[random.integers(len(places))]
    value = _STRANGE[random.integers(len(_STRANGE))]
    if type(value) is type(get(content, path)):
      value = None
    yield (
      'manifest: types',
      f'{".".join(map(str, path))} = {str(value)[:30]!r}',
      lambda f, p=path, v=value: write(f, put(read(f), p, v)),
      'jax',
    )


def _numbers(random, base) -> Found:
  """Yields values of the right type that make no sense."""
  entry = lambda i, name: ('widths', i, name)
  values = [
    *((entry(i, 'width'), v) for i in (0, 1) for v in (-1, 0, 0.75, 1e9)),
    *((entry(i, 'switch'), v) for i in (0, 1) for v in ('w075', 'W025', 'w')),
    *((entry(i, 'macs'), v) for i in (0, 1) for v in (-1, 1.5, 2**64, '1')),
    *((entry(i, 'params'), v) for i in (0, 1) for v in (-5, 0.1, 2**99)),
    *((entry(i, 'prepared_bytes'), v) for i in (0, 1) for v in (-1, 0, 7)),
    *((entry(i, 'latency_ms'), v) for i in (0, 1) for v in (-1, 0, 'fast')),
    *((entry(i, 'error'), v) for i in (0, 1) for v in ('low', True, [4.0])),
    *((entry(i, 'channels'), v) for i in (0, 1) for v in ([], [0], [8, 8])),
    *((('image_size',), v) for v in ([0, 32], [32], [32, 32, 3], [33, 32])),
    *((('image_size',), v) for v in ([-32, 32], [2**20, 32], [16, 16])),
    *((('batch_size',), v) for v in (0, -3, 1, 4, 1.0, 2**40)),
    *((('default_width',), v) for v in (0.3, -1, 'w050', [8], None)),
    *((('schema',), v) for v in (0, 4, 3.0, '3', True, None, [3], 10**30)),
    *((('platforms',), v) for v in ([], ['tpu'], ['cpu', 'cpu'], ['gpu'])),
    *((('outputs',), v) for v in ('boxes', None, 0)),
    *((('onnx_input',), v) for v in ('uint8', 'int8', '')),
    *((('input_range',), v) for v in ([1, 0], [0], [0, 0], 'x', [0, 1, 2])),
    *((('preprocesses',), v) for v in (1, 'yes', None)),
    *((('model', 'num_classes'), v) for v in (9, 0, -1, 1000, '10', 10.5)),
    *((('class_names',), v) for v in (['a'], list('01234567890'), [1] * 10)),
    *((('decode', 'size'), v) for v in (0, -32, 16, 10**9, 32.5)),
    *((('decode', 'resize'), v) for v in (0, 31, 10**9)),
    *((('headline', 'direction'), v) for v in ('down', '', 'MIN')),
    *((('widths',), v) for v in ([], {}, None)),
  ]
  for path, value in values:
    yield (
      'manifest: numbers',
      f'{".".join(map(str, path))} = {str(value)[:30]}',
      lambda f, p=path, v=value: write(f, put(read(f), p, v)),
      'onnxruntime' if path == ('onnx_input',) else 'jax',
    )
  fields = [*read(base)['widths'][0]]
  for number in range(1, 25):  # some fields of the two widths change places
    few = random.permutation(fields)[: random.integers(1, 4)].tolist()
    if not set(few) & {'width', 'switch', 'channels', 'predict', 'inputs'}:
      few.append('width')
    if {'width', 'switch', 'channels', 'prepared_bytes'} <= {*few}:
      continue
    yield (
      'manifest: exchanged',
      f'{number}: {", ".join(few)}',
      lambda f, few=few: _exchange(f, few),
      'jax',
    )


def _exchange(folder, fields):
  content = read(folder)
  one, other = content['widths']
  for name in fields:
    one[name], other[name] = other[name], one[name]
  write(folder, content)


def _structure(random, base) -> Found:
  content = read(base)
  places = [p for p in paths(content) if p[0] != 'sha256']

  def lose(folder, path):
    whole = read(folder)
    node = get(whole, path[:-1])
    del node[path[-1]]
    write(folder, whole)

  required = [
    p
    for p in places
    if p[0] in ('format', 'schema', 'widths', 'files', 'headline', 'decode')
    or (len(p) == 1 and p[0] not in ('sha256',))
    or p in (('model', 'num_classes'), ('model', 'class'))
  ]
  required = [
    p
    for p in required
    if isinstance(p[-1], str) and p[-1] not in ('latency_ms', 'orientation')
  ]
  for index in random.permutation(len(required))[:40]:
    path = required[index]
    yield (
      'manifest: structure',
      f'without {".".join(map(str, path))}',
      lambda f, p=path: lose(f, p),
      'jax',
    )
  for where in ((), ('widths', 0), ('headline',), ('decode',)):
    for key in ('extra', 'Width', '', 'a' * 5000, '\0'):
      path = (*where, key)
      yield (
        'manifest: structure',
        f'and {".".join(map(str, path))[:40]!r}',
        lambda f, p=path: write(f, put(read(f), p, 1)),
        'jax',
      )
  for index in random.permutation(len(places))[:20]:
    path = places[index]
    depth = int(random.choice([9, 100, 5_000, 200_000]))
    yield (
      'manifest: structure',
      f'{".".join(map(str, path))} nested {depth} deep',
      lambda f, p=path, d=depth: _splice(f, p, '[' * d + ']' * d),
      'jax',
    )
  numbers = [p for p in places if isinstance(get(content, p), (int, float))]
  for index in random.permutation(len(numbers))[:18]:
    path, literal = numbers[index], _LITERALS[index % len(_LITERALS)]
    yield (
      'manifest: structure',
      f'{".".join(map(str, path))} = {literal[:10]}',
      lambda f, p=path, x=literal: _splice(f, p, x),
      'jax',
    )
  for number in range(30):
    seed = int(random.integers(2**31))
    yield (
      'manifest: structure',
      f'bytes {number}',
      lambda f, s=seed: _bytes(f, s),
      'jax',
    )
  for key in ('widths', 'files', 'schema', 'image_size', 'class_names'):
    yield (
      'manifest: structure',
      f'{key} twice',
      lambda f, k=key: _twice(f, k),
      'jax',
    )
  yield 'manifest: structure', '300 MB', _huge, 'jax'


def _splice(folder, path, literal):
  """Writes JSON that `json.dumps` would not, with a digest if it has one."""
  content = put(read(folder), path, '<here>')
  text = json.dumps(rehash(content)).replace('"<here>"', literal)
  (folder / 'manifest.json').write_text(text)


def _twice(folder, key):
  content = read(folder)
  text = json.dumps(rehash(content))
  extra = json.dumps({key: content[key]})[1:-1]
  (folder / 'manifest.json').write_text('{' + extra + ', ' + text[1:])


def _huge(folder):
  with (folder / 'manifest.json').open('ab') as file:
    file.truncate(300_000_000)


def _bytes(folder, seed):
  """Damages the text: cut, flipped, filled with NUL, of another encoding."""
  random = np.random.default_rng(seed)
  path = folder / 'manifest.json'
  data = bytearray(path.read_bytes())
  place = int(random.integers(len(data)))
  how = random.integers(5)
  if how == 0:
    data = data[:place]
  elif how == 1:
    data[place] ^= 1 << int(random.integers(8))
  elif how == 2:
    data[place:] = bytes(len(data) - place)
  elif how == 3:
    data = bytearray(data.decode().encode('utf-16'))
  else:
    data[place:place] = bytes(random.integers(0, 256, 9).tolist())
  path.write_bytes(data)


def _names(random) -> Found:
  """Yields names of files that lead elsewhere, and files that are none."""
  names = [
    '\0', 'a\0b', 'x' * 5000, 'é' * 200, '\ud800', '..', '../base/x',
    '/etc/passwd',
    'a/../../x', './a', 'a//b', '', '.', 'con\\x', 'programs', 'a\nb', '~/x',
    'programs/', '\u202e', 'weights.safetensors/x', '/' * 300,
  ]  # fmt: skip
  for name in names:
    yield (
      'names and files',
      f'files has {name[:20]!r}',
      lambda f, n=name: write(f, _with_file(read(f), n)),
      'jax',
    )
    for field in ('prepare', 'predict', 'onnx'):
      yield (
        'names and files',
        f'{field} = {name[:20]!r}',
        lambda f, n=name, k=field: write(
          f, put(_with_file(read(f), n), ('widths', 0, k), n)
        ),
        'onnxruntime' if field == 'onnx' else 'jax',
      )
  files = [
    'weights.safetensors',
    'sample.safetensors',
    'programs/preprocess',
    'programs/w025.prepare',
    'programs/w050.predict',
    'manifest.json',
  ]
  ways: dict[str, Callable[[pathlib.Path], None]] = {
    'is gone': lambda p: p.unlink(),
    'is a folder': lambda p: (p.unlink(), p.mkdir()),
    'is a link to itself': lambda p: (p.unlink(), p.symlink_to(p)),
    'is a link out': lambda p: (
      p.rename(p.parent.parent / 'out'),
      p.symlink_to(p.parent.parent / 'out'),
    ),
    'is a pipe': lambda p: (p.unlink(), os.mkfifo(p)),
    'is empty': lambda p: p.write_bytes(b''),
    'links to a loop': lambda p: _loop(p),
  }
  for name in files:
    for way, change in ways.items():
      if name == 'manifest.json' and way == 'is a link out':
        continue
      if way == 'is a link out' and '/' in name:
        continue
      yield (
        'names and files',
        f'{name} {way}',
        lambda f, n=name, c=change: c(f / n),
        'jax',
      )


def _loop(path):
  path.unlink()
  other = path.with_name('other')
  other.symlink_to(path)
  path.symlink_to(other)


def _with_file(content, name):
  content['files'][name] = {'bytes': 1, 'sha256': '0' * 64}
  return content


def _unhashed(random, base) -> Found:
  """Yields changes without a new hash, which any reader must see."""
  names = sorted(read(base)['files'])
  for _ in range(40):
    name = names[random.integers(len(names))]
    place, bit = random.random(), int(random.integers(8))
    yield (
      'a bit, hash as it was',
      f'{name} at {place:.3f}',
      lambda f, n=name, p=place, b=bit: flip(f / n, p, b),
      'jax',
    )


def flip(path: pathlib.Path, place: float, bit: int) -> None:
  """Flips a bit of a file, at a share of its length."""
  data = bytearray(path.read_bytes())
  data[int(place * len(data))] ^= 1 << bit
  path.write_bytes(bytes(data))
