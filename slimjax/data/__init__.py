"""Data sets and what happens to their images, on the host and on the device.

A data set is a module with `load(split)`, `augment(key, images)` and
`preprocess(images)` (in words: PREPROCESSING), NUM_CLASSES, CLASS_NAMES and
IMAGE_SIZE.
"""

from slimjax.data import digits

DATASETS = {'digits': digits}
