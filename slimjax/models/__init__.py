"""The models by name."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

from slimjax.models.mobilenet_v1 import MobileNetV1
from slimjax.models.mobilenet_v2 import MobileNetV2
from slimjax.models.net import SlimNet
from slimjax.models.resnet import DEPTHS
from slimjax.models.resnet import ResNet
from slimjax.models.shufflenet import ShuffleNet
from slimjax.naming import resolve
from slimjax.widths import Width

MODELS: dict[str, Callable[..., SlimNet]] = {
  'mobilenet_v1': MobileNetV1,
  'mobilenet_v2': MobileNetV2,
  'shufflenet': ShuffleNet,
  'resnet50': functools.partial(ResNet, depths=DEPTHS[50]),
  'resnet101': functools.partial(ResNet, depths=DEPTHS[101]),
  'resnet152': functools.partial(ResNet, depths=DEPTHS[152]),
  # This one is not published: one block per stage, for tests, small images.
  'resnet14': functools.partial(ResNet, depths=(1, 1, 1, 1)),
}


def create_model(
  name: str, *, num_classes: int, widths: Sequence[Width], **options: Any
) -> SlimNet:
  """Returns the model `name`, made to run at `widths`.

  Args:
    name: one of `MODELS`, or 'package.module:Name' of a `SlimNet` of your own.
    num_classes: number of outputs of the classifier.
    widths: floats such as 0.25, or tuples of channels. Parameters have the
      size of the widest.
    **options: attributes of `SlimNet`: dtype, small_stem, remat, axis_name.

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
