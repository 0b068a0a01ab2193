"""Small COCO files and their pictures, as tests want them."""

import copy
import json

from etils import epath
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60
BOX = [10.0, 8.0, 20.0, 16.0]  # x, y, width, height
POLYGON = [10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]
CATEGORIES = [
  {'id': 3, 'name': 'cat'},
  {
    'id': 7,
    'name': 'person',
    'keypoints': ['nose', 'left_eye', 'right_eye'],
    'skeleton': [[1, 2], [1, 3]],
  },
]


def annotation(id_, image_id=1, **changed):
  """Returns an annotation, sound unless what is changed is not."""
  return {
    'id': id_,
    'image_id': image_id,
    'category_id': 7,
    'bbox': BOX,
    'area': 320.0,
    'iscrowd': 0,
    'segmentation': [POLYGON],
    'keypoints': [12, 10, 2, 20, 12, 1, 0, 0, 0],
    'num_keypoints': 2,
    **changed,
  }


def content(*annotations, images=(1, 2)):
  """Returns the content of a COCO file; pictures are NUMBER.png."""
  return {
    'categories': copy.deepcopy(CATEGORIES),
    'images': [
      {'id': i, 'file_name': f'{i}.png', 'height': HEIGHT, 'width': WIDTH}
      for i in images
    ],
    'annotations': list(annotations),
  }


def write(folder, split, found, *, pictures=True) -> epath.Path:
  """Writes FOLDER/annotations/SPLIT.json and FOLDER/SPLIT/NUMBER.png.

  A picture is grey, and red in the boxes of its objects.

  Args:
    folder: folder to write to.
    split: name of the split.
    found: content of the file.
    pictures: whether the pictures are written too; default: yes.
  """
  root = epath.Path(folder)
  for place in (root / 'annotations', root / split):
    place.mkdir(parents=True, exist_ok=True)
  path = root / 'annotations' / f'{split}.json'
  path.write_text(json.dumps(found))
  for image in found['images'] if pictures else ():
    pixels = np.full((image['height'], image['width'], 3), 90, np.uint8)
    for one in found['annotations']:
      if one['image_id'] == image['id']:
        x, y, width, height = (round(n) for n in one['bbox'])
        pixels[y : y + height, x : x + width] = (250, 20, 20)
    with (root / split / image['file_name']).open('wb') as file:
      Image.fromarray(pixels).save(file, 'PNG')
  return path
