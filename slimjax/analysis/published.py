"""Finds the published results that a run is to be compared with.

The tables are in published.json, each with its source.
"""

from collections.abc import Mapping
import dataclasses
import functools
from importlib import resources
import json
from typing import Any

from slimjax import configuration
from slimjax.models.mobilenet_v2 import SHARED_TAIL

NAMES = {
  'mobilenet_v1': 'MobileNet v1',
  'mobilenet_v2': 'MobileNet v2',
  'shufflenet': 'ShuffleNet',
  'resnet50': 'ResNet-50',
}
DETECTORS = {
  'faster_rcnn': 'Faster R-CNN',
  'mask_rcnn': 'Mask R-CNN',
  'keypoint_rcnn': 'Keypoint R-CNN',
}
# Our names of the scores in table 5.
_AVERAGE_PRECISIONS = {
  'box': 'box_ap', 'mask': 'mask_ap', 'keypoints': 'keypoint_ap',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PublishedRow:
  """A published network.

  Attributes:
    title: name of the network.
    source: source of the errors.
    errors: the headline by width, percent: top-1 errors on ImageNet, or box AP
      on COCO.
    macs: multiply-accumulates at 224 pixels, millions, by width, if published.
    params: parameters of convolutions and classifier, likewise.
    total_params: parameters of the whole slimmable network, millions, or None.
    recipe: parts of the configuration that it was trained with.
    headline: our name of the score that `errors` are; default: top1_error.
    measured: what that is, in words; default: top-1 error on ImageNet.
    others: further scores by our names, each by width; default: none.
    begins: what the network begins with, if not from random weights; default:
      nothing.
  """

  title: str
  source: str
  errors: Mapping[Any, float]
  macs: Mapping[Any, float]
  params: Mapping[Any, float]
  total_params: float | None
  recipe: Mapping[str, Any]
  headline: str = 'top1_error'
  measured: str = 'top-1 error on ImageNet'
  others: Mapping[str, Mapping[Any, float]] = dataclasses.field(
    default_factory=dict
  )
  begins: str | None = None


@functools.cache
def tables() -> dict[str, Any]:
  """Returns the content of published.json."""
  path = resources.files('slimjax.analysis') / 'published.json'
  return json.loads(path.read_text())


def find(run: configuration.Run) -> PublishedRow | None:
  """Returns the published row of a run's architecture and widths, or None.

  `differences` says whether the run can be compared with it.
  """
  name = run.model['name']
  if name in DETECTORS:
    return _detector(run)
  if name not in NAMES:
    return None
  table = _by_width(tables()['imagenet'][name])
  widths = {w for w in run.model['widths'] if isinstance(w, float | int)}
  if len(widths) != len(run.model['widths']):
    return _found_by_autoslim(run)
  shared = tuple(run.model.get('shared', ()))
  title, source = f'S-{NAMES[name]}', tables()['imagenet']['source']
  total = tables()['slimmable_params_m'][name]
  eight = tables()['eight_switch_mobilenet_v1']
  affine = tables()['shared_affine_mobilenet_v1']
  if len(widths) == 1 and widths <= table.keys():
    title, total = NAMES[name], None
    errors = {w: table[w]['individual'] for w in widths}
  elif widths == table.keys() and shared in _SHARED[name]:
    errors = {w: row['slimmable'] for w, row in table.items()}
  elif (name, shared) == ('mobilenet_v1', ('norm',)) and widths == table.keys():
    title += ', scale and bias shared'
    source, total = affine['source'], None
    errors = _by_width(affine['shared'])
  elif (name, shared) == ('mobilenet_v1', ()) and widths == set(
    _by_width(eight)
  ):
    title += ', 8 switches'
    source, total = eight['source'], None
    errors = _by_width(eight)
  else:
    return None
  return PublishedRow(
    title=title,
    source=source,
    errors=errors,
    macs={w: table[w]['macs'] for w in errors if w in table},
    params={w: table[w]['individual_params_m'] for w in errors if w in table},
    total_params=total,
    recipe=tables()['recipes'][name],
  )


def _detector(run: configuration.Run) -> PublishedRow | None:
  """Returns the row of table 5 of a detector's run, or None."""
  name, coco = run.model['name'], tables()['coco']
  widths = run.model['widths']
  backbone = run.model.get('backbone')
  if backbone != coco['backbone'] or run.model.get('shared'):
    return None
  if len(widths) == 1 and widths[0] in coco['widths']:
    kind, title = 'individual', DETECTORS[name]
  elif set(widths) == set(coco['widths']):
    kind, title = 'slimmable', f'S-{DETECTORS[name]}'
  else:
    return None
  scores = {
    _AVERAGE_PRECISIONS[part]: {
      width: value
      for width, value in zip(coco['widths'], kinds[kind], strict=True)
      if width in widths
    }
    for part, kinds in coco[name].items()
  }
  return PublishedRow(
    title=f'{title} with {NAMES[backbone]}',
    source=coco['source'],
    errors=scores.pop('box_ap'),
    macs={},
    params={},
    total_params=None,
    recipe=tables()['recipes'][name],
    headline='box_ap',
    measured='box AP on COCO',
    others=scores,
    begins=f'{"an S-" if kind == "slimmable" else "a "}{NAMES[backbone]}',
  )


def autoslim(name: str) -> dict[tuple[int, ...], Mapping[str, Any]]:
  """Returns the networks that AutoSlim found, by the channels of the layers.

  Args:
    name: name of the model.
  """
  rows = tables()['autoslim'].get(name, [])
  # The last of the published channels are the classes.
  return {tuple(row['channels'][:-1]): row for row in rows}


def _found_by_autoslim(run: configuration.Run) -> PublishedRow | None:
  """Returns the row of networks that AutoSlim found, trained from scratch."""
  name = run.model['name']
  rows = autoslim(name)
  widths = [
    tuple(width) if isinstance(width, list | tuple) else width
    for width in run.model['widths']
  ]
  if any(width not in rows for width in widths) or run.model.get('shared'):
    return None
  return PublishedRow(
    title=f'AutoSlim-{NAMES[name]}',
    source=tables()['autoslim']['source'],
    errors={width: rows[width]['error'] for width in widths},
    macs={width: rows[width]['macs'] for width in widths},
    params={},
    total_params=None,
    recipe=tables()['recipes']['autoslim'],
  )


# The published code shares the tail of MobileNet v2; the paper does not.
_SHARED: dict[str, tuple[tuple[str, ...], ...]] = {
  **dict.fromkeys(NAMES, ((),)),
  'mobilenet_v2': ((), SHARED_TAIL),
}


def differences(row: PublishedRow, run: configuration.Run) -> list[str]:
  """Returns a line for each part of the published recipe that a run changes."""
  ours = dataclasses.asdict(run)
  lines: list[str] = []
  for key, value in row.recipe.items():
    parts = value if isinstance(value, dict) else {'': value}
    for part, published in parts.items():
      given = ours[key].get(part) if part else ours[key]
      if given != published:
        where = f'config.{key}' + (f'.{part}' if part else '')
        lines.append(f'{where}: {given} here, {published} published')
  source = run.init.get('source')
  if (source is None) != (row.begins is None):
    lines.append(
      f'config.init.source: {source or "none"} here, {row.begins or "none"}'
      ' published'
    )
  other = [line for line in lines if line.startswith('config.data.name:')]
  if other:  # then nothing else matters
    return [f'{other[0]}; {len(lines) - 1} other parts of the recipe differ']
  return lines


def same_size(row: PublishedRow, run: configuration.Run) -> bool:
  """Returns whether images, classes and network have the published size.

  If so, MACs and parameters must be the published ones, whatever the recipe.
  """
  size = row.recipe['data'].get('image_size')
  if size is None:  # nothing is published of detectors' sizes
    return False
  model = row.recipe['model']
  return run.data.get('image_size') == size and all(
    run.model.get(part) == model[part] for part in ('num_classes', 'small_stem')
  )


def same_data(row: PublishedRow, run: configuration.Run) -> bool:
  """Returns whether a run is evaluated as the row was, however trained."""
  data = row.recipe['data']
  return same_size(row, run) and all(
    run.data.get(part) == data[part]
    for part in ('name', 'resize', 'test_split')
  )


def same_macs(macs: int, printed: float) -> bool:
  """Returns whether `macs` are the published millions.

  Equality in the printed digits, or within 1 %, is enough: some published
  numbers are cut off, or count more than the products.
  """
  digits = len(f'{printed:.0f}'.rstrip('0'))
  return (
    float(f'{macs / 1e6:.{digits}g}') == printed
    or abs(macs / 1e6 / printed - 1) < 0.01
  )


def same_params(params: int, printed: float) -> bool:
  """Returns whether `params` are the published millions, to one decimal."""
  return f'{params / 1e6:.1f}' == f'{printed:.1f}'


def _by_width(table: Mapping[str, Any]) -> dict[float, Any]:
  return {float(w): row for w, row in table.items() if w[0].isdigit()}
