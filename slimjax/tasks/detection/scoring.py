"""Scores detections by pycocotools, and writes them in COCO's format.

All numbers of COCO's evaluation are in percent: AP is the precision averaged
over recalls, classes and ten thresholds of overlap.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import io
from typing import Any

from etils import epath
import numpy as np

from slimjax import files
from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.split import PIXEL
from slimjax.data.coco.writing import as_coco
from slimjax.detection.detected import Detected
from slimjax.detection.rle import as_text
from slimjax.detection.rle import mask_tools

# The names of COCOeval.stats.
_OF_BOXES = (
  *('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large'),
  *('ar1', 'ar10', 'ar100', 'ar_small', 'ar_medium', 'ar_large'),
)
_OF_POINTS = (
  *('ap', 'ap50', 'ap75', 'ap_medium', 'ap_large'),
  *('ar', 'ar50', 'ar75', 'ar_medium', 'ar_large'),
)
# What is scored: the prefix of its numbers, COCO's name of it, its numbers.
_KINDS = {
  'bbox': ('box', _OF_BOXES),
  'segm': ('mask', _OF_BOXES),
  'keypoints': ('keypoint', _OF_POINTS),
}
_COCO_POINTS = 17  # their deviations are pycocotools' own
# Of other keypoints: about that of a wrist or an elbow, relative to the size.
_DEVIATION = 0.06


def coco_scores(
  found: Sequence[Detected],
  annotations: Annotations,
  categories: Categories,
  *,
  deviations: Sequence[float] = (),
) -> dict[str, float]:
  """Returns the numbers of COCO's evaluation, in percent.

  Boxes are scored always, masks and keypoints where both detections and
  annotations have them. A number that no object counts for, such as that of
  large ones where there are none, is missing.

  Args:
    found: detections of each picture that is scored; others do not count.
    annotations: all pictures, with crowds.
    categories: classes that the labels stand for.
    deviations: how exactly each keypoint is annotated, relative to the object's
      size (COCO's sigmas); default: COCO's own for its 17, 0.06 for others.

  Returns:
    {'box_ap', 'box_ap50', ..., 'mask_ap', ..., 'keypoint_ap', ...}.
  """
  mask_tools()  # says how pycocotools is installed
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  kinds = ['bbox']
  if annotations.masks is not None and _all_have(found, 'masks'):
    kinds.append('segm')
  if annotations.keypoints is not None and _all_have(found, 'keypoints'):
    kinds.append('keypoints')
  scored = annotations.take(np.array([d.picture for d in found], int))
  scores: dict[str, float] = {}
  with contextlib.redirect_stdout(io.StringIO()):  # it prints a lot
    truth = COCO()
    truth.dataset = as_coco(scored, categories)
    truth.createIndex()
    for kind in kinds:
      results = list(_results(found, annotations, categories, [kind]))
      evaluation = COCOeval(truth, _load(COCO, truth, results), kind)
      if kind == 'keypoints':
        evaluation.params.kpt_oks_sigmas = _deviations(
          deviations, len(categories.keypoints), evaluation.params
        )
      evaluation.evaluate()
      evaluation.accumulate()
      evaluation.summarize()
      prefix, names = _KINDS[kind]
      scores |= {
        f'{prefix}_{name}': 100.0 * float(value)
        for name, value in zip(names, evaluation.stats, strict=True)
        if value >= 0.0  # -1 where nothing counts
      }
  return scores


def write_results(
  path: epath.PathLike,
  found: Sequence[Detected],
  annotations: Annotations,
  categories: Categories,
) -> None:
  """Writes detections as COCO's results format has them, one JSON list.

  Args:
    path: the file.
    found: detections of each picture.
    annotations: pictures that they are of.
    categories: classes, whose ids are written.
  """
  kinds = [
    'bbox',
    *(['segm'] if _all_have(found, 'masks') else []),
    *(['keypoints'] if _all_have(found, 'keypoints') else []),
  ]
  results = list(_results(found, annotations, categories, kinds))
  files.write_json(path, results, indent=None)


def _all_have(found: Sequence[Detected], what: str) -> bool:
  return all(getattr(one, what) is not None for one in found)


def _results(
  found: Sequence[Detected],
  annotations: Annotations,
  categories: Categories,
  kinds: Sequence[str],
) -> Iterator[dict[str, Any]]:
  """Yields detections as COCO's results.

  For masks and keypoints alone there is no box: pycocotools would take their
  areas from it.
  """
  for one in found:
    image_id = int(annotations.image_ids[one.picture])
    for i in range(len(one)):
      result: dict[str, Any] = {
        'image_id': image_id,
        'category_id': categories.ids[one.labels[i] - 1],
        'score': float(one.scores[i]),
      }
      if 'bbox' in kinds:
        x1, y1, x2, y2 = (float(x) for x in one.boxes[i])
        result['bbox'] = [x1, y1, x2 - x1, y2 - y1]
      if 'segm' in kinds and one.masks is not None:
        result['segmentation'] = as_text(one.masks[i])
      if 'keypoints' in kinds and one.keypoints is not None:
        points = one.keypoints[i].astype(np.float64)
        points[:, :2] -= PIXEL
        result['keypoints'] = points.ravel().tolist()
      yield result


def _load(coco: Any, truth: Any, results: list[dict[str, Any]]) -> Any:
  """Returns results as pycocotools wants them, which refuses none at all."""
  if results:
    return truth.loadRes(results)
  empty = coco()
  parts: Mapping[str, Any] = truth.dataset
  empty.dataset = {**parts, 'annotations': []}
  empty.createIndex()
  return empty


def _deviations(given: Sequence[float], count: int, params: Any) -> np.ndarray:
  if len(given) not in (0, count):
    raise ValueError(
      f'deviations must be one for each of the {count} keypoints, got'
      f' {len(given)}'
    )
  if len(given):
    return np.asarray(given, np.float64)
  if count == _COCO_POINTS:
    return params.kpt_oks_sigmas
  return np.full(count, _DEVIATION)
