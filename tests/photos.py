"""Folders of small pictures that a network can tell apart."""

import io

import numpy as np
from PIL import Image

from slimjax.data import create_dataset

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 230), (220, 210, 50))


def picture(kind: int, seed: int, size: tuple[int, int] = (40, 48)):
  """Returns a noisy picture of one colour, a PIL image of (height, width)."""
  rng = np.random.default_rng((kind, seed))
  noise = rng.normal(0, 25, (*size, 3))
  pixels = np.asarray(COLOURS[kind % len(COLOURS)]) + noise
  return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image, kind='JPEG', **options) -> bytes:
  """Returns a picture as the bytes of a file."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def write_folder(folder, **splits):
  """Writes FOLDER/SPLIT/CLASS/NUMBER.jpg, and returns FOLDER.

  Args:
    folder: folder to write to.
    **splits: {class: number of pictures}, by the split's name.
  """
  for offset, (split, classes) in enumerate(splits.items()):
    for kind, (name, count) in enumerate(classes.items()):
      place = folder / split / name
      place.mkdir(parents=True)
      for number in range(count):
        image = picture(kind, 1000 * offset + number)
        (place / f'{number:03}.jpg').write_bytes(encoded(image))
  return folder


def open_folder(folder, **options):
  """Returns the data set of a folder of photos, small and read here."""
  options = {'image_size': 16, 'workers': 0, **options}
  return create_dataset(
    {'name': 'image_folder', 'data_dir': str(folder), **options}
  )
