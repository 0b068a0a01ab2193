"""Chooses the pictures and the objects that are trained on."""

import numpy as np

from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import LEAST_SIDE
from slimjax.data.folders import some

# Which pictures train: all, or those with an object that is trained on.
PICTURES = ('with_objects', 'all')


def trained(
  annotations: Annotations, *, pictures: str, least_keypoints: int
) -> tuple[Annotations, np.ndarray, list[str]]:
  """Returns what is trained on: no crowd, no box that is too thin.

  Args:
    annotations: all pictures of the training split.
    pictures: one of `PICTURES`.
    least_keypoints: least number of labelled keypoints in a picture, of all its
      objects together; 0 for any.

  Returns:
    The annotations, the number of each of their pictures before, and notes on
    what is left out.
  """
  if pictures not in PICTURES:
    raise ValueError(
      f'train_pictures {pictures!r} is not one of {", ".join(PICTURES)}'
    )
  if least_keypoints and annotations.keypoints is None:
    raise ValueError(
      f'least_keypoints {least_keypoints} needs keypoints = True'
    )
  thin = annotations.thin() & ~annotations.crowd
  notes = []
  if thin.any():
    noun = 'box' if thin.sum() == 1 else 'boxes'
    notes.append(
      f'train: {thin.sum():,} {noun} with less than {LEAST_SIDE:g} pixel of a'
      ' side in the picture left out: annotations'
      f' {some(map(str, annotations.ids[thin]))}'
    )
  kept = annotations.keep(~thin & ~annotations.crowd)
  wanted = np.ones(len(kept), bool)
  if pictures == 'with_objects':
    wanted &= np.diff(kept.starts) > 0
  if least_keypoints:
    points = np.bincount(
      kept.pictures(), kept.labelled_points(), minlength=len(kept)
    )
    wanted &= points >= least_keypoints
  chosen = np.flatnonzero(wanted)
  if len(chosen) < len(kept):
    what = (
      f'fewer than {least_keypoints} labelled keypoints'
      if least_keypoints
      else 'no object to train on'
    )
    notes.append(
      f'train: {len(kept) - len(chosen):,} of {len(kept):,} pictures left out:'
      f' they have {what}'
    )
  return kept.take(chosen), chosen, notes


def check_count(annotations: Annotations, max_objects: int) -> None:
  """Raises ValueError if a picture has more objects than there are places."""
  counts = np.diff(annotations.starts)
  if len(counts) and counts.max() > max_objects:
    most = int(counts.argmax())
    raise ValueError(
      f'the picture {annotations.files[most].decode()} has {counts.max()}'
      f' objects, more than config.data.max_objects = {max_objects}; set it to'
      f' {counts.max()}'
    )
