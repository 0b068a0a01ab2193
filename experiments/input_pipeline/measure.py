"""Which JPEG decoder, and how much of its speed does the input pipeline keep?

    python experiments/input_pipeline/measure.py [--json=result.json]

Each has one core; photos are of 500x375 (synthetic.py). Decoders are timed in
turns, so that changes of the machine affect all; then the whole path of
`slimjax.data`: ArrayRecord, decoding, random crop, worker process, batch. See
README.md.
"""

import argparse
import io
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
import simplejpeg
import synthetic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax import files
from slimjax.data import create_dataset
from slimjax.data.batches import Share
from slimjax.data.jpeg import decode_centre_crop
from slimjax.data.jpeg import decode_random_crop

PHOTOS = 100
SIZE = 224


def pillow(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


def pillow_draft(encoded):
  image = Image.open(io.BytesIO(encoded))
  image.draft(
    'RGB', (SIZE, SIZE)
  )  # at least as large as the crop: at most halved
  return np.asarray(image.convert('RGB'))


def opencv(encoded):
  return cv2.imdecode(
    np.frombuffer(encoded, np.uint8),
    cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
  )


def simplejpeg_whole(encoded):
  return simplejpeg.decode_jpeg(encoded)


def simplejpeg_fast(encoded):
  return simplejpeg.decode_jpeg(encoded, fastdct=True)


def simplejpeg_half(encoded):
  return simplejpeg.decode_jpeg(
    encoded, min_height=188, min_width=250, min_factor=2
  )


def resized_pillow(encoded):
  """Resizes as the original recipe, by a bilinear filter as wide as needed."""
  image = Image.fromarray(simplejpeg.decode_jpeg(encoded))
  part = image.resize(
    (SIZE, SIZE), Image.Resampling.BILINEAR, box=(50, 50, 400, 350)
  )
  return np.asarray(part)


def resized_area(encoded):
  part = simplejpeg.decode_jpeg(encoded)[50:350, 50:400]
  return cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def random_crop(encoded):
  rng = np.random.default_rng(len(encoded))
  return decode_random_crop(encoded, rng, SIZE, 0.25)


def centre_crop(encoded):
  return decode_centre_crop(encoded, SIZE, 256)


FUNCTIONS = {
  'decode: Pillow': pillow,
  'decode: Pillow, draft': pillow_draft,
  'decode: OpenCV': opencv,
  'decode: simplejpeg': simplejpeg_whole,
  'decode: simplejpeg, fast DCT': simplejpeg_fast,
  'decode at half size: simplejpeg': simplejpeg_half,
  'decode (simplejpeg), crop, resize by Pillow': resized_pillow,
  'decode (simplejpeg), crop, resize by OpenCV (area)': resized_area,
  'slimjax: decode, random crop': random_crop,
  'slimjax: decode, central crop': centre_crop,
}
LIMIT = 'decode: simplejpeg'


def side_by_side(photos, rounds):
  """Returns images per second of one core by name, and ratios to the limit."""
  for function in FUNCTIONS.values():
    function(photos[0])
  seconds = {name: [] for name in FUNCTIONS}
  for _ in range(rounds):
    for name, function in FUNCTIONS.items():
      start = time.perf_counter()
      for photo in photos:
        function(photo)
      seconds[name].append(time.perf_counter() - start)
  return {
    name: {
      'images_per_second': len(photos) / statistics.median(times),
      'share_of_limit': statistics.median(
        limit / own for limit, own in zip(seconds[LIMIT], times, strict=True)
      ),
    }
    for name, times in seconds.items()
  }


def pipeline(data_dir, workers, rounds, batches=12, batch_size=64):
  """Times the whole path and decoding alone, in turns, each on one core."""
  dataset = create_dataset(
    {
      'name': 'imagenet2012',
      'data_dir': str(data_dir),
      'augmentation': 'mobile',
      'workers': workers,
    }
  )
  source = dataset.splits['train'].source
  encoded = [source[i].encoded for i in range(2 * batch_size)]
  rates, limits = [], []
  for _ in range(rounds):
    steps = range(batches + 2)
    reading = dataset.train_batches(
      batch_size, seed=0, steps=steps, share=Share()
    )
    next(reading)
    next(reading)
    start = time.perf_counter()
    for _ in range(batches):
      next(reading)
    rates.append(batches * batch_size / (time.perf_counter() - start))
    reading.close()
    start = time.perf_counter()
    for photo in encoded:
      simplejpeg.decode_jpeg(photo)
    limits.append(len(encoded) / (time.perf_counter() - start))
  cores = max(workers, 1)
  return {
    'workers': workers,
    'images_per_second': statistics.median(rates),
    'images_per_second_per_core': statistics.median(rates) / cores,
    'share_of_limit': statistics.median(
      rate / cores / limit for rate, limit in zip(rates, limits, strict=True)
    ),
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--json', help='file to write the numbers to')
  arguments = parser.parse_args()
  cv2.setNumThreads(0)
  photos = [synthetic.photo(i, i) for i in range(PHOTOS)]
  size = statistics.mean(map(len, photos)) / 1000
  functions = side_by_side(photos, arguments.rounds)
  with tempfile.TemporaryDirectory() as data_dir:
    synthetic.write(data_dir, train=1000, validation=10)
    paths = [
      pipeline(data_dir, workers, arguments.rounds) for workers in (0, 1)
    ]
  table = Table(
    'one core',
    'images/s',
    'of decoding alone',
    title=f'500x375, {size:.0f} kB a photo',
  )
  for name, row in functions.items():
    table.add_row(
      name, f'{row["images_per_second"]:.0f}', f'{row["share_of_limit"]:.0%}'
    )
  for row in paths:
    name = f'slimjax: files to batches, {row["workers"]} worker processes'
    table.add_row(
      name,
      f'{row["images_per_second_per_core"]:.0f}',
      f'{row["share_of_limit"]:.0%}',
    )
  Console(width=100).print(table)
  if arguments.json:
    record = {
      'machine': f'{platform.processor() or platform.machine()},'
      f' {os.cpu_count()} cores',
      'kilobytes': size,
      'functions': functions,
      'pipeline': paths,
    }
    files.write_json(arguments.json, record, indent=1)


if __name__ == '__main__':
  main()
