"""Makes the data set of a COCO folder, or of COCO as TFDS prepares it."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools

import jax
import numpy as np

from slimjax import files
from slimjax.data.coco.annotations import Annotations
from slimjax.data.coco.annotations import Categories
from slimjax.data.coco.canvas import OnCanvas
from slimjax.data.coco.canvas import Size
from slimjax.data.coco.choosing import check_count
from slimjax.data.coco.choosing import trained
from slimjax.data.coco.folder import open_folder
from slimjax.data.coco.folder import Opened
from slimjax.data.coco.prepared import open_prepared
from slimjax.data.coco.split import DetectionSplit
from slimjax.data.coco.split import Reading
from slimjax.data.dataset import Dataset
from slimjax.data.holding_out import stratified
from slimjax.data.preprocess import AugmentImages
from slimjax.data.preprocess import Normalise
from slimjax.data.preprocess import normalise
from slimjax.data.workers import processors

FOLDER = 'coco'
PREPARED = 'coco/2017'
STRIDE = 32  # of the smallest maps that a network scores
IMAGENET = Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def create(
  name: str,
  *,
  data_dir: str | None = None,
  train: Sequence[str] = (),
  test: Sequence[str] = (),
  masks: bool = False,
  keypoints: bool = False,
  canvases: Sequence[Size] = ((800, 1344), (1344, 800)),
  sides: Sequence[int] = (800,),
  longest: int | None = 1333,
  flip: float = 0.5,
  train_pictures: str = 'with_objects',
  least_keypoints: int = 0,
  max_objects: int = 100,
  crop: int = 112,
  test_share: float = 0.2,
  split_seed: int = 0,
  workers: int | None = None,
  max_corrupt: int = 10,
) -> Dataset:
  """Returns a data set for detection.

  Args:
    name: 'coco', a folder of COCO files and pictures; 'coco/2017', the set of
      TFDS, which has boxes only.
    data_dir: folder of the files; of TFDS, that of the prepared set or above.
    train, test: paths in it of a split's annotations and of the folder of its
      pictures; default: found in one of the usual places.
    masks: whether objects have masks; default: no.
    keypoints: whether they have keypoints. Only the categories with keypoints
      are read then; default: no.
    canvases: heights and widths that pictures are padded to. A batch is on one;
      each compiles its own programs. Default: two, for COCO's pictures.
    sides: lengths of the shorter side: one is drawn each time in training, the
      last serves evaluations; none keeps pictures as they are. Default: 800.
    longest: the most that the longer side may have; default: 1333.
    flip: how often pictures are mirrored in training; default: 0.5. Left and
      right keypoints change places, by their names.
    train_pictures: 'with_objects' (default) leaves out pictures without objects
      to train on, 'all' does not.
    least_keypoints: least number of labelled keypoints of a picture to train
      on, over its objects; default: 0, any.
    max_objects: places for the objects of a picture in a batch; default: 100.
    crop: height and width of the masks that are trained on; default: 112.
    test_share: share of the pictures that is set aside to test on, if there is
      no test split; default: 0.2.
    split_seed: seed that draws them; default: 0.
    workers: number of processes that read; default: one for each processor that
      this process may use; 0 reads in the training process.
    max_corrupt: number of pictures that may be unreadable; default: 10.

  Raises:
    ValueError: an argument is wrong, or the data cannot be read; the message
      says what to do.
  """
  if any(isinstance(canvas, int) or len(canvas) != 2 for canvas in canvases):
    raise ValueError(
      'canvases must be pairs of a height and a width, such as ((512, 512),),'
      f' got {canvases!r}'
    )
  if isinstance(sides, int):
    raise ValueError(f'sides must be a list of pixels, got {sides}')
  reading = Reading(
    tuple((height, width) for height, width in canvases),
    tuple(sides),
    longest,
    flip,
    max_objects,
    crop,
  )
  check_reading(reading)
  if not 0.0 < test_share < 1.0:
    raise ValueError(f'test_share must be between 0 and 1, got {test_share}')
  if data_dir is not None:
    data_dir = str(files.expand(data_dir, 'config.data.data_dir'))
  if name == FOLDER:
    found = open_folder(
      data_dir, train=train, test=test, masks=masks, keypoints=keypoints
    )
  elif train or test:
    raise ValueError(f'train and test are files of {FOLDER}, not of {name}')
  else:
    found = open_prepared(data_dir, masks=masks, keypoints=keypoints)
  notes = []
  training, testing = found.train, found.test
  if testing is None:
    training, testing, note = _set_aside(training, test_share, split_seed)
    notes.append(note)
  return assemble(
    name,
    {'train': training, 'test': testing},
    found.categories,
    reading,
    choose=functools.partial(
      trained, pictures=train_pictures, least_keypoints=least_keypoints
    ),
    normalisation=IMAGENET,
    workers=processors() if workers is None else workers,
    max_corrupt=max_corrupt,
    notes=notes,
  )


def assemble(
  name: str,
  opened: Mapping[str, Opened],
  categories: Categories,
  reading: Reading,
  *,
  choose: Callable[[Annotations], tuple[Annotations, np.ndarray, list[str]]],
  normalisation: Normalise,
  workers: int = 0,
  max_corrupt: int = 0,
  notes: Sequence[str] = (),
) -> Dataset:
  """Returns the data set of opened splits.

  Args:
    name: name of the data set in the configuration.
    opened: `train` and `test`.
    categories: classes of both.
    reading: what is done to pictures.
    choose: see `slimjax.data.coco.choosing.trained`.
    normalisation: what `preprocess` does.
    workers, max_corrupt: see `Dataset`; default: 0.
    notes: notes on what was found before; default: none.

  Raises:
    ValueError: there is nothing to train or to test on, or too many objects.
  """
  train, test = opened['train'], opened['test']
  annotations, chosen, said = choose(train.annotations)
  if not len(annotations.ids):
    raise ValueError(
      f'{name}: no picture has an object to train on'
      + ''.join(f'; {line}' for line in said)
    )
  check_count(annotations, reading.max_objects)
  if annotations.masks is not None:
    smaller = annotations.masks.smaller()
    annotations = dataclasses.replace(annotations, masks=smaller)
  if test.annotations.crowd.all():
    raise ValueError(f'{name}: no picture of the test split has an object')

  canvas, rule = reading.canvases[0], reading.resize()

  def split(opened: Opened) -> DetectionSplit:
    groups = rule.choose(opened.annotations.sizes, reading.canvases)
    return DetectionSplit(
      opened.annotations,
      opened.pixels,
      opened.chosen,
      categories,
      reading,
      groups,
    )

  return Dataset(
    name=name,
    num_classes=len(categories.ids),
    class_names=categories.names,
    image_size=canvas,
    preprocessing=(
      f'(images / 255 - {normalisation.mean}) / {normalisation.std}; before'
      f' that, {rule.describe()}, at the top left of'
      f' {" or ".join(f"{h} x {w}" for h, w in reading.canvases)} pixels'
    ),
    splits={
      'train': split(Opened(annotations, train.pixels, train.chosen[chosen])),
      'test': split(test),
    },
    augment=AugmentImages(
      _normalised,
      (('mean', normalisation.mean), ('std', normalisation.std)),
    ),
    preprocess=normalisation,
    decode=OnCanvas(
      canvas, rule.side, rule.longest, others=reading.canvases[1:]
    ),
    workers=workers,
    max_corrupt=max_corrupt,
    notes=(*notes, *said),
    category_ids=categories.ids,
    keypoint_names=categories.keypoints,
    skeleton=categories.skeleton,
  )


def _normalised(key: jax.Array, images: jax.Array, **constants) -> jax.Array:
  """Normalises images; what is random was done when they were read."""
  del key
  return normalise(images, **constants)


def check_reading(reading: Reading) -> None:
  """Raises ValueError if a number of `create` makes no sense."""
  for canvas in reading.canvases:
    if any(n <= 0 or n % STRIDE for n in canvas):
      raise ValueError(
        f'canvases must be (height, width), multiples of {STRIDE}, got'
        f' {canvas}; try'
        f' {tuple(max(-(-n // STRIDE), 1) * STRIDE for n in canvas)}'
      )
  if len(set(reading.canvases)) < max(len(reading.canvases), 1):
    raise ValueError(
      f'canvases must be one or several, each once, got {reading.canvases}'
    )
  if any(side < 1 for side in reading.sides):
    raise ValueError(f'sides must be above 0, got {reading.sides}')
  if not 0.0 <= reading.flip <= 1.0:
    raise ValueError(f'flip must be from 0 to 1, got {reading.flip}')
  for what in ('max_objects', 'crop'):
    if getattr(reading, what) < 1:
      raise ValueError(f'{what} must be above 0, got {getattr(reading, what)}')


def _set_aside(
  opened: Opened, share: float, seed: int
) -> tuple[Opened, Opened, str]:
  """Returns a training and a test split of one, and a note."""
  annotations = opened.annotations
  count = len(annotations)
  names = annotations.files.tolist()
  parts = stratified(np.zeros(count, np.int64), names, share, seed)
  rest, tested = (opened.take(part) for part in parts)
  return (
    rest,
    tested,
    f'no test split: {len(tested.annotations):,} of {count:,} pictures are set'
    f' aside, {100 * share:g} % (config.data.test_share, drawn by split_seed ='
    f' {seed})',
  )
