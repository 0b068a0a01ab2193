"""COCO as TFDS prepares it, a tiny one, read without TensorFlow."""

import io
import sys

import numpy as np
from photos import encoded
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from slimjax.data import create_dataset
from slimjax.data.coco.prepared import _ids
from slimjax.detection.detected import Detected
from slimjax.tasks.detection.scoring import coco_scores

NAMES = ('person', 'bicycle', 'car')
# Height, width and, of each object, top, left, bottom, right, class, crowd.
PICTURES = {
  'train': [
    (40, 60, [(8, 10, 24, 30, 2, False), (0, 0, 40, 60, 0, True)]),
    (60, 40, [(15, 10, 45, 30, 1, False)]),
    (40, 60, []),
    (40, 60, [(4, 6, 20, 36, 0, False), (20, 30, 36, 57, 1, False)]),
  ],
  'validation': [(40, 60, [(8, 10, 24, 30, 2, False)]), (40, 60, [])],
  'test': [(40, 60, [])],  # COCO's own has no annotations
}


class Coco(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """coco/2017, version and features as in TFDS."""

  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name='2017', version=tfds.core.Version('1.1.0')),
  )

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          'image/filename': tfds.features.Text(),
          'image/id': np.int64,
          'objects': tfds.features.Sequence(
            {
              'id': np.int64,
              'area': np.int64,
              'bbox': tfds.features.BBoxFeature(),
              'label': tfds.features.ClassLabel(names=NAMES),
              'is_crowd': np.bool_,
            }
          ),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in PICTURES}

  def _generate_examples(self, split):
    for number, (height, width, objects) in enumerate(PICTURES[split]):
      pixels = np.full((height, width, 3), 90, np.uint8)
      for top, left, bottom, right, _, crowd in objects:
        if not crowd:
          pixels[top:bottom, left:right] = (250, 20, 20)
      file = encoded(Image.fromarray(pixels), quality=95, subsampling=0)
      yield (
        number,
        {
          'image': io.BytesIO(file),
          'image/filename': f'{split}_{number}.jpg',
          'image/id': 1000 + number,
          'objects': [
            {
              'id': 10 * number + i,
              'area': (bottom - top) * (right - left),
              'bbox': tfds.features.BBox(
                top / height, left / width, bottom / height, right / width
              ),
              'label': label,
              'is_crowd': crowd,
            }
            for i, (top, left, bottom, right, label, crowd) in enumerate(
              objects
            )
          ],
        },
      )


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  builder = Coco(
    config='2017', data_dir=str(folder), file_format='array_record'
  )
  builder.download_and_prepare()
  return folder


def open_prepared(folder, **options):
  return create_dataset(
    {
      'name': 'coco/2017',
      'data_dir': str(folder),
      'canvases': ((64, 96), (96, 64)),
      'sides': (64,),
      'longest': None,
      'flip': 0.0,
      'workers': 0,
      **options,
    }
  )


def test_boxes_are_read_without_tensorflow(data_dir):
  data = open_prepared(data_dir)
  assert 'tensorflow' not in sys.modules
  assert data.class_names == NAMES
  assert data.notes == (
    'train: 1 of 4 pictures left out: they have no object to train on',
  )
  train, test = data.splits['train'], data.splits['test']
  assert (len(train), len(test)) == (3, 2)  # validation is what is tested on
  assert train.groups.tolist().count(1) == 1
  (upright,) = np.flatnonzero(train.groups)
  batch = train.read_train(np.array([upright]), np.zeros((1, 3), int))
  assert batch['hw'].tolist() == [[96, 64]]
  np.testing.assert_allclose(
    batch['boxes'][0, 0], 1.6 * np.array([10, 15, 30, 45]), rtol=1e-5
  )
  assert batch['labels'][0, :2].tolist() == [2, 0]
  image = batch['image'][0].astype(int)
  assert (image[26:70, 18:46, 0] > 200).all()
  assert (image[:20, :, 0] < 120).all()
  # The crowd is no object to train on.
  (first,) = np.flatnonzero(train.annotations.image_ids == 1000)
  batch = train.read_train(np.array([first]), np.zeros((1, 3), int))
  assert batch['labels'][0, :2].tolist() == [3, 0]


def test_prepared_boxes_are_scored(data_dir):
  data = open_prepared(data_dir)
  split = data.splits['test']
  assert sorted(split.annotations.image_ids.tolist()) == [1000, 1001]
  (there,) = np.flatnonzero(np.diff(split.annotations.starts))
  boxes, one = np.array([[10, 8, 30, 24]], np.float32), np.ones(1)
  found = [
    Detected(int(there), boxes, one, np.array([3])),
    Detected(1 - int(there), boxes[:0], one[:0], np.array([], int)),
  ]
  scores = coco_scores(found, split.annotations, split.categories)
  assert scores['box_ap'] == pytest.approx(100.0)


def test_any_folder_above_the_version_will_do(data_dir):
  for folder in (data_dir / 'coco', data_dir / 'coco' / '2017' / '1.1.0'):
    assert len(open_prepared(folder).splits['train']) == 3


@pytest.mark.parametrize(
  'options, said',
  [
    ({'data_dir': None}, 'needs --config.data.data_dir'),
    ({'data_dir': '/nowhere'}, "tfds.builder.'coco/2017', data_dir='/nowhere'"),
    ({'masks': True}, "config.data.name = 'coco' reads them"),
    ({'train': ('a', 'b')}, 'train and test are files of'),
  ],
)
def test_what_cannot_be_read_is_refused(data_dir, options, said):
  with pytest.raises(ValueError, match=said):
    create_dataset({'name': 'coco/2017', 'data_dir': str(data_dir), **options})


def test_coco_has_80_classes_with_ids_up_to_90():
  ids = _ids(80)
  assert len(ids) == 80
  assert (ids[0], ids[10], ids[11], ids[-1]) == (1, 11, 13, 90)
  assert _ids(3) == (1, 2, 3)
