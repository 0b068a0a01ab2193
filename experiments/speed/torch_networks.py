"""Slimmable MobileNet v1 and ResNet-50 in PyTorch, to compare with.

Written to be as fast as PyTorch allows on a CPU and no more general than the
experiments need: channels-last tensors, in-place activations, the fused SGD,
and gradients of narrow switches accumulated straight into the leading channels
of the full gradient. `state_dict()` has the names and shapes of the published
slimmable checkpoints.
"""

from collections.abc import Sequence
import copy
import warnings

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Said of the gradients of `leading`, whose layout is meant.
warnings.filterwarnings('ignore', message='.*gradient layout contract.*')

WIDTHS = (0.25, 0.5, 0.75, 1.0)

# (channels, stride) of the separable blocks: Howard et al. 2017, table 1.
MOBILENET_BLOCKS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  *[(512, 1)] * 5,
  (1024, 2),
  (1024, 1),
)
# (channels, blocks, stride) of the stages: He et al. 2016, table 1.
RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def round_to_8(channels: float) -> int:
  """Returns the nearest multiple of 8 that is not more than 10 % below."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


def leading(weight: torch.Tensor, out: int, ins: int) -> torch.Tensor:
  """Returns `weight[:out, :ins]`, as a leaf if the gradient exists already.

  The gradient of a slice is a full-size zero tensor with the slice filled in,
  which is then added at full size. A leaf whose `.grad` aliases the leading
  channels of the full gradient takes the sum in place, at its own size.
  """
  if weight.shape[:2] == (out, ins):
    return weight
  part = weight[:out, :ins]
  if weight.grad is not None and torch.is_grad_enabled():
    part = part.detach().requires_grad_()
    part.grad = weight.grad[:out, :ins]
  return part


class SlimConv(nn.Conv2d):
  """A convolution whose switch i has `outs[i]` leading output channels."""

  def __init__(self, in_channels, outs, size, stride=1, depthwise=False):
    super().__init__(
      in_channels,
      outs[-1],
      size,
      stride,
      padding=size // 2,
      groups=outs[-1] if depthwise else 1,
      bias=False,
    )
    self.outs = outs

  def forward(self, x, switch):
    out = self.outs[switch]
    groups = out if self.groups > 1 else 1
    weight = leading(self.weight, out, x.shape[1] // groups)
    return functional.conv2d(
      x, weight, self.bias, self.stride, self.padding, 1, groups
    )


class Norm(nn.Module):
  """`nn.BatchNorm2d` without the count of batches, which nobody reads."""

  def __init__(self, channels):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.register_buffer('running_mean', torch.zeros(channels))
    self.register_buffer('running_var', torch.ones(channels))
    self.eps = 1e-5

  def forward(self, x):
    return functional.batch_norm(
      x,
      self.running_mean,
      self.running_var,
      self.weight,
      self.bias,
      self.training,
      momentum=0.1,
      eps=self.eps,
    )


class SwitchableNorm(nn.Module):
  """One batch norm per switch."""

  def __init__(self, channels):
    super().__init__()
    self.bn = nn.ModuleList(Norm(c) for c in channels)

  def forward(self, x, switch):
    return self.bn[switch](x)


class SlimLinear(nn.Linear):
  """A classifier that reads the channels it is given."""

  def forward(self, x, switch):
    weight = leading(self.weight, self.out_features, x.shape[1])
    return functional.linear(x, weight, self.bias)


class Activation(nn.Module):
  def __init__(self, six):
    super().__init__()
    self.six = six

  def forward(self, x, switch):
    return (functional.relu6 if self.six else functional.relu)(x, inplace=True)


class MaxPool(nn.Module):
  def forward(self, x, switch):
    return functional.max_pool2d(x, 3, 2, padding=1)


class Layers(nn.Sequential):
  """A sequence of layers that are told the switch."""

  def forward(self, x, switch):
    for layer in self:
      x = layer(x, switch)
    return x


class Separable(nn.Module):
  """Depthwise and pointwise convolution, each with norm and ReLU6."""

  def __init__(self, ins, outs, stride):
    super().__init__()
    self.body = Layers(
      SlimConv(ins[-1], ins, 3, stride, depthwise=True),
      SwitchableNorm(ins),
      Activation(six=True),
      SlimConv(ins[-1], outs, 1),
      SwitchableNorm(outs),
      Activation(six=True),
    )

  def forward(self, x, switch):
    return self.body(x, switch)


class Bottleneck(nn.Module):
  """A residual block with its stride in the 3x3 convolution."""

  def __init__(self, ins, mids, outs, stride):
    super().__init__()
    self.body = Layers(
      SlimConv(ins[-1], mids, 1),
      SwitchableNorm(mids),
      Activation(six=False),
      SlimConv(mids[-1], mids, 3, stride),
      SwitchableNorm(mids),
      Activation(six=False),
      SlimConv(mids[-1], outs, 1),
      SwitchableNorm(outs),
    )
    self.shortcut = None
    if stride != 1 or ins != outs:
      self.shortcut = Layers(
        SlimConv(ins[-1], outs, 1, stride), SwitchableNorm(outs)
      )

  def forward(self, x, switch):
    residual = self.shortcut(x, switch) if self.shortcut else x
    return functional.relu(self.body(x, switch).add_(residual), inplace=True)


class SlimNet(nn.Module):
  """Features, global average, classifier; images are [b, 3, h, w]."""

  def __init__(self, features, channels, widths, num_classes):
    super().__init__()
    self.widths = tuple(widths)
    self.features = Layers(*features)
    self.classifier = Layers(SlimLinear(channels, num_classes))
    for module in self.modules():
      if isinstance(module, SlimConv):
        fan_out = module.kernel_size[0] ** 2 * module.out_channels
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
      elif isinstance(module, SlimLinear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    self.to(memory_format=torch.channels_last)

  def forward(self, x: torch.Tensor, switch: int) -> torch.Tensor:
    """Returns the logits [b, classes] of a switch, by index; -1 is widest."""
    x = self.features(x, switch).mean((2, 3))  # [b, c, h, w] -> [b, c]
    return self.classifier(x, switch)


def create_net(
  name: str, widths: Sequence[float] = WIDTHS, num_classes: int = 1000
) -> SlimNet:
  """Returns 'mobilenet_v1' or 'resnet50' with one switch per width.

  Weights have the size of the last and widest width, so that one width gives
  the individually trained network.
  """
  if list(widths) != sorted(set(widths)):
    raise ValueError(f'widths must ascend, got {widths}')
  if name == 'mobilenet_v1':

    def slim(channels):
      return [round_to_8(channels * width) for width in widths]

    ins = slim(32)
    stem = Layers(
      SlimConv(3, ins, 3, 2), SwitchableNorm(ins), Activation(six=True)
    )
    features = [stem]
    for channels, stride in MOBILENET_BLOCKS:
      features.append(Separable(ins, slim(channels), stride))
      ins = slim(channels)
  elif name == 'resnet50':

    def slim(channels):
      return [int(channels * width) for width in widths]

    ins = slim(64)
    stem = Layers(
      SlimConv(3, ins, 7, 2),
      SwitchableNorm(ins),
      Activation(six=False),
      MaxPool(),
    )
    features = [stem]
    for channels, blocks, stride in RESNET_STAGES:
      mids, outs = slim(channels), slim(4 * channels)
      for block in range(blocks):
        features.append(Bottleneck(ins, mids, outs, stride if not block else 1))
        ins = outs
  else:
    raise ValueError(f'got {name!r}, expected mobilenet_v1 or resnet50')
  return SlimNet(features, ins[-1], widths, num_classes)


def fold_norms(net: SlimNet) -> SlimNet:
  """Returns the network for inference, its norms inside its convolutions.

  Args:
    net: a network of one width.
  """
  if len(net.widths) != 1:
    raise ValueError(f'expected a network of one width, got {net.widths}')
  net = copy.deepcopy(net).eval()
  for layers in [m for m in net.modules() if isinstance(m, Layers)]:
    kept = []
    for layer in layers:
      if isinstance(layer, SwitchableNorm):
        kept.append(fuse_conv_bn_eval(kept.pop(), layer.bn[0]))
      else:
        kept.append(layer)
    del layers[:]
    layers.extend(kept)
  return net.to(memory_format=torch.channels_last)


def count_params(net: SlimNet) -> tuple[int, int]:
  """Returns the counts of conv + classifier and of the widest switch's BN."""
  conv_fc, bn = 0, 0
  widest = f'.bn.{len(net.widths) - 1}.'
  for name, param in net.named_parameters():
    if '.bn.' not in name:
      conv_fc += param.numel()
    elif widest in name:
      bn += param.numel()
  return conv_fc, bn


class Trainer:
  """The slimmable step and its parts, on one network and one optimizer.

  Weight decay falls on the weights of dense convolutions and of the classifier.
  `optimizer` is how SGD is carried out, 'fused' or 'foreach'.
  """

  def __init__(
    self,
    net: SlimNet,
    lr: float = 0.1,
    weight_decay: float = 1e-4,
    optimizer: str = 'fused',
  ):
    self.net = net.train()
    decayed, rest = [], []
    for param in net.parameters():
      dense = param.ndim > 1 and param.shape[1] > 1
      (decayed if dense else rest).append(param)
    self.optimizer = torch.optim.SGD(
      [
        {'params': decayed, 'weight_decay': weight_decay},
        {'params': rest, 'weight_decay': 0.0},
      ],
      lr=lr,
      momentum=0.9,
      nesterov=True,
      **{optimizer: True},
    )

  def forward(self, images: torch.Tensor, switch: int = -1) -> torch.Tensor:
    """Returns the logits of one switch in training mode, with no gradient."""
    with torch.no_grad():
      return self.net(images, switch)

  def clear(self) -> None:
    self.optimizer.zero_grad(set_to_none=True)

  def accumulate(
    self, images: torch.Tensor, labels: torch.Tensor, switch: int = -1
  ) -> torch.Tensor:
    """Adds the gradients of one switch and returns its loss."""
    loss = functional.cross_entropy(self.net(images, switch), labels)
    loss.backward()
    return loss.detach()

  def step(
    self, images: torch.Tensor, labels: torch.Tensor
  ) -> list[torch.Tensor]:
    """Trains all switches on a batch; returns losses, of the widest first."""
    self.clear()
    switches = reversed(range(len(self.net.widths)))
    losses = [self.accumulate(images, labels, s) for s in switches]
    self.optimizer.step()
    return losses
