"""Writes the forward pass of a network as an ONNX model.

The network's jaxpr is translated operation by operation, so that there is no
second description of it.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import jax
from jax.extend import core
import numpy as np

from slimjax.runtime.errors import BundleError
from slimjax.runtime.onnx.graph import Graph
from slimjax.runtime.onnx.operations import TRANSLATIONS

OPSET = 17
IR_VERSION = 8  # as old as the opset, for older runtimes


def write_onnx(
  predict: Callable[[Any, jax.Array], jax.Array],
  weights: Any,
  images: jax.ShapeDtypeStruct,
  path: pathlib.Path,
  *,
  name: str,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes `predict(weights, images)` with the weights inside.

  The model takes `images`, [b, h, w, 3], and gives `logits`.

  Args:
    predict: the forward pass; it computes in float32 throughout.
    weights: tree of arrays.
    images: shape and type of the images, float32 or uint8; the batch may be
      symbolic.
    path: the file to write.
    name: name of the graph.
    metadata: description of the model, which the file holds (`metadata_props`,
      in ONNX Runtime `get_modelmeta().custom_metadata_map`); default: none.

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
  graph = Graph('images')
  constants = [np.asarray(leaf) for leaf in jax.tree.leaves(weights)]
  inputs = [*constants, graph.from_channels_last('images', images.shape)]
  (logits,) = _translate(graph, jaxpr.jaxpr, jaxpr.consts, inputs)
  graph.node('Identity', [graph.name(logits)], output='logits')

  batch = images.shape[0] if isinstance(images.shape[0], int) else 'b'
  describe = helper.make_tensor_value_info
  kind = helper.np_dtype_to_tensor_dtype(np.dtype(images.dtype))
  single = onnx.TensorProto.FLOAT
  model = helper.make_model(
    helper.make_graph(
      graph.nodes,
      name,
      [describe('images', kind, [batch, *images.shape[1:]])],
      [describe('logits', single, [batch, *logits.shape[1:]])],
      graph.constants,
    ),
    opset_imports=[helper.make_opsetid('', OPSET)],
    producer_name='slimjax',
  )
  model.ir_version = IR_VERSION
  helper.set_model_props(model, dict(metadata or {}))
  onnx.checker.check_model(model, full_check=True)
  onnx.save_model(model, path)


def _translate(
  graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]
) -> list[Any]:
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
    outputs = _equation(graph, equation, [read(v) for v in equation.invars])
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
  name, params = equation.primitive.name, equation.params
  if name == 'platform_index':
    # The model is for no platform of XLA: the native formulation is taken.
    return [np.asarray(params['platforms'].index(None))]
  if name == 'cond':
    index, *inputs = inputs
    if isinstance(index, np.ndarray):
      branch = params['branches'][int(index)]
      return _translate(graph, branch.jaxpr, branch.consts, inputs)
  for inner in params.values():
    if isinstance(inner, core.ClosedJaxpr):
      return _translate(graph, inner.jaxpr, inner.consts, inputs)
  if _known(equation, inputs):
    outputs = equation.primitive.bind(*inputs, **params)
    multiple = equation.primitive.multiple_results
    return [np.asarray(x) for x in (outputs if multiple else [outputs])]
  if name == 'optimization_barrier':
    return inputs
  if name not in TRANSLATIONS:
    raise BundleError(
      f'the operation {name} has no translation to ONNX; export this network'
      " with the format 'jax' only"
    )
  (output,) = equation.outvars
  return [TRANSLATIONS[name](graph, inputs, params, output.aval.shape)]


def _known(equation: Any, inputs: Sequence[Any]) -> bool:
  """Returns whether an operation can be computed now, whatever the batch."""
  sizes = [size for v in equation.outvars for size in v.aval.shape]
  return all(isinstance(size, int) for size in sizes) and all(
    isinstance(x, np.ndarray) for x in inputs
  )
