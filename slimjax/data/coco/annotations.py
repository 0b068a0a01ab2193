"""What is annotated in the pictures of a split, as flat arrays."""

import dataclasses

import numpy as np

from slimjax.data import fingerprint
from slimjax.data.coco.masks import Masks

LEAST_SIDE = 1.0  # pixels; thinner boxes are not trained on


@dataclasses.dataclass(frozen=True)
class Categories:
  """The classes of a COCO file; class c of a network is the c-th, from 1.

  Attributes:
    ids: the file's ids, in its order; they may have gaps.
    names: their names.
    keypoints: names of an object's keypoints; default: none.
    skeleton: pairs of keypoints, counted from 0, that a drawing connects;
      default: none.
  """

  ids: tuple[int, ...]
  names: tuple[str, ...]
  keypoints: tuple[str, ...] = ()
  skeleton: tuple[tuple[int, int], ...] = ()

  def without_keypoints(self) -> 'Categories':
    """Returns the classes alone."""
    return Categories(self.ids, self.names)


@dataclasses.dataclass(frozen=True)
class Annotations:
  """The n pictures of a split and the m objects in them, ordered by picture.

  Everything is as in the file, in pixels of the picture.

  Attributes:
    image_ids: ids of the pictures, int64 [n].
    files: names of their files, bytes [n].
    sizes: their heights and widths, int32 [n, 2].
    starts: first object of each picture, int64 [n + 1]; the last is m.
    ids: ids of the annotations, int64 [m].
    boxes: x, y, width, height, float64 [m, 4].
    labels: 1 to the number of classes, int32 [m].
    crowd: whether it is a group of objects, bool [m].
    areas: areas by which objects count as small, medium or large, [m].
    masks: masks of the objects; default: None, they are not wanted.
    keypoints: x, y, visibility, float32 [m, k, 3]; x and y are those of a
      pixel, whose centre is half a pixel further; default: None.
  """

  image_ids: np.ndarray
  files: np.ndarray
  sizes: np.ndarray
  starts: np.ndarray
  ids: np.ndarray
  boxes: np.ndarray
  labels: np.ndarray
  crowd: np.ndarray
  areas: np.ndarray
  masks: Masks | None = None
  keypoints: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.image_ids)

  def of(self, picture: int) -> np.ndarray:
    """Returns the numbers of the objects in a picture."""
    return np.arange(self.starts[picture], self.starts[picture + 1])

  def pictures(self) -> np.ndarray:
    """Returns the picture of each object, int64 [m]."""
    return np.repeat(np.arange(len(self)), np.diff(self.starts))

  def corners(self) -> np.ndarray:
    """Returns x1, y1, x2, y2 of the boxes within the pictures, [m, 4]."""
    sizes = self.sizes[self.pictures()]
    limits = sizes[:, ::-1].astype(np.float64)  # width, height
    ends = self.boxes[:, :2] + self.boxes[:, 2:]
    both = (np.clip(x, 0.0, limits) for x in (self.boxes[:, :2], ends))
    return np.concatenate([*both], axis=1)

  def thin(self) -> np.ndarray:
    """Returns whether a side of a box is too short to train on, bool [m]."""
    corners = self.corners()
    return (corners[:, 2:] - corners[:, :2] < LEAST_SIDE).any(axis=1)

  def labelled_points(self) -> np.ndarray:
    """Returns how many keypoints of each object are labelled, int64 [m]."""
    if self.keypoints is None:
      return np.zeros(len(self.ids), np.int64)
    return (self.keypoints[:, :, 2] > 0).sum(axis=1)

  def keep(self, objects: np.ndarray) -> 'Annotations':
    """Returns all pictures with some of their objects.

    Args:
      objects: bool [m].
    """
    counts = np.bincount(self.pictures()[objects], minlength=len(self))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return self._objects(np.flatnonzero(objects), starts)

  def take(self, pictures: np.ndarray) -> 'Annotations':
    """Returns some of the pictures with all their objects.

    Args:
      pictures: numbers of the pictures, in the order asked for.
    """
    pictures = np.asarray(pictures, np.int64)
    counts = np.diff(self.starts)[pictures]
    starts = np.concatenate([[0], np.cumsum(counts)])
    shift = np.repeat(self.starts[:-1][pictures] - starts[:-1], counts)
    found = self._objects(np.arange(starts[-1]) + shift, starts)
    return dataclasses.replace(
      found,
      image_ids=self.image_ids[pictures],
      files=self.files[pictures],
      sizes=self.sizes[pictures],
    )

  def _objects(self, objects: np.ndarray, starts: np.ndarray) -> 'Annotations':
    points = self.keypoints
    return dataclasses.replace(
      self,
      starts=starts.astype(np.int64),
      ids=self.ids[objects],
      boxes=self.boxes[objects],
      labels=self.labels[objects],
      crowd=self.crowd[objects],
      areas=self.areas[objects],
      masks=None if self.masks is None else self.masks.take(objects),
      keypoints=None if points is None else points[objects],
    )

  def without(self, *, masks: bool, keypoints: bool) -> 'Annotations':
    """Returns the same without masks, or without keypoints.

    Args:
      masks, keypoints: what is left out.
    """
    return dataclasses.replace(
      self,
      masks=None if masks else self.masks,
      keypoints=None if keypoints else self.keypoints,
    )

  def fingerprint(self) -> str:
    """Returns a hash of what the examples are: names, objects, no pixels."""
    parts: list[bytes | np.ndarray] = [
      b'\0'.join(self.files.tolist()),
      *(self.image_ids, self.sizes, self.starts),
      *(self.boxes, self.labels, self.crowd),
    ]
    if self.masks is not None:
      points = self.masks.points.values.astype(np.float32)
      parts += [points, self.masks.lengths.values, self.masks.codes.values]
    if self.keypoints is not None:
      parts.append(self.keypoints)
    return fingerprint.of(parts)
