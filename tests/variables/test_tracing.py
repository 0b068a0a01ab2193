"""A width is one trace under jit, and a traced one names the mend."""

import functools

from flax import linen as nn
import jax
import numpy as np
from own_nets import close
from own_nets import drawn
from own_nets import images_of
from own_nets import make
from own_nets import Net
import pytest

import slimjax
from slimjax.layers import SlimConv


class Counted(Net):
  """Tells how often it has been traced."""

  calls = 0

  @nn.compact
  def __call__(self, images, *, width, train=False):
    type(self).calls += 1
    (full,), (active,) = self.full_channels, self.channels(width)
    return self.classify(SlimConv(full, name='conv0')(images, active))


def test_one_trace_a_width():
  model, images = make(Counted), images_of()
  variables = drawn(model)
  slimjax.extract(model, variables, width=1.0)  # shapes are evaluated
  predict = jax.jit(slimjax.apply, static_argnums=0, static_argnames='width')
  Counted.calls = 0
  names = (1, 1.0, np.float32(1), np.float64(1))
  logits = [predict(model, variables, images, width=w) for w in names]
  assert Counted.calls == 1
  # jax tells static numbers of several types apart, as the docstring says.
  assert predict._cache_size() == len(names)
  for width in (1.0, *model.find_widths(['1.0', 'w100'])):
    predict(model, variables, images, width=width)
  assert predict._cache_size() == len(names)
  logits += [slimjax.apply(model, variables, images, width=w) for w in names]
  assert Counted.calls == 1
  for other in logits:
    close(other, logits[0], 0)
  for found in model.find_widths(['1.0', 'w100', 1]):
    close(predict(model, variables, images, width=found), logits[0], 0)
  assert Counted.calls == 1


def test_a_traced_width_names_the_mend():
  model = make(Counted)
  variables = drawn(model)
  forward = functools.partial(slimjax.apply, model)
  with pytest.raises(TypeError, match="static_argnames='width'"):
    jax.jit(forward)(variables, images_of(), width=0.5)


def test_a_traced_model_names_the_mend():
  model = make(Counted)
  variables, images = drawn(model), images_of()
  predict = jax.jit(slimjax.apply, static_argnames='width')
  with pytest.raises(TypeError, match=r'jax\.jit\(slimjax.apply, static_argn'):
    predict(model, variables, images, width=0.5)
  for call in (
    lambda model: slimjax.extract(model, variables, width=0.5),
    lambda model: slimjax.profile_model(model, width=0.5),
    lambda model: slimjax.fold_batch_norm(model, variables),
    lambda model: slimjax.init(model, jax.random.key(0)),
  ):
    with pytest.raises(TypeError, match='model is traced .*static_argnums=0'):
      jax.jit(call)(model)
