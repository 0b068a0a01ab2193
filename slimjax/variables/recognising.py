"""Tells which network a file of weights is of, by the names of its tensors.

Also of those that fit no network here, so that an error can say what it got.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import fnmatch
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A network and what tells it.

  Attributes:
    network: name of the network, in words.
    has: patterns, each of which some name fits.
    lacks: patterns that no name fits; default: none.
    layout: see `Look`.
  """

  network: str
  has: tuple[str, ...]
  lacks: tuple[str, ...] = ()
  layout: str = ''


# The first that fits counts.
_KINDS = (
  # The slimmable networks' authors.
  _Kind(
    "one of the slimmable networks' authors",
    ('features.0.1.bn.0.*',),
    layout='authors',
  ),
  _Kind(
    "the slimmable networks' authors' ShuffleNet",
    ('head_0.1.bn.0.*',),
    layout='authors',
  ),
  # Detectors.
  _Kind(
    "torchvision's fasterrcnn_resnet50_fpn_v2, whose heads have norms",
    ('rpn.head.conv.1.0.weight', 'roi_heads.box_head.*'),
  ),
  _Kind(
    "torchvision's fasterrcnn, maskrcnn or keypointrcnn_resnet50_fpn",
    ('backbone.body.layer1.0.conv3.weight', 'roi_heads.box_head.fc6.weight'),
    layout='detector',
  ),
  _Kind('a detector of torchvision', ('backbone.fpn.*', 'rpn.head.*')),
  _Kind("torchvision's RetinaNet", ('head.classification_head.*',)),
  _Kind('a detector of detectron2', ('backbone.bottom_up.*',)),
  _Kind('a detector of mmdetection', ('neck.lateral_convs.*',)),
  # What resembles a ResNet.
  _Kind('a ResNet-D of timm', ('conv1.6.weight', 'layer1.*')),
  _Kind('an SE-ResNet', ('layer1.0.se*.weight',)),
  _Kind(
    'a ResNet of basic blocks, such as resnet18 or resnet34',
    ('layer1.0.conv2.weight',),
    lacks=('layer1.0.conv3.weight',),
  ),
  _Kind(
    "torchvision's or timm's {resnet}",
    ('layer1.0.conv3.weight', 'layer4.0.downsample.0.weight'),
    layout='resnet',
  ),
  _Kind("Hugging Face's ResNet", ('*embedder.embedder.convolution.weight',)),
  # What resembles a MobileNet.
  _Kind(
    "torchvision's mobilenet_v2",
    ('features.1.conv.0.0.weight',),
    layout='torchvision_mobilenet_v2',
  ),
  _Kind("torchvision's mobilenet_v3", ('features.1.block.0.0.weight',)),
  _Kind(
    'a MobileNet v3 or an EfficientNet of timm',
    ('blocks.*.se.conv_reduce.weight',),
  ),
  _Kind(
    "timm's mobilenetv2",
    ('blocks.0.0.conv_dw.weight', 'blocks.3.3.conv_pwl.weight'),
    lacks=('blocks.5.3.*',),
    layout='timm_mobilenet_v2',
  ),
  _Kind(
    'a network of inverted residuals of timm, such as EfficientNet-Lite or'
    ' MNASNet',
    ('blocks.0.0.conv_dw.weight', 'blocks.1.0.conv_pwl.weight'),
  ),
  _Kind(
    "timm's mobilenetv1_100h, which has one convolution more",
    ('blocks.0.0.conv_dw.weight', 'conv_head.weight'),
  ),
  _Kind(
    "timm's mobilenetv1",
    ('blocks.0.0.conv_dw.weight', 'blocks.4.1.conv_pw.weight'),
    layout='timm_mobilenet_v1',
  ),
  _Kind("Hugging Face's MobileNet", ('*conv_stem.*convolution.weight',)),
  _Kind('a MobileNet v4 of timm', ('blocks.0.0.conv.weight', 'conv_stem.*')),
  # Others that people have.
  _Kind("torchvision's MNASNet", ('layers.8.0.layers.0.weight',)),
  _Kind('a ShuffleNet v2', ('stage2.0.branch1.0.weight',)),
  _Kind("torchvision's EfficientNet", ('features.1.0.block.0.0.weight',)),
  _Kind('a vision transformer', ('*cls_token',)),
  _Kind('a vision transformer', ('*class_token',)),
  _Kind('a Swin transformer', ('*relative_position_bias_table',)),
  _Kind('a ConvNeXt', ('*.layer_scale',)),
  _Kind('a ConvNeXt', ('stages.0.blocks.0.gamma',)),
  _Kind('a DenseNet', ('features.denseblock1.*',)),
  _Kind('a RegNet', ('s1.b1.conv1.conv.weight',)),
  _Kind('a RegNet', ('trunk_output.block1.*',)),
  _Kind('an Inception network', ('*Conv2d_1a_3x3.*',)),
  _Kind('a SqueezeNet', ('features.3.squeeze.weight',)),
  _Kind('a VGG or an AlexNet', ('features.0.weight', 'classifier.6.weight')),
  _Kind('a network of Flax', ('*/kernel',)),
  _Kind('a network of Keras', ('*/kernel:0',)),
)
_DEPTHS: Mapping[tuple[int, ...], str] = {
  (3, 4, 6, 3): '50',
  (3, 4, 23, 3): '101',
  (3, 8, 36, 3): '152',
}
_SHOWN = 3  # tensors of each fault that are named


@dataclasses.dataclass(frozen=True)
class Look:
  """What a file of weights looks like.

  Attributes:
    network: name of the network, in words; default: empty, it is unknown.
    layout: a key of `torch_layouts.ORDINARY`, or 'authors'; default: empty.
  """

  network: str = ''
  layout: str = ''


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Look:
  """Returns what tensors with these names and shapes look like."""
  for kind in _KINDS:
    has = all(_any(shapes, pattern) for pattern in kind.has)
    if not has or any(_any(shapes, pattern) for pattern in kind.lacks):
      continue
    if kind.layout == 'resnet':
      return _resnet(kind.network, shapes)
    return Look(kind.network, kind.layout)
  return Look()


def _any(names: Iterable[str], pattern: str) -> bool:
  if '*' not in pattern:
    return pattern in names
  return bool(fnmatch.filter(names, pattern))


def _resnet(network: str, shapes: Mapping[str, Any]) -> Look:
  """Tells the depth, and the variants that have other shapes only."""
  depths = tuple(
    len({m[1] for name in shapes if (m := re.match(stage, name))})
    for stage in (rf'layer{n}\.(\d+)\.' for n in (1, 2, 3, 4))
  )
  depth = _DEPTHS.get(depths)
  name = f'resnet{depth}' if depth else f'ResNet of {list(depths)} blocks'
  first, second = (
    tuple(shapes.get(f'layer1.0.conv{n}.weight', ())) for n in (1, 2)
  )
  if second[1:2] and first[:1] and second[1] != first[0]:
    return Look(f'a ResNeXt like {name}: its 3x3 convolutions are grouped')
  if first[:1] == (128,):
    return Look(f'a wide ResNet like {name}: its blocks have twice the width')
  return Look(network.format(resnet=name), 'resnet')


def misfit(
  expected: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
) -> list[str]:
  """Returns lines on what does not fit: counts, and the first few of each.

  Args:
    expected: shapes by name.
    found: shapes by name, likewise.

  Returns:
    At most twelve lines; none if all fits.
  """
  missing = [name for name in expected if name not in found]
  extra = [name for name in found if name not in expected]
  misshaped = [
    f'{name}: {list(found[name])}, expected {list(shape)}'
    for name, shape in expected.items()
    if name in found and tuple(found[name]) != tuple(shape)
  ]
  lines = []
  for names, what in (
    (missing, f'missing, of {len(expected)}'),
    (extra, 'not expected'),
    (misshaped, 'misshaped'),
  ):
    if names:
      lines.append(f'  {len(names)} {what}:')
      lines += [f'    {name}' for name in names[:_SHOWN]]
  return lines
