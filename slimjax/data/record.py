"""Keeps what a run knows of its data: WORKDIR/data.json and data_samples.npz.

It is written when a run begins. A run that resumes, or is scored again, is held
against it, and what serves the run needs no data set any more.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import inspect
import io
import json
from typing import Any
import zipfile
import zlib

from etils import epath
import jax
import numpy as np

from slimjax import files
from slimjax.data import fingerprint
from slimjax.data.batches import Split
from slimjax.data.dataset import Dataset
from slimjax.data.folders import some
from slimjax.naming import name_of
from slimjax.naming import resolve

RECORD = 'data.json'
SAMPLES = 'data_samples.npz'
_SAMPLES = 8
_UNREADABLE = (
  ValueError,
  LookupError,
  EOFError,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclasses.dataclass(frozen=True)
class DataRecord:
  """A data set without its examples.

  Attributes:
    name: name of the data set in the configuration.
    num_classes: number of classes; 0 where there are none.
    class_names: one name per class, or empty.
    image_size: height and width in pixels, (height, width) if they differ.
    preprocessing: description of what `preprocess` does.
    examples: number of examples by split.
    fingerprints: hash by split of what its examples are: names and labels of
      files, arrays of what is held in memory; default: none.
    decode: see `slimjax.data.dataset.Dataset`; None where the data are no
      pictures, or where it has no name to find it by.
    preprocess: likewise; None where it has no name to find it by.
    samples: a few images of the test split, uint8 [n, h, w, 3], as evaluations
      see them; default: None, none could be read.
    category_ids, keypoint_names, skeleton: see `Dataset`; default: none.
  """

  name: str
  num_classes: int
  class_names: tuple[str, ...]
  image_size: int | tuple[int, int]
  preprocessing: str
  examples: Mapping[str, int]
  fingerprints: Mapping[str, str]
  decode: Callable[[bytes], np.ndarray] | None = None
  preprocess: Callable[[jax.Array], jax.Array] | None = None
  samples: np.ndarray | None = None
  category_ids: tuple[int, ...] = ()
  keypoint_names: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()


def record_of(dataset: Dataset) -> DataRecord:
  """Returns what a run keeps of a data set; reads a few images."""
  return DataRecord(
    name=dataset.name,
    num_classes=dataset.num_classes,
    class_names=tuple(dataset.class_names),
    image_size=dataset.image_size,
    preprocessing=dataset.preprocessing,
    examples=_examples(dataset),
    fingerprints=_fingerprints(dataset, dataset.splits),
    decode=dataset.decode,
    preprocess=dataset.preprocess,
    samples=_read_samples(dataset.splits['test']),
    category_ids=dataset.category_ids,
    keypoint_names=dataset.keypoint_names,
    skeleton=dataset.skeleton,
  )


def write_record(workdir: epath.PathLike, record: DataRecord) -> None:
  """Writes a record into the folder of a run, whole or not at all."""
  workdir = files.expand(workdir, 'workdir')
  if record.samples is not None:
    packed = io.BytesIO()
    np.savez_compressed(packed, images=record.samples)
    files.write_bytes(workdir / SAMPLES, packed.getvalue())
  else:
    files.remove(workdir / SAMPLES)
  # This file is the last: a folder without it has no record.
  fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
  files.write_json(
    workdir / RECORD,
    {
      **fields,
      'examples': dict(record.examples),
      'fingerprints': dict(record.fingerprints),
      'decode': _describe(record.decode),
      'preprocess': _describe(record.preprocess),
      'samples': None if record.samples is None else SAMPLES,
    },
  )


def read_record(workdir: epath.PathLike) -> DataRecord | None:
  """Returns the record of a run; None of a run by older code.

  Raises:
    ValueError: a record is there and cannot be used, such as one that names a
      function of the user's which is gone.
  """
  path = files.expand(workdir, 'workdir') / RECORD
  if not path.exists():
    return None
  try:
    fields = dict(json.loads(files.read_bytes(path)))
    fields = {name: _hashable(value) for name, value in fields.items()}
    samples = fields.pop('samples')
    decode, preprocess = fields.pop('decode'), fields.pop('preprocess')
    record = DataRecord(**fields)
  except (ValueError, TypeError, LookupError, RecursionError) as error:
    raise ValueError(_damaged(path, error)) from error
  return dataclasses.replace(
    record,
    samples=samples and _load_samples(path.with_name(samples)),
    decode=_make(decode, f'{path}: decode'),
    preprocess=_make(preprocess, f'{path}: preprocess'),
  )


def differences(
  record: DataRecord,
  dataset: Dataset,
  *,
  splits: Iterable[str] | None = None,
) -> list[str]:
  """Returns how a data set differs from a record, a line for each thing.

  Args:
    record: record of the run.
    dataset: the data set as it is now.
    splits: names of splits whose examples are compared; default: all.
  """
  lines = []
  if record.name != dataset.name:
    lines.append(_change('name', record.name, dataset.name))
  old, new = record.class_names, tuple(dataset.class_names)
  lines += _class_differences(old, new)
  if old == new and record.num_classes != dataset.num_classes:
    lines.append(
      _change('number of classes', record.num_classes, dataset.num_classes)
    )
  for what in ('image_size', 'preprocessing', 'keypoint_names'):
    before, now = getattr(record, what), getattr(dataset, what)
    if before != now:
      lines.append(_change(what.replace('_', ' '), before, now))
  for what in ('preprocess', 'decode'):
    before, now = (_describe(getattr(x, what)) for x in (record, dataset))
    if before and now and before != now:
      lines.append(_change(what, json.dumps(before), json.dumps(now)))
  return lines + _example_differences(record, dataset, splits)


def _change(what: str, before: Any, now: Any) -> str:
  return f'{what}: {before} before, {now} now'


def _class_differences(old: Sequence[str], new: Sequence[str]) -> list[str]:
  if old == new:
    return []
  lines = [
    f'classes {said}: {some(names)} ({len(old)} classes before, {len(new)} now)'
    for said, names in (
      ('added', [name for name in new if name not in old]),
      ('missing', [name for name in old if name not in new]),
    )
    if names
  ]
  return lines or [f'order of the classes: {some(old)} before, {some(new)} now']


def _example_differences(
  record: DataRecord, dataset: Dataset, splits: Iterable[str] | None
) -> list[str]:
  lines = []
  now = _examples(dataset)
  for name in {**record.examples, **now} if splits is None else splits:
    if (name in record.examples) != (name in now):
      said = 'is new' if name in now else 'is missing'
      lines.append(f'the split {name} {said}')
    elif name not in now:
      continue
    elif record.examples[name] != now[name]:
      before = f'{record.examples[name]:,}'
      lines.append(_change(f'examples of {name}', before, f'{now[name]:,}'))
    elif record.fingerprints[name] != _fingerprints(dataset, [name])[name]:
      lines.append(
        f'examples of {name}: as many as before, {now[name]:,}, but others'
        ' (names, labels or pixels differ)'
      )
  return lines


def _examples(dataset: Dataset) -> dict[str, int]:
  return {name: len(split) for name, split in dataset.splits.items()}


def _fingerprints(dataset: Dataset, names: Iterable[str]) -> dict[str, str]:
  found = {}
  for name in names:
    split = dataset.splits[name]
    make = getattr(split, 'fingerprint', None)
    # A split without one is known by its number of examples.
    found[name] = make() if make else fingerprint.of([b'%d' % len(split)])
  return found


def _read_samples(split: Split) -> np.ndarray | None:
  """Returns images from all over a split: its first may be all of one class.

  They are of one group, so that they have one size.
  """
  groups = getattr(split, 'groups', np.zeros(len(split), int))
  members = np.flatnonzero(groups == np.min(groups))
  places = np.linspace(0, len(members) - 1, min(_SAMPLES, len(members)))
  batch = split.read_eval(members[np.unique(places.astype(int))])
  images = np.asarray(batch['image'])[np.asarray(batch['mask'])]
  return images if len(images) else None


def _load_samples(path: epath.Path) -> np.ndarray | None:
  if not path.exists():
    return None
  content = io.BytesIO(files.read_bytes(path))
  try:
    with np.load(content, allow_pickle=False) as packed:
      return packed['images']
  except _UNREADABLE as error:
    raise ValueError(_damaged(path, error)) from error


def _damaged(path: epath.Path, error: Exception) -> str:
  return (
    f'{path} cannot be read ({error!r}). If you remove {RECORD}, a run that'
    ' resumes writes both again from its data set'
  )


# Functions by name


def _describe(function: Any) -> dict[str, Any] | None:
  """Returns {'name', 'options'} of a function, or a frozen dataclass's object.

  None where that would not give the same again.
  """
  if function is None:
    return None
  name, options = name_of(function), dict[str, Any]()
  if dataclasses.is_dataclass(function) and not isinstance(function, type):
    name = name_of(type(function))
    options = {
      field.name: getattr(function, field.name)
      for field in dataclasses.fields(function)
      if field.init
    }
  if name is None:
    return None
  try:
    described = json.loads(json.dumps({'name': name, 'options': options}))
  except (TypeError, ValueError):  # an option that JSON has not
    return None
  return described if _make(described, name) == function else None


def _make(described: Mapping[str, Any] | None, what: str) -> Any:
  """Returns the function or the object that `_describe` described.

  Raises:
    ValueError: there is nothing of that name.
  """
  if described is None:
    return None
  found = resolve(described['name'], {}, what)
  if not inspect.isclass(found):
    return found
  options = {key: _hashable(x) for key, x in described['options'].items()}
  try:
    return found(**options)
  except TypeError as error:
    raise ValueError(f'{what}: {error}') from error


def _hashable(value: Any) -> Any:
  """Returns lists as tuples, as they were before JSON."""
  return tuple(map(_hashable, value)) if isinstance(value, list) else value
