"""Lists which modules of PyTorch correspond to each `ConvNorm`.

`AUTHORS` holds the names of the slimmable networks' authors, where a norm has a
module for each switch (`features.0.1.bn.0.weight`). `ORDINARY` holds those of
torchvision and timm, whose networks have one width.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses

from slimjax.models.mobilenet_v1 import MobileNetV1
from slimjax.models.mobilenet_v1 import UNITS
from slimjax.models.mobilenet_v2 import MobileNetV2
from slimjax.models.mobilenet_v2 import STAGES as INVERTED_STAGES
from slimjax.models.net import SlimNet
from slimjax.models.resnet import ResNet
from slimjax.models.shufflenet import GROUPS
from slimjax.models.shufflenet import ShuffleNet
from slimjax.models.shufflenet import STAGES as SHUFFLE_STAGES


@dataclasses.dataclass(frozen=True)
class Unit:
  """A `ConvNorm` and the PyTorch modules that correspond to it.

  Attributes:
    path: path of the `ConvNorm`.
    convs: PyTorch's convolutions, one for each block of output channels.
    norms: PyTorch's norms, likewise.
    shared_norm: whether the published code has one norm for all switches there;
      default: no.
  """

  path: tuple[str, ...]
  convs: tuple[str, ...]
  norms: tuple[str, ...]
  shared_norm: bool = False


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer without a norm and the PyTorch module that corresponds to it.

  Attributes:
    path: path of the layer.
    module: PyTorch's module.
    kind: 'conv', 'dense', 'transposed', or 'flattened': a dense layer whose
      inputs are maps, flattened channels first there and channels last here.
  """

  path: tuple[str, ...]
  module: str
  kind: str


def _no_layers(model: SlimNet) -> list[Layer]:
  del model
  return []


@dataclasses.dataclass(frozen=True)
class Layout:
  """The names of one implementation of a family.

  Attributes:
    family: our class.
    units: function that returns the units of a network, in the order of its
      checkpoints.
    classifier: PyTorch's module of the classifier; of a detector, that of the
      rois.
    layers: function that returns the other layers; default: there are none but
      the classifier.
    background: classes of the classifier that are none of ours; default: 0.
  """

  family: type[SlimNet]
  units: Callable[[SlimNet], list[Unit]]
  classifier: str
  layers: Callable[[SlimNet], list[Layer]] = _no_layers
  background: int = 0

  def plain_layers(self, model: SlimNet) -> list[Layer]:
    """Returns the layers without a norm, the classifier among them."""
    return self.layers(model) or [
      Layer(('classifier',), self.classifier, 'dense')
    ]


def authors_layout(model: SlimNet) -> Layout:
  """Returns the layout of the slimmable networks' authors.

  Raises:
    ValueError: they have no such network.
  """
  for layout in AUTHORS:
    if isinstance(model, layout.family):
      return layout
  raise ValueError(
    f'{type(model).__name__} has no published checkpoints; they exist for'
    f' {", ".join(layout.family.__name__ for layout in AUTHORS)}'
  )


def _unit(path: str, conv: str, norm: str, **options) -> Unit:
  return Unit(tuple(path.split('/')), (conv,), (norm,), **options)


# Blocks in the order of our models.


def _inverted_blocks() -> Iterator[tuple[int, int, int, bool]]:
  """Yields (block from 1, stage from 0, its block from 0, if it expands)."""
  i = 0
  for stage, (expansion, _, blocks, _) in enumerate(INVERTED_STAGES):
    for j in range(blocks):
      i += 1
      yield i, stage, j, expansion > 1


def _bottlenecks(model: SlimNet) -> Iterator[tuple[int, int, int]]:
  """Yields (block from 1, stage from 1, its block from 1)."""
  assert isinstance(model, ResNet)
  i = 0
  for stage, depth in enumerate(model.depths, 1):
    for j in range(1, depth + 1):
      i += 1
      yield i, stage, j


# The slimmable networks' authors.


def _body(path: str, prefix: str, names: tuple[str, ...]) -> list[Unit]:
  """Returns units in PyTorch's sequence: convolution, norm, activation, ..."""
  return [
    _unit(
      f'{path}/{name}', f'{prefix}.body.{3 * i}', f'{prefix}.body.{3 * i + 1}'
    )
    for i, name in enumerate(names)
  ]


def _authors_mobilenet_v1(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  for i in range(1, len(UNITS) + 1):
    units += _body(f'unit{i}', f'features.{i}', ('depthwise', 'pointwise'))
  return units


def _authors_mobilenet_v2(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  for i, _, _, expands in _inverted_blocks():
    names = ('expand',) * expands + ('depthwise', 'project')
    units += _body(f'block{i}', f'features.{i}', names)
  last = f'features.{i + 1}'
  units.append(_unit('last', f'{last}.0', f'{last}.1', shared_norm=True))
  return units


def _authors_resnet(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  for i, stage, j in _bottlenecks(model):
    block, prefix = f'stage{stage}_block{j}', f'features.{i}'
    units += _body(block, prefix, ('conv1', 'conv2', 'conv3'))
    if j == 1:
      shortcut = f'{prefix}.shortcut'
      units.append(_unit(f'{block}/shortcut', f'{shortcut}.0', f'{shortcut}.1'))
  return units


def _authors_shufflenet(model: SlimNet) -> list[Unit]:
  def grouped(path, prefix):
    branches = [f'{prefix}_{group}' for group in range(GROUPS)]
    return Unit(
      tuple(path.split('/')),
      tuple(f'{branch}.0' for branch in branches),
      tuple(f'{branch}.1' for branch in branches),
    )

  units = [grouped('stem', 'head')]
  i = 0
  for stage, (_, count) in enumerate(SHUFFLE_STAGES, 1):
    for j in range(1, count + 1):
      path, prefix = f'stage{stage}_unit{j}', f'features.{i}'
      units += [
        _unit(f'{path}/depthwise', f'{prefix}.b.1', f'{prefix}.b.2'),
        grouped(f'{path}/compress', f'{prefix}.a'),
        grouped(f'{path}/expand', f'{prefix}.c'),
      ]
      i += 1
  return units


AUTHORS = (
  Layout(MobileNetV1, _authors_mobilenet_v1, 'classifier.0'),
  Layout(MobileNetV2, _authors_mobilenet_v2, 'classifier.0'),
  Layout(ResNet, _authors_resnet, 'classifier.0'),
  Layout(ShuffleNet, _authors_shufflenet, 'classifier.0'),
)


# torchvision and timm.


def resnet_units(model: SlimNet) -> list[Unit]:
  """Returns the units of torchvision's and timm's ResNets."""
  units = [_unit('stem', 'conv1', 'bn1')]
  for _, stage, j in _bottlenecks(model):
    block, prefix = f'stage{stage}_block{j}', f'layer{stage}.{j - 1}'
    units += [
      _unit(f'{block}/conv{n}', f'{prefix}.conv{n}', f'{prefix}.bn{n}')
      for n in (1, 2, 3)
    ]
    if j == 1:
      shortcut = f'{prefix}.downsample'
      units.append(_unit(f'{block}/shortcut', f'{shortcut}.0', f'{shortcut}.1'))
  return units


def _torchvision_mobilenet_v2(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'features.0.0', 'features.0.1')]
  for i, _, _, expands in _inverted_blocks():
    prefix = f'features.{i}.conv'
    for n, name in enumerate(('expand',) * expands + ('depthwise',)):
      conv = f'{prefix}.{n}'
      units.append(_unit(f'block{i}/{name}', f'{conv}.0', f'{conv}.1'))
    n = 1 + expands
    units.append(
      _unit(f'block{i}/project', f'{prefix}.{n}', f'{prefix}.{n + 1}')
    )
  last = f'features.{i + 1}'
  return [*units, _unit('last', f'{last}.0', f'{last}.1')]


def _timm_mobilenet_v1(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'conv_stem', 'bn1')]
  stage = j = 0
  for i, (_, stride) in enumerate(UNITS, 1):
    # A stride begins a stage; the first unit alone is the first stage.
    stage, j = (stage + 1, 0) if stride > 1 else (stage, j + (i > 1))
    block = f'blocks.{stage}.{j}'
    units += [
      _unit(f'unit{i}/depthwise', f'{block}.conv_dw', f'{block}.bn1'),
      _unit(f'unit{i}/pointwise', f'{block}.conv_pw', f'{block}.bn2'),
    ]
  return units


def _timm_mobilenet_v2(model: SlimNet) -> list[Unit]:
  units = [_unit('stem', 'conv_stem', 'bn1')]
  for i, stage, j, expands in _inverted_blocks():
    names = {'depthwise': 'conv_dw', 'project': 'conv_pw'}
    if expands:
      names = {'expand': 'conv_pw', 'depthwise': 'conv_dw'}
      names['project'] = 'conv_pwl'
    block = f'blocks.{stage}.{j}'
    units += [
      _unit(f'block{i}/{ours}', f'{block}.{theirs}', f'{block}.bn{n}')
      for n, (ours, theirs) in enumerate(names.items(), 1)
    ]
  return [*units, _unit('last', 'conv_head', 'bn2')]


ORDINARY: Mapping[str, Layout] = {
  'resnet': Layout(ResNet, resnet_units, 'fc'),
  'torchvision_mobilenet_v2': Layout(
    MobileNetV2, _torchvision_mobilenet_v2, 'classifier.1'
  ),
  'timm_mobilenet_v1': Layout(MobileNetV1, _timm_mobilenet_v1, 'classifier'),
  'timm_mobilenet_v2': Layout(MobileNetV2, _timm_mobilenet_v2, 'classifier'),
}
