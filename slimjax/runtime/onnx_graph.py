"""Writes the forward pass of a network as an ONNX model.

The network's jaxpr is translated operation by operation, so that there is no
second description of it. jax keeps channels last, ONNX first: a value of four
dimensions or more lives in the graph with its second and third axes (height
and width) at the end, and no node has to transpose but the first.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
import pathlib
from typing import Any

import jax
from jax.extend import core
import numpy as np

from slimjax.runtime.bundle import BundleError

OPSET = 17
IR_VERSION = 8  # as old as the opset, for older runtimes


def write_onnx(
  predict: Callable[[Any, jax.Array], jax.Array],
  weights: Any,
  images: jax.ShapeDtypeStruct,
  path: pathlib.Path,
  *,
  name: str,
) -> None:
  """Writes `predict(weights, images)` with the weights inside.

  The model takes `images`, float32 [b, h, w, 3], and gives `logits`.

  Args:
    predict: the forward pass; it computes in float32 throughout.
    weights: tree of arrays.
    images: shape of the images; the batch may be symbolic.
    path: the file to write.
    name: name of the graph.

  Raises:
    BundleError: the network uses an operation that has no translation here.
  """
  try:
    import onnx
    from onnx import helper
  except ImportError as error:
    raise ImportError(
      "the format 'onnx' needs the extra: pip install 'slimjax[onnx]'"
    ) from error

  jaxpr = jax.make_jaxpr(predict)(weights, images)
  graph = _Graph()
  constants = [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]
  inputs = [*constants, graph.from_channels_last('images', images.shape)]
  (logits,) = graph.run(jaxpr.jaxpr, jaxpr.consts, inputs)
  graph.node('Identity', [graph.name(logits)], output='logits')

  batch = images.shape[0] if isinstance(images.shape[0], int) else 'b'
  tensor = onnx.TensorProto.FLOAT
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      name,
      [
        helper.make_tensor_value_info(
          'images', tensor, [batch, *images.shape[1:]]
        )
      ],
      [
        helper.make_tensor_value_info(
          'logits', tensor, [batch, *logits.shape[1:]]
        )
      ],
      graph.constants,
    ),
    opset_imports=[helper.make_opsetid('', OPSET)],
    producer_name='slimjax',
  )
  model.ir_version = IR_VERSION
  onnx.checker.check_model(model, full_check=True)
  onnx.save_model(model, path)


class _Value:
  """A tensor of the graph: its name, and its shape in jax's order of axes."""

  def __init__(self, name: str, shape: Sequence[Any]):
    self.name, self.shape = name, tuple(shape)


def _layout(rank: int) -> tuple[int, ...]:
  """Returns the axes of jax in the order they have in the graph."""
  if rank < 4:
    return tuple(range(rank))
  return (0, *range(3, rank), 1, 2)


class _Graph:
  """Collects nodes and constants, in the order of the jaxpr."""

  def __init__(self) -> None:
    self.nodes: list[Any] = []
    self.constants: list[Any] = []
    self._made = 0

  def _fresh(self, kind: str) -> str:
    self._made += 1
    return f'{kind}_{self._made}'

  def node(self, kind: str, inputs, output: str | None = None, **attributes):
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
    if isinstance(value, _Value):
      return value.name
    return self.constant(np.transpose(value, _layout(np.ndim(value))))

  def from_channels_last(self, name: str, shape: Sequence[Any]) -> _Value:
    layout = _layout(len(shape))
    if layout != tuple(range(len(shape))):
      name = self.node('Transpose', [name], perm=layout)
    return _Value(name, shape)

  def to_channels_last(self, value: Any) -> str:
    layout = _layout(len(value.shape))
    if layout == tuple(range(len(value.shape))):
      return self.name(value)
    return self.node(
      'Transpose', [self.name(value)], perm=np.argsort(layout).tolist()
    )

  def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]):
    """Returns the outputs of a jaxpr; what is constant is computed now."""
    values: dict[Any, Any] = dict(
      zip(
        (*jaxpr.constvars, *jaxpr.invars),
        (*map(np.asarray, consts), *inputs),
        strict=True,
      )
    )

    def read(atom):
      if isinstance(atom, core.Literal):
        return np.asarray(atom.val)
      return values[atom]

    for equation in jaxpr.eqns:
      outputs = self._equation(equation, [read(v) for v in equation.invars])
      values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]

  def _equation(self, equation, inputs):
    name, params = equation.primitive.name, equation.params
    if name == 'platform_index':
      # The model is for no platform of XLA: the native formulation is taken.
      return [np.asarray(params['platforms'].index(None))]
    if name == 'cond':
      index, *inputs = inputs
      if isinstance(index, np.ndarray):
        branch = params['branches'][int(index)]
        return self.run(branch.jaxpr, branch.consts, inputs)
    for inner in params.values():
      if isinstance(inner, core.ClosedJaxpr):
        return self.run(inner.jaxpr, inner.consts, inputs)
    if all(isinstance(x, np.ndarray) for x in inputs):
      bind = equation.primitive.bind
      outputs = bind(*inputs, **params)
      multiple = equation.primitive.multiple_results
      return [np.asarray(x) for x in (outputs if multiple else [outputs])]
    if name == 'optimization_barrier':
      return inputs
    if name not in _TRANSLATIONS:
      raise BundleError(
        f'the operation {name} has no translation to ONNX; export this network'
        " with the format 'jax' only"
      )
    (output,) = equation.outvars
    shape = output.aval.shape
    return [_TRANSLATIONS[name](self, inputs, params, shape)]


def _refuse(what):
  raise BundleError(
    f'{what} has no translation to ONNX; export this network with the format'
    " 'jax' only"
  )


def _elementwise(kind):
  def translate(graph, inputs, params, shape):
    del params
    return _Value(graph.node(kind, [graph.name(x) for x in inputs]), shape)

  return translate


def _bound(value, limit):
  """Returns whether a value is a scalar constant that `limit` accepts."""
  return isinstance(value, np.ndarray) and value.size == 1 and limit(value)


def _maximum(graph, inputs, params, shape):
  left, right = inputs
  for x, other in ((left, right), (right, left)):
    if _bound(other, lambda value: value == 0):
      return _Value(graph.node('Relu', [graph.name(x)]), shape)
  return _elementwise('Max')(graph, inputs, params, shape)


def _minimum(graph, inputs, params, shape):
  left, right = inputs
  for x, other in ((left, right), (right, left)):
    if _bound(other, np.isfinite):
      most = graph.constant(other.reshape(()))
      return _Value(graph.node('Clip', [graph.name(x), '', most]), shape)
  return _elementwise('Min')(graph, inputs, params, shape)


def _convert(graph, inputs, params, shape):
  from onnx import helper

  to = helper.np_dtype_to_tensor_dtype(np.dtype(params['new_dtype']))
  return _Value(graph.node('Cast', [graph.name(inputs[0])], to=to), shape)


def _convolution(graph, inputs, params, shape):
  numbers = params['dimension_numbers']
  if (
    numbers.lhs_spec != (0, 3, 1, 2)
    or numbers.rhs_spec != (3, 2, 0, 1)
    or numbers.out_spec != (0, 3, 1, 2)
    or set(params['lhs_dilation']) != {1}
    or params['batch_group_count'] != 1
    or not isinstance(inputs[1], np.ndarray)
  ):
    _refuse('a convolution that is not NHWC with an HWIO kernel')
  images, kernel = inputs
  (top, bottom), (left, right) = params['padding']
  name = graph.node(
    'Conv',
    [graph.name(images), graph.constant(kernel.transpose(3, 2, 0, 1))],
    kernel_shape=kernel.shape[:2],
    strides=params['window_strides'],
    dilations=params['rhs_dilation'],
    pads=(top, left, bottom, right),
    group=params['feature_group_count'],
  )
  return _Value(name, shape)


def _pool(kind, factor=None, **attributes):
  def translate(graph, inputs, params, shape):
    window, strides = params['window_dimensions'], params['window_strides']
    padding = params['padding']
    if len(window) != 4 or any(
      window[i] != 1 or strides[i] != 1 or padding[i] != (0, 0) for i in (0, 3)
    ):
      _refuse('pooling over batch or channels')
    if {*params['base_dilation'], *params['window_dilation']} != {1}:
      _refuse('dilated pooling')
    (top, bottom), (left, right) = padding[1:3]
    name = graph.node(
      kind,
      [graph.name(inputs[0])],
      kernel_shape=window[1:3],
      strides=strides[1:3],
      pads=(top, left, bottom, right),
      **attributes,
    )
    if factor is not None:
      name = graph.node('Mul', [name, graph.constant(factor(window))])
    return _Value(name, shape)

  return translate


def _dot(graph, inputs, params, shape):
  left, right = inputs
  contracting, batch = params['dimension_numbers']
  if (
    batch != ((), ())
    or tuple(map(tuple, contracting)) != ((1,), (0,))
    or len(left.shape) != 2
    or len(right.shape) != 2
  ):
    _refuse('a product that is not of two matrices')
  return _Value(
    graph.node('MatMul', [graph.name(left), graph.name(right)]), shape
  )


def _reshape(graph, inputs, params, shape):
  (x,) = inputs
  if params.get('dimensions') is not None:
    _refuse('a reshape that transposes')
  old = x.shape
  # Where channels alone are split or joined, the order of axes stays.
  aligned = min(len(old), len(shape)) >= 4 and old[:3] == shape[:3]
  layout = _layout(len(shape)) if aligned else range(len(shape))
  sizes = [shape[i] if isinstance(shape[i], int) else -1 for i in layout]
  if sizes.count(-1) > 1:
    _refuse('a reshape with several unknown sizes')
  name = graph.name(x) if aligned else graph.to_channels_last(x)
  name = graph.node(
    'Reshape', [name, graph.constant(np.asarray(sizes, np.int64))]
  )
  if aligned:
    return _Value(name, shape)
  return graph.from_channels_last(name, shape)


def _transpose(graph, inputs, params, shape):
  (x,) = inputs
  layout = _layout(len(shape))
  where = np.argsort(layout)
  perm = [int(where[params['permutation'][axis]]) for axis in layout]
  return _Value(graph.node('Transpose', [graph.name(x)], perm=perm), shape)


def _concatenate(graph, inputs, params, shape):
  axis = _layout(len(shape)).index(params['dimension'])
  names = [graph.name(x) for x in inputs]
  return _Value(graph.node('Concat', names, axis=axis), shape)


def _reduce_sum(graph, inputs, params, shape):
  (x,) = inputs
  layout = _layout(len(x.shape))
  kept = [axis for axis in layout if axis not in params['axes']]
  in_place = kept == sorted(kept) and len(kept) < 4
  name = graph.name(x) if in_place else graph.to_channels_last(x)
  axes = [layout.index(a) if in_place else a for a in params['axes']]
  name = graph.node(
    'ReduceSum',
    [name, graph.constant(np.asarray(axes, np.int64))],
    keepdims=0,
  )
  return (
    _Value(name, shape) if in_place else graph.from_channels_last(name, shape)
  )


def _squeeze(graph, inputs, params, shape):
  return _reshape(graph, inputs, {'dimensions': None}, shape)


_TRANSLATIONS: dict[str, Callable[..., _Value]] = {
  'add': _elementwise('Add'),
  'concatenate': _concatenate,
  'conv_general_dilated': _convolution,
  'convert_element_type': _convert,
  'div': _elementwise('Div'),
  'dot_general': _dot,
  'exp': _elementwise('Exp'),
  'logistic': _elementwise('Sigmoid'),
  'max': _maximum,
  'min': _minimum,
  'mul': _elementwise('Mul'),
  'reduce_sum': _reduce_sum,
  'reduce_window_max': _pool('MaxPool'),
  'reduce_window_sum': _pool(
    'AveragePool',
    factor=lambda window: np.float32(math.prod(window)),
    count_include_pad=1,
  ),
  'reshape': _reshape,
  'squeeze': _squeeze,
  'sub': _elementwise('Sub'),
  'tanh': _elementwise('Tanh'),
  'transpose': _transpose,
}
