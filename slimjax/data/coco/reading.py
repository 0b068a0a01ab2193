"""Reads a COCO file once, into flat arrays, and refuses what is wrong in it.

The file of COCO's training pictures has 450 MB of text: its objects are gone
when it is read, and what stays can be sent to worker processes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from slimjax.data.coco import checks
from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.checks import Problems
from slimjax.data.coco.masks import Masks
from slimjax.data.coco.ragged import Ragged
from slimjax.detection.rle import decode
from slimjax.detection.rle import mask_tools


def read_coco(
  path: epath.Path, *, masks: bool, keypoints: bool
) -> tuple[Annotations, Categories]:
  """Reads and checks a COCO file.

  Args:
    path: the file.
    masks: whether the masks are wanted; every object must have one then.
    keypoints: whether the keypoints are wanted. Only the categories that have
      some are read then, with their objects.

  Raises:
    ValueError: the file cannot be used; the text has the ids of the first
      annotations that are wrong, and what is wrong with them.
  """
  try:
    content = json.loads(path.read_bytes())
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise ValueError(f'{path} cannot be read: {reason}') from error
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  checks.check_parts(content, path)
  problems = Problems(path)
  categories = _categories(content['categories'], keypoints, problems)
  images = content['images']
  checks.check_images(images, problems)
  order = np.argsort([image['id'] for image in images], kind='stable')
  images = [images[i] for i in order]
  places = {image['id']: place for place, image in enumerate(images)}
  listed = {category['id'] for category in content['categories']}
  chosen = []
  for number, found in enumerate(content['annotations']):
    said = checks.check_annotation(found, places, listed)
    if said:
      problems.add(checks.name_of(found, 'annotation', number), said)
    elif found['category_id'] in categories.ids:
      chosen.append(found)
  problems.refuse()
  checks.check_ids(content['annotations'], 'annotation', problems)
  del content
  chosen.sort(key=lambda found: places[found['image_id']])
  sizes = [(image['height'], image['width']) for image in images]
  parts = {
    'masks': _masks(chosen, sizes, places, problems) if masks else None,
    'keypoints': (
      _keypoints(chosen, len(categories.keypoints), problems)
      if keypoints
      else None
    ),
  }
  problems.refuse()
  return _annotations(chosen, images, places, categories, parts), categories


def _annotations(
  chosen: Sequence[Mapping[str, Any]],
  images: Sequence[Mapping[str, Any]],
  places: Mapping[int, int],
  categories: Categories,
  parts: Mapping[str, Any],
) -> Annotations:
  counts = np.bincount(
    np.array([places[found['image_id']] for found in chosen], np.int64),
    minlength=len(images),
  )
  boxes = np.array([found['bbox'] for found in chosen], np.float64)
  boxes = boxes.reshape(-1, 4)
  areas = np.prod(boxes[:, 2:], axis=1)
  for i, found in enumerate(chosen):
    areas[i] = found.get('area', areas[i])
  labels = {id_: label for label, id_ in enumerate(categories.ids, 1)}
  return Annotations(
    image_ids=np.array([image['id'] for image in images], np.int64),
    files=np.array([image['file_name'].encode() for image in images]),
    sizes=np.array(
      [(image['height'], image['width']) for image in images], np.int32
    ).reshape(-1, 2),
    starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    ids=np.array([found['id'] for found in chosen], np.int64),
    boxes=boxes,
    labels=np.array([labels[x['category_id']] for x in chosen], np.int32),
    crowd=np.array([bool(x.get('iscrowd', 0)) for x in chosen], bool),
    areas=areas,
    **parts,
  )


def _categories(
  found: Sequence[Any], keypoints: bool, problems: Problems
) -> Categories:
  """Returns the categories, or those alone that have keypoints."""
  checks.check_categories(found, problems)
  names: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()
  if keypoints:
    found = [category for category in found if category.get('keypoints')]
    if not found:
      problems.add(
        'the categories',
        "none has 'keypoints', the names of its points; read it with"
        ' config.data.keypoints = False',
      )
      problems.refuse()
    names = tuple(found[0]['keypoints'])
    pairs = [(a - 1, b - 1) for a, b in found[0].get('skeleton') or ()]
    skeleton = tuple(pairs)
    for category in found:
      if tuple(category['keypoints']) != names:
        problems.add(
          f'category {category["id"]}',
          f'its keypoints are others than those of category {found[0]["id"]};'
          ' a network has one head for all',
        )
    problems.refuse()
  return Categories(
    ids=tuple(category['id'] for category in found),
    names=tuple(category['name'] for category in found),
    keypoints=names,
    skeleton=skeleton,
  )


def _masks(
  chosen: Sequence[Mapping[str, Any]],
  sizes: Sequence[tuple[int, int]],
  places: Mapping[int, int],
  problems: Problems,
) -> Masks:
  tools = mask_tools()
  points: list[np.ndarray] = []
  lengths: list[int] = []
  codes: list[bytes] = []
  counts = np.zeros((3, len(chosen)), np.int64)
  for i, found in enumerate(chosen):
    height, width = sizes[places[found['image_id']]]
    given = found.get('segmentation')
    said = checks.check_segmentation(given, height, width)
    if not said and isinstance(given, dict):
      code, said = _compress(tools, given, height, width)
      codes.append(code)
      counts[2, i] = len(code)
    if said:
      problems.add(f'annotation {found["id"]}', said)
    elif isinstance(given, list):
      polygons = [np.asarray(polygon, np.float64) for polygon in given]
      points += polygons
      lengths += map(len, polygons)
      counts[:2, i] = sum(map(len, polygons)), len(polygons)
  return Masks(
    Ragged.of(np.concatenate([np.zeros(0), *points]), counts[0]),
    Ragged.of(np.array(lengths, np.int32), counts[1]),
    Ragged.of(np.frombuffer(b''.join(codes), np.uint8), counts[2]),
  )


def _compress(tools, given, height: int, width: int) -> tuple[bytes, str]:
  """Returns a compressed run-length code, or what is wrong with it."""
  counts = given['counts']
  try:
    if isinstance(counts, list):
      coded = tools.frPyObjects(given, height, width)
    else:
      coded = {'size': [height, width], 'counts': counts.encode()}
    decode(coded)
  except (ValueError, TypeError, OverflowError) as error:
    return b'', f'its run-length code cannot be decoded: {error}'
  return coded['counts'], ''


def _keypoints(
  chosen: Sequence[Mapping[str, Any]], count: int, problems: Problems
) -> np.ndarray:
  points = np.zeros((len(chosen), count, 3), np.float32)
  for i, found in enumerate(chosen):
    given = found.get('keypoints')
    if given is None:  # groups have none
      continue
    said = checks.check_keypoints(given, count)
    if said:
      problems.add(f'annotation {found["id"]}', said)
    else:
      points[i] = np.reshape(given, (count, 3))
  return points
