"""The models by name."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from slimjax.detection.recipe import KEYPOINT_BASELINE
from slimjax.detection.recipe import PUBLISHED
from slimjax.detection.recipe import Recipe
from slimjax.models.detector import Detector
from slimjax.models.mobilenet_v1 import MobileNetV1
from slimjax.models.mobilenet_v2 import MobileNetV2
from slimjax.models.net import SlimNet
from slimjax.models.resnet import DEPTHS
from slimjax.models.resnet import ResNet
from slimjax.models.shufflenet import ShuffleNet
from slimjax.naming import resolve
from slimjax.widths import Width

CLASSIFIERS: dict[str, Callable[..., SlimNet]] = {
  'mobilenet_v1': MobileNetV1,
  'mobilenet_v2': MobileNetV2,
  'shufflenet': ShuffleNet,
  'resnet50': functools.partial(ResNet, depths=DEPTHS[50]),
  'resnet101': functools.partial(ResNet, depths=DEPTHS[101]),
  'resnet152': functools.partial(ResNet, depths=DEPTHS[152]),
  # This one is not published: one block per stage, for tests, small images.
  'resnet14': functools.partial(ResNet, depths=(1, 1, 1, 1)),
}


def create_detector(
  *,
  backbone: str = 'resnet50',
  num_classes: int = 80,
  recipe: Recipe = PUBLISHED,
  **options: Any,
) -> Detector:
  """Returns a detector; see `slimjax.models.detector`.

  Args:
    backbone: one of `CLASSIFIERS`, or 'package.module:Name' of a `SlimNet` of
      your own, whose last four stage maps have the strides 4, 8, 16 and 32.
    num_classes: classes without the background; default: COCO's 80.
    recipe: numbers that are not among the options; default: the published ones.
    **options: attributes of `Detector` and of `Recipe`.
  """
  numbers = {field.name for field in dataclasses.fields(Recipe)}
  own = {name: options.pop(name) for name in numbers & options.keys()}
  make = resolve(backbone, CLASSIFIERS, 'backbone')
  return Detector(
    num_classes=num_classes,
    backbone=make(),
    recipe=dataclasses.replace(recipe, **own),
    **options,
  )


MODELS: dict[str, Callable[..., SlimNet]] = {
  **CLASSIFIERS,
  'faster_rcnn': create_detector,
  'mask_rcnn': functools.partial(create_detector, masks=True),
  'keypoint_rcnn': functools.partial(
    create_detector, num_classes=1, keypoints=17, recipe=KEYPOINT_BASELINE
  ),
}


def create_model(
  name: str, *, num_classes: int, widths: Sequence[Width], **options: Any
) -> SlimNet:
  """Returns the model `name`, made to run at `widths`.

  Args:
    name: one of `MODELS`, or 'package.module:Name' of a `SlimNet` of your own.
    num_classes: number of outputs of the classifier, or classes of objects.
    widths: floats such as 0.25, or tuples of channels. Parameters have the
      size of the widest.
    **options: attributes of `SlimNet`: dtype, small_stem, remat, axis_name; of
      a detector also those of `Detector` and `Recipe`, and the name of its
      backbone.

  Raises:
    ValueError: unknown model or option, widths that do not fit it, or what is
      named is no `SlimNet`.
  """
  make = resolve(name, MODELS, 'model')
  needed = 'a network is a slimjax.SlimNet: class Net(slimjax.SlimNet)'
  if isinstance(make, type) and not issubclass(make, SlimNet):
    raise ValueError(f'model {name} is a class, but no SlimNet; {needed}')
  try:
    model = make(num_classes=num_classes, widths=widths, **options)
  except TypeError as error:
    raise ValueError(f'model {name}: {error}') from error
  if not isinstance(model, SlimNet):
    raise ValueError(f'model {name} returns {type(model).__name__}; {needed}')
  return model
