"""What the steps train on: random images of a thousand classes."""

import numpy as np

NUM_CLASSES = 1000
WEIGHT_DECAY = 1e-4


def make_batch(batch_size: int, image_size: int) -> dict[str, np.ndarray]:
  """Returns images [b, h, w, 3] and labels [b]."""
  random = np.random.default_rng(0)
  shape = (batch_size, image_size, image_size, 3)
  return {
    'image': random.standard_normal(shape, np.float32),
    'label': random.integers(NUM_CLASSES, size=batch_size).astype(np.int32),
  }
