"""Writes annotations as COCO files, with their pictures."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from slimjax import files
from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories


def write_coco(
  folder: epath.PathLike,
  split: str,
  annotations: Annotations,
  images: Sequence[np.ndarray],
  categories: Categories,
) -> None:
  """Writes FOLDER/annotations/SPLIT.json and FOLDER/SPLIT/FILE, as PNG.

  Args:
    folder: the folder; it is made if it is not there.
    split: name of the split.
    annotations: what is in the pictures.
    images: the pictures, uint8 [h, w, 3] each.
    categories: classes that the labels stand for.
  """
  from PIL import Image

  root = files.expand(folder)
  for place in (root / 'annotations', root / split):
    place.mkdir(parents=True, exist_ok=True)
  for file, image in zip(annotations.files, images, strict=True):
    with (root / split / file.decode()).open('wb') as opened:
      Image.fromarray(image).save(opened, 'PNG')
  content = as_coco(annotations, categories)
  path = root / 'annotations' / f'{split}.json'
  files.write_json(path, content, indent=None)


def as_coco(annotations: Annotations, categories: Categories) -> dict[str, Any]:
  """Returns annotations as the content of a COCO file.

  Annotations are numbered from 1: pycocotools takes an id of 0 for no match.

  Args:
    annotations: pictures and their objects.
    categories: classes that the labels stand for.
  """
  points = {
    'keypoints': list(categories.keypoints),
    'skeleton': [[a + 1, b + 1] for a, b in categories.skeleton],
  }
  return {
    'categories': [
      {'id': id_, 'name': name, **(points if categories.keypoints else {})}
      for id_, name in zip(categories.ids, categories.names, strict=True)
    ],
    'images': [
      {
        'id': int(annotations.image_ids[i]),
        'file_name': annotations.files[i].decode(),
        'height': int(annotations.sizes[i, 0]),
        'width': int(annotations.sizes[i, 1]),
      }
      for i in range(len(annotations))
    ],
    'annotations': [
      _annotation(annotations, categories, picture, i)
      for i, picture in enumerate(annotations.pictures())
    ],
  }


def _annotation(
  annotations: Annotations, categories: Categories, picture: int, i: int
) -> Mapping[str, Any]:
  found = {
    'id': i + 1,
    'image_id': int(annotations.image_ids[picture]),
    'category_id': categories.ids[annotations.labels[i] - 1],
    'bbox': annotations.boxes[i].tolist(),
    'area': float(annotations.areas[i]),
    'iscrowd': int(annotations.crowd[i]),
  }
  if annotations.masks is not None:
    size = annotations.sizes[picture]
    found['segmentation'] = annotations.masks.segmentation(i, size)
  if annotations.keypoints is not None:
    points = annotations.keypoints[i]
    found['keypoints'] = points.astype(np.float64).ravel().tolist()
    found['num_keypoints'] = int((points[:, 2] > 0).sum())
  return found
