"""US-Nets and AutoSlim's networks say what the published ones say.

A network's widths all run in one program, inside the widest: norms and
statistics of a width stand in its leading channels, zero behind. So little is
compiled; that slices say the same is shown of one width each, and elsewhere.
"""

import functools

from flax import traverse_util
import goldens
import jax
import numpy as np
import pytest

import slimjax
from slimjax.analysis import published
from slimjax.variables import select
from slimjax.variables.slicing import cuts
from slimjax.variables.slicing import describe
from slimjax.variables.slicing import narrow
from slimjax.variables.torch_names import load_torch
from slimjax.variables.torch_names import save_torch

# By the golden: our model, what its widths share, and one that is sliced, too.
NETS = {
  'us_mobilenet_v1': ('mobilenet_v1', ('norm',), 0.375),
  'us_mobilenet_v2': ('mobilenet_v2', ('norm', 'batch_stats/last'), None),
  'autoslim_mobilenet_v1': ('mobilenet_v1', (), 1),
  'autoslim_mobilenet_v2': ('mobilenet_v2', (), None),
  'autoslim_resnet': ('resnet50', (), None),
}


def network(golden):
  """Returns a model, its variables, and its widths by those of the golden."""
  name, shared, _ = NETS[golden]
  widths = {width: width for width in goldens.logits(golden)}
  if golden.startswith('autoslim'):
    widths = dict(zip(widths, published.autoslim(name), strict=True))
  model = slimjax.create_model(
    name, num_classes=1000, widths=tuple(widths.values()), shared=shared
  )
  weights = goldens.weights(golden, only=tuple(widths))
  variables = load_torch(model, weights)
  back = save_torch(model, variables)
  assert {*back} == {*weights}
  for tensor, array in weights.items():
    assert back[tensor].tobytes() == array.tobytes(), tensor
  return model, variables, widths


@functools.partial(jax.jit, static_argnums=0)
def whole(model, params, rest, images):
  variables = {'params': params, **rest}
  return model.apply(variables, images, width=model.widths[0])


@pytest.mark.parametrize('golden', NETS)
def test_logits_are_the_published_ones(golden):
  model, variables, widths = network(golden)
  full = model.full_channels
  bound = narrow(model, full)
  shapes = describe(bound, full)
  images = goldens.images(4)
  logits = goldens.logits(golden)
  assert len(logits) == (7 if golden.startswith('us') else len(widths))
  for key, expected in logits.items():
    width = widths[key]
    selected = select(variables, model.switch(width))
    selected = traverse_util.flatten_dict(selected)
    rest = {}
    for path, cut in cuts(model, width).items():
      if path[0] != 'params':
        (used,), (most,) = cut.shape, shapes[path].shape
        array = np.asarray(selected[path])[:used]
        rest[path] = np.pad(array, (0, most - used))
    rest = traverse_util.unflatten_dict(rest)
    says = whole(bound, variables['params'], rest, images)
    atol = 1e-4 * np.max(np.abs(expected))
    np.testing.assert_allclose(says, expected, rtol=0, atol=atol)
    if key == NETS[golden][2]:
      sliced = slimjax.apply(model, variables, images, width=width)
      np.testing.assert_allclose(sliced, expected, rtol=0, atol=atol)
