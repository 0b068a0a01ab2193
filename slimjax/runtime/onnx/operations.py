"""Translates jax's operations to nodes of an ONNX graph, one function for each.

A function takes the graph, the inputs (values, or arrays where they are known),
the parameters of the operation, and the shape of its output in jax's order.
"""

from collections.abc import Callable
import math

import numpy as np

from slimjax.runtime.errors import BundleError
from slimjax.runtime.onnx.graph import layout
from slimjax.runtime.onnx.graph import Repeated
from slimjax.runtime.onnx.graph import Value


def _refuse(what):
  """Raises BundleError: something has no translation."""
  raise BundleError(
    f'{what} has no translation to ONNX; export this network with the format'
    " 'jax' only"
  )


def _elementwise(kind):
  def translate(graph, inputs, params, shape):
    del params
    # One input of the whole shape, and the others are repeated by themselves.
    whole = any(
      not isinstance(x, Repeated) and len(x.shape) == len(shape) for x in inputs
    )
    name = graph.repeatable if whole else graph.name
    return Value(graph.node(kind, [name(x) for x in inputs]), shape)

  return translate


def _bound(value, limit):
  """Returns whether a value is a scalar constant that `limit` accepts."""
  return isinstance(value, np.ndarray) and value.size == 1 and limit(value)


def _maximum(graph, inputs, params, shape):
  left, right = inputs
  for x, other in ((left, right), (right, left)):
    if _bound(other, lambda value: value == 0):
      return Value(graph.node('Relu', [graph.name(x)]), shape)
  return _elementwise('Max')(graph, inputs, params, shape)


def _minimum(graph, inputs, params, shape):
  left, right = inputs
  for x, other in ((left, right), (right, left)):
    if _bound(other, np.isfinite):
      most = graph.constant(other.reshape(()))
      return Value(graph.node('Clip', [graph.name(x), '', most]), shape)
  return _elementwise('Min')(graph, inputs, params, shape)


def _convert(graph, inputs, params, shape):
  from onnx import helper

  to = helper.np_dtype_to_tensor_dtype(np.dtype(params['new_dtype']))
  return Value(graph.node('Cast', [graph.name(inputs[0])], to=to), shape)


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
  return Value(name, shape)


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
    return Value(name, shape)

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
  return Value(
    graph.node('MatMul', [graph.name(left), graph.name(right)]), shape
  )


def _reshape(graph, inputs, params, shape):
  (x,) = inputs
  if params.get('dimensions') is not None:
    _refuse('a reshape that transposes')
  old = x.shape
  # Where channels alone are split or joined, the order of axes stays.
  aligned = min(len(old), len(shape)) >= 4 and old[:3] == shape[:3]
  order = layout(len(shape)) if aligned else range(len(shape))
  sizes = [shape[i] if isinstance(shape[i], int) else -1 for i in order]
  if sizes.count(-1) > 1:
    _refuse('a reshape with several unknown sizes')
  name = graph.name(x) if aligned else graph.to_channels_last(x)
  name = graph.node(
    'Reshape', [name, graph.constant(np.asarray(sizes, np.int64))]
  )
  if aligned:
    return Value(name, shape)
  return graph.from_channels_last(name, shape)


def _broadcast(graph, inputs, params, shape):
  (x,) = inputs
  sizes = [1] * len(shape)
  for axis, size in zip(params['broadcast_dimensions'], x.shape, strict=True):
    sizes[axis] = size
  if isinstance(x, Value):
    thin = _reshape(graph, inputs, {'dimensions': None}, sizes)
  else:
    thin = np.reshape(x, sizes)
  return Repeated(graph.name(thin), shape)


def _transpose(graph, inputs, params, shape):
  (x,) = inputs
  order = layout(len(shape))
  where = np.argsort(order)
  perm = [int(where[params['permutation'][axis]]) for axis in order]
  return Value(graph.node('Transpose', [graph.name(x)], perm=perm), shape)


def _concatenate(graph, inputs, params, shape):
  axis = layout(len(shape)).index(params['dimension'])
  names = [graph.name(x) for x in inputs]
  return Value(graph.node('Concat', names, axis=axis), shape)


def _reduce_sum(graph, inputs, params, shape):
  (x,) = inputs
  order = layout(len(x.shape))
  kept = [axis for axis in order if axis not in params['axes']]
  in_place = kept == sorted(kept) and len(kept) < 4
  name = graph.name(x) if in_place else graph.to_channels_last(x)
  axes = [order.index(a) if in_place else a for a in params['axes']]
  name = graph.node(
    'ReduceSum',
    [name, graph.constant(np.asarray(axes, np.int64))],
    keepdims=0,
  )
  return (
    Value(name, shape) if in_place else graph.from_channels_last(name, shape)
  )


def _squeeze(graph, inputs, params, shape):
  return _reshape(graph, inputs, {'dimensions': None}, shape)


TRANSLATIONS: dict[str, Callable[..., Value]] = {
  'add': _elementwise('Add'),
  'broadcast_in_dim': _broadcast,
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
