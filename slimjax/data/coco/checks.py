"""Says what is wrong in a COCO file, with the id of what it is wrong in."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from etils import epath

from slimjax.data.folders import some

_LEAST_POLYGON = 6  # numbers: three points
_PARTS = ('images', 'annotations', 'categories')


class Problems:
  """Collects what is wrong in a file; the first few are said."""

  def __init__(self, path: epath.Path):
    self._path = path
    self._said: list[str] = []

  def add(self, where: str, what: str) -> None:
    """Adds a problem, such as ('annotation 17', 'it has no bbox')."""
    self._said.append(f'{where}: {what}')

  def refuse(self) -> None:
    """Raises ValueError if there is a problem."""
    if self._said:
      raise ValueError(f'{self._path} {some(self._said, "; ")}')


def name_of(found: Any, kind: str, number: int) -> str:
  """Returns how errors call a thing: by its id, or else by its place."""
  id_ = found.get('id') if isinstance(found, dict) else None
  return f'{kind} number {number + 1}' if id_ is None else f'{kind} {id_}'


def check_parts(content: Any, path: epath.Path) -> None:
  """Raises ValueError unless a file holds lists of the three parts."""
  parts = content if isinstance(content, dict) else {}
  missing = [part for part in _PARTS if not isinstance(parts.get(part), list)]
  if missing:
    raise ValueError(
      f'{path} is no COCO file: it has no list of {" and ".join(missing)}'
      + (
        '. A list of detections alone holds results, not annotations'
        if isinstance(content, list)
        else ''
      )
    )
  if not content['images'] or not content['categories']:
    empty = 'images' if not content['images'] else 'categories'
    raise ValueError(f'{path} lists no {empty}')


def check_ids(found: Sequence[Any], kind: str, problems: Problems) -> None:
  """Raises ValueError with the ids that are there twice."""
  seen: set[int] = set()
  for thing in found:
    if thing['id'] in seen:
      problems.add(f'{kind} {thing["id"]}', 'its id is there twice')
    seen.add(thing['id'])
  problems.refuse()


def check_categories(found: Sequence[Any], problems: Problems) -> None:
  """Raises ValueError with what is wrong with the categories."""
  names: dict[str, Any] = {}
  for number, category in enumerate(found):
    where = name_of(category, 'category', number)
    said = _check_entry(category) or _check_name(category, 'name')
    if said:
      problems.add(where, said)
      continue
    name, points = category['name'], category.get('keypoints') or []
    if name in names:
      problems.add(where, f'has the name of category {names[name]}, {name!r}')
    names[name] = category['id']
    if not isinstance(points, list) or not all(
      isinstance(point, str) for point in points
    ):
      problems.add(where, f'keypoints must be names, got {points!r}')
      continue
    for pair in category.get('skeleton') or ():
      if not _is_pair(pair, len(points)):
        problems.add(
          where,
          'skeleton must be pairs of numbers from 1 to'
          f' {len(points)}, got {pair!r}',
        )
  problems.refuse()
  check_ids(found, 'category', problems)


def check_images(found: Sequence[Any], problems: Problems) -> None:
  """Raises ValueError with what is wrong with the list of pictures."""
  for number, image in enumerate(found):
    said = _check_entry(image) or _check_name(image, 'file_name')
    for side in ('height', 'width'):
      if not said and not _is_whole(image.get(side), 1):
        said = f'{side} must be pixels, got {image.get(side)!r}'
    if said:
      problems.add(name_of(image, 'image', number), said)
  problems.refuse()
  check_ids(found, 'image', problems)


def check_annotation(
  found: Any, images: Collection[int], categories: Collection[int]
) -> str:
  """Returns what is wrong with an annotation, or ''.

  Args:
    found: the annotation.
    images: ids of the pictures.
    categories: ids of the categories.
  """
  if said := _check_entry(found):
    return said
  for key, known in (('image_id', images), ('category_id', categories)):
    id_ = found.get(key)
    if not _is_whole(id_) or id_ not in known:
      return f'{key} {id_!r} is not in the file'
  box = found.get('bbox')
  if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
    return f'bbox must be [x, y, width, height], got {box!r}'
  if box[2] < 0 or box[3] < 0:
    return f'bbox has a negative side: {box!r}'
  area = found.get('area', 0)
  if not _are_numbers([area]) or area < 0:
    return f'area must be a number from 0 up, got {area!r}'
  crowd = found.get('iscrowd', 0)
  return '' if crowd in (0, 1) else f'iscrowd must be 0 or 1, got {crowd!r}'


def check_segmentation(given: Any, height: int, width: int) -> str:
  """Returns what is wrong with a mask, or ''.

  Args:
    given: polygons or a run-length code.
    height, width: size of the picture.
  """
  if not given:
    return (
      'it has no segmentation; give it one, or read boxes alone'
      ' (config.data.masks = False)'
    )
  if isinstance(given, list):
    for polygon in given:
      if not isinstance(polygon, list) or not _are_numbers(polygon):
        return 'segmentation must be lists of x, y, x, y, ...'
      if len(polygon) < _LEAST_POLYGON:
        return f'a polygon has {len(polygon) / 2:g} points; three are the least'
      if len(polygon) % 2:
        return f'a polygon has {len(polygon)} numbers, which are no pairs'
    return ''
  if not isinstance(given, dict) or not {'size', 'counts'} <= given.keys():
    return (
      'segmentation must be polygons, or a code with size and counts, got'
      f' {type(given).__name__}'
    )
  if given['size'] != [height, width]:
    return (
      f'the size of its mask is {given["size"]}, but that of the picture'
      f' [{height}, {width}]'
    )
  counts = given['counts']
  if isinstance(counts, str):
    return '' if counts.isascii() else 'its run-length code is no text of COCO'
  if (
    not isinstance(counts, list)
    or not all(_is_whole(count) for count in counts)
    or sum(counts) != height * width
  ):
    return (
      'the counts of its run-length code must add up to the'
      f' {height * width} pixels of the picture'
    )
  return ''


def check_keypoints(given: Any, count: int) -> str:
  """Returns what is wrong with the keypoints of an object, or ''.

  Args:
    given: x, y, visibility of each.
    count: number of keypoints that the category has.
  """
  if not isinstance(given, list) or not _are_numbers(given):
    return 'keypoints must be numbers x, y, visibility, ...'
  if len(given) != 3 * count:
    return (
      f'keypoints has {len(given)} numbers, but its category has {count}'
      f' keypoints, which are {3 * count}'
    )
  wrong = sorted({*given[2::3]} - {0, 1, 2})
  return (
    f'the visibility of a keypoint must be 0, 1 or 2, got {wrong[0]!r}'
    if wrong
    else ''
  )


def _check_entry(found: Any) -> str:
  if not isinstance(found, dict):
    return f'must be an object with keys, got {type(found).__name__}'
  if not _is_whole(found.get('id')):
    return f'id must be a whole number, got {found.get("id")!r}'
  return ''


def _check_name(found: Mapping[str, Any], key: str) -> str:
  name = found.get(key)
  good = isinstance(name, str) and name
  return '' if good else f'{key} must be a text, got {name!r}'


def _is_whole(value: Any, least: int = 0) -> bool:
  whole = isinstance(value, int) and not isinstance(value, bool)
  return whole and least <= value < 2**63


def _are_numbers(values: Sequence[Any]) -> bool:
  try:
    return all(
      type(value) in (int, float) and math.isfinite(value) for value in values
    )
  except OverflowError:  # a whole number beyond what floats hold
    return False


def _is_pair(pair: Any, count: int) -> bool:
  return (
    isinstance(pair, list)
    and len(pair) == 2
    and all(_is_whole(end, 1) and end <= count for end in pair)
  )
