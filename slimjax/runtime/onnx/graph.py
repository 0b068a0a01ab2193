"""Builds the graph of an ONNX model: its nodes, constants and values.

jax keeps channels last, ONNX first: a value of four dimensions or more lives in
the graph with its second and third axes (height and width) at the end, and no
node has to transpose but the first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Value:
  """A tensor of the graph: its name, and its shape in jax's order of axes."""

  def __init__(self, name: str, shape: Sequence[Any]):
    self.name, self.shape = name, tuple(shape)


class Repeated(Value):
  """A value that stands for a larger one, repeated along some axes.

  Elementwise operations of ONNX repeat it by themselves; for other operations a
  node is written that repeats it.

  Attributes:
    name: name of the value, whose size is 1 along these axes.
    shape: shape of the larger value.
  """


def layout(rank: int) -> tuple[int, ...]:
  """Returns the axes of jax in the order they have in the graph."""
  if rank < 4:
    return tuple(range(rank))
  return (0, *range(3, rank), 1, 2)


class Graph:
  """Collects nodes and constants, in the order they are made."""

  def __init__(self, images: str) -> None:
    """Starts an empty graph.

    Args:
      images: name of the graph's input, whose batch is the unknown size.
    """
    self.nodes: list[Any] = []
    self.constants: list[Any] = []
    self._images = images
    self._made = 0

  def _fresh(self, kind: str) -> str:
    self._made += 1
    return f'{kind}_{self._made}'

  def node(
    self,
    kind: str,
    inputs: Sequence[str],
    output: str | None = None,
    **attributes: Any,
  ) -> str:
    """Adds an operation; returns the name of its output."""
    from onnx import helper

    output = output or self._fresh(kind)
    self.nodes.append(
      helper.make_node(kind, inputs, [output], name=output, **attributes)
    )
    return output

  def constant(self, array: np.ndarray) -> str:
    """Adds an array as it is, whatever its axes mean; returns its name."""
    from onnx import numpy_helper

    name = self._fresh('constant')
    self.constants.append(
      numpy_helper.from_array(np.ascontiguousarray(array), name)
    )
    return name

  def name(self, value: Any) -> str:
    """Returns the name of a value in the graph's order of axes."""
    if isinstance(value, Repeated):
      return self.node('Expand', [value.name, self._sizes(value.shape)])
    return self.repeatable(value)

  def repeatable(self, value: Any) -> str:
    """Returns the same for an operation that repeats values by itself."""
    if isinstance(value, Value):
      return value.name
    return self.constant(np.transpose(value, layout(np.ndim(value))))

  def _sizes(self, shape: Sequence[Any]) -> str:
    """Returns the name of a shape, in the graph's order; it may be unknown."""
    sizes = [shape[axis] for axis in layout(len(shape))]
    if all(isinstance(size, int) for size in sizes):
      return self.constant(np.asarray(sizes, np.int64))
    batch = self.node('Shape', [self._images], start=0, end=1)
    rest = self.constant(np.asarray(sizes[1:], np.int64))
    return self.node('Concat', [batch, rest], axis=0)

  def from_channels_last(self, name: str, shape: Sequence[Any]) -> Value:
    """Returns a tensor that has jax's order of axes as a value."""
    order = layout(len(shape))
    if order != tuple(range(len(shape))):
      name = self.node('Transpose', [name], perm=order)
    return Value(name, shape)

  def to_channels_last(self, value: Any) -> str:
    """Returns the name of a value in jax's order of axes."""
    order = layout(len(value.shape))
    if order == tuple(range(len(value.shape))):
      return self.name(value)
    return self.node(
      'Transpose', [self.name(value)], perm=np.argsort(order).tolist()
    )
