"""Detection as a task: what is lost, predicted and scored of pictures."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import ClassVar

from etils import epath
import jax
import jax.numpy as jnp

from slimjax.data.batches import Batch
from slimjax.data.batches import Split
from slimjax.data.coco.split import DetectionSplit
from slimjax.data.dataset import Dataset
from slimjax.data.dataset import sides
from slimjax.data.folders import some
from slimjax.detection.detected import Detected
from slimjax.detection.detected import to_pictures
from slimjax.models.net import SlimNet
from slimjax.tasks.base import Forward
from slimjax.tasks.base import means
from slimjax.tasks.base import Metric
from slimjax.tasks.base import SumCount
from slimjax.tasks.detection.scoring import coco_scores
from slimjax.tasks.detection.scoring import write_results

# What a picture's detections are brought back to its own pixels by.
_PLACE = ('image_id', 'scale', 'original', 'mask')


@dataclasses.dataclass(frozen=True)
class Detection:
  """Boxes, and masks and keypoints if the network has heads for them.

  The loss is that of the network's own stages; scores are those of COCO. The
  normalisers of the losses are of a device's images: a run depends on the
  number of devices as it does with batch normalisation.

  Attributes:
    deviations: how exactly each keypoint is annotated, relative to the size of
      an object (COCO's sigmas); default: COCO's own for 17, 0.06 for others.
  """

  deviations: tuple[float, ...] = ()
  outputs: ClassVar[str] = 'detections'  # what `predict` returns
  exported_batch: ClassVar[int] = 1  # its loops need a number
  metrics: ClassVar[tuple[Metric, ...]] = (
    Metric('box_ap', 'box AP', '%', 'max'),
    Metric('box_ap50', 'AP50', '%', 'max'),
    Metric('box_ap75', 'AP75', '%', 'max'),
    Metric('mask_ap', 'mask AP', '%', 'max'),
    Metric('keypoint_ap', 'keypoint AP', '%', 'max'),
  )

  def __post_init__(self):
    object.__setattr__(self, 'deviations', tuple(self.deviations))

  def check(self, model: SlimNet, dataset: Dataset) -> None:
    name = type(model).__name__
    if not hasattr(model, 'match_anchors'):
      raise ValueError(
        f'config.model.name: {name} is no detector; detection needs one, such'
        ' as faster_rcnn'
      )
    split = dataset.splits['train']
    if not isinstance(split, DetectionSplit):
      raise ValueError(
        f'config.data.name: {dataset.name} has no boxes; detection needs'
        ' digit_scenes, coco or coco/2017'
      )
    if model.num_classes != dataset.num_classes:
      raise ValueError(
        f'config.model.num_classes is {model.num_classes}, but {dataset.name}'
        f' has {dataset.num_classes} classes: {some(dataset.class_names)}'
      )
    if model.masks and split.annotations.masks is None:
      raise ValueError(
        'the network has a mask head, but the data are read without masks: set'
        ' config.data.masks, or config.model.masks = False'
      )
    points = len(dataset.keypoint_names)
    if model.keypoints and model.keypoints != points:
      raise ValueError(
        f'config.model.keypoints is {model.keypoints}, but {dataset.name} is'
        f' read with {points} keypoints: set config.data.keypoints, or the'
        ' number of the network'
      )

  def example(self, dataset: Dataset) -> Batch:
    shape = (1, *sides(dataset.image_size), 3)
    return {'image': jax.ShapeDtypeStruct(shape, jnp.float32)}

  def prepare(self, model: SlimNet, batch: Batch, key: jax.Array) -> Batch:
    """Matches the anchors and draws the bits of every image, once a step."""
    images = len(batch['image'])
    return {
      **batch,
      **model.match_anchors(batch),
      'bits': jax.random.bits(key, (images, 2), jnp.uint32),
    }

  def loss(
    self, forward: Forward, batch: Batch, key: jax.Array, teacher: Any
  ) -> tuple[jax.Array, Any, Mapping[str, SumCount]]:
    del teacher
    losses, metrics = forward(batch, key, method='losses')
    loss = sum(s / jnp.maximum(count, 1.0) for s, count in losses.values())
    count = jnp.float32(len(batch['image']))
    told = {'loss': (loss * count, count), **losses, **metrics}
    return loss, None, told

  def summarise(self, metrics: Mapping[str, SumCount]) -> dict[str, float]:
    # A mask or a keypoint may be in none of the images.
    return means({n: m for n, m in metrics.items() if float(m[1])})

  def predict(self, forward: Forward, batch: Batch) -> dict[str, jax.Array]:
    return forward(batch['image'], batch['hw'])

  def measure(self, forward: Forward, batch: Batch) -> dict[str, Any]:
    return {
      'outputs': forward(batch['image'], batch['hw']),
      'place': {name: batch[name] for name in _PLACE},
    }

  def accumulate(self, total: Any, measured: Any) -> list[Detected]:
    found = to_pictures(measured['outputs'], measured['place'])
    total = [] if total is None else total
    total.extend(found)
    return total

  def score(
    self, total: Sequence[Detected] | None, split: Split
  ) -> dict[str, float]:
    if not total:
      raise ValueError('no picture was scored: the split is empty')
    assert isinstance(split, DetectionSplit)
    scores = coco_scores(
      total,
      split.annotations,
      split.categories,
      deviations=self.deviations,
    )
    return {'box_ap': 0.0, **scores, 'examples': len(total)}

  def write_predictions(
    self, total: Sequence[Detected], split: Split, path: epath.Path
  ) -> None:
    """Writes what was detected in COCO's results format."""
    assert isinstance(split, DetectionSplit)
    write_results(path, total, split.annotations, split.categories)
