"""A small ImageNet: the files of the real one, with photos of two scenes.

    python experiments/input_pipeline/synthetic.py --data_dir=DIR

Writes what TFDS prepares for imagenet2012 (ArrayRecord, the same features), so
that everything that reads ImageNet can be run without it. The photos are random
parts of the two that come with scikit-learn, tinted by their class.
"""

import argparse
import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
import tensorflow_datasets as tfds


def photo(seed, label, *, height=375, width=500, quality=94):
  """Returns the bytes of a JPEG like those of ImageNet."""
  rng = np.random.default_rng(seed)
  scenes = load_sample_images().images
  scene = scenes[rng.integers(len(scenes))]  # [427, 640, 3]
  scale = rng.uniform(0.4, 1.0)
  part_width = int(min(scene.shape[1], scene.shape[0] * width / height) * scale)
  part_height = int(part_width * height / width)
  top = rng.integers(scene.shape[0] - part_height + 1)
  left = rng.integers(scene.shape[1] - part_width + 1)
  part = scene[top : top + part_height, left : left + part_width]
  image = Image.fromarray(part).resize((width, height), Image.BICUBIC)
  tint = np.random.default_rng(label).uniform(0.5, 1.5, 3)
  pixels = np.asarray(image) * tint + rng.normal(0, 9, (height, width, 3))
  encoded = io.BytesIO()
  pixels = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
  pixels.save(encoded, 'JPEG', quality=quality)
  return encoded.getvalue()


# This is not registered: TFDS has its own, which reads what this one writes.
class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """imagenet2012, version and features as in TFDS."""

  VERSION = tfds.core.Version('5.1.0')

  def __init__(self, *, train, validation, classes, corrupt=(), **options):
    self._sizes = {'train': train, 'validation': validation}
    self._classes = classes
    self._corrupt = corrupt
    super().__init__(**options)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(num_classes=self._classes),
          'file_name': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self._sizes}

  def _generate_examples(self, split):
    for index in range(self._sizes[split]):
      label = index % self._classes
      name = f'{split}_{index:06d}.JPEG'
      encoded = photo((len(split), index), label)
      if name in self._corrupt:
        encoded = encoded[: len(encoded) // 2]
      yield (
        index,
        {
          'file_name': name,
          'image': io.BytesIO(encoded),
          'label': label,
        },
      )


def write(data_dir, *, train, validation, classes=1000, corrupt=()):
  """Writes DIR/imagenet2012/5.1.0."""
  builder = Imagenet2012(
    train=train,
    validation=validation,
    classes=classes,
    corrupt=corrupt,
    data_dir=str(data_dir),
    file_format='array_record',
  )
  builder.download_and_prepare()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--train', type=int, default=2000)
  parser.add_argument('--validation', type=int, default=200)
  parser.add_argument('--classes', type=int, default=1000)
  arguments = parser.parse_args()
  write(**vars(arguments))


if __name__ == '__main__':
  main()
