"""Folding a norm keeps the outputs, or is refused."""

from flax import linen as nn
from own_nets import close
from own_nets import drawn
from own_nets import images_of
from own_nets import make
from own_nets import Net
import pytest

import slimjax
from slimjax.layers import ConvNorm
from slimjax.layers import SlimConv
from slimjax.layers import SwitchableBatchNorm


class OwnBias(Net):
  """A biased convolution, and a norm of another epsilon at the top level."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (full,), (active,) = self.full_channels, self.channels(width)
    x = SlimConv(full, use_bias=True, name='first')(images, active)
    if not self.folded:
      norm = SwitchableBatchNorm(epsilon=0.3, folds_into='first', name='second')
      x = norm(x, train=train)
    return self.classify(nn.relu(x))


class Top(Net):
  """A ConvNorm that is not in a block."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (full,), (active,) = self.full_channels, self.channels(width)
    unit = ConvNorm(full, activation=nn.relu, folded=self.folded, name='top')
    return self.classify(unit(images, active, train=train))


class Before(Net):
  """A norm in front of its convolution, beside one that folds."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    (full,), (active,) = self.full_channels, self.channels(width)
    x = self.conv_norm(nn.relu)(full, name='stem')(images, active, train=train)
    x = SwitchableBatchNorm(name='before')(x, train=train)
    x = SlimConv(full, name='conv')(nn.relu(x), active)
    return self.classify(x)


class Nowhere(OwnBias):
  """A norm that folds into a layer that is not there."""

  @nn.compact
  def __call__(self, images, *, width, train=False):
    norm = SwitchableBatchNorm(folds_into='conv', name='norm')
    (full,), (active,) = self.full_channels, self.channels(width)
    x = SlimConv(full, name='other')(images, active)
    return self.classify(norm(x, train=train))


@pytest.mark.parametrize('kind, left', [(OwnBias, 'first'), (Top, 'top')])
def test_folding_keeps_the_outputs(kind, left):
  model = make(kind)
  variables = drawn(model)
  small, weights = slimjax.extract(model, variables, width=0.5)
  folded, fewer = slimjax.fold_batch_norm(small, weights)
  assert set(fewer) == {'params'}
  assert set(fewer['params']) == {left, 'classifier'}
  close(
    slimjax.apply(folded, fewer, images_of(), width=0.5),
    slimjax.apply(small, weights, images_of(), width=0.5),
    1e-4,
  )
  with pytest.raises(ValueError, match='folded already'):
    slimjax.fold_batch_norm(folded, fewer)


@pytest.mark.parametrize(
  'kind, message',
  [
    (Before, 'only the norm of a ConvNorm folds .*, not before'),
    (Nowhere, 'norm folds into conv, but conv is no layer with a kernel'),
  ],
)
def test_norms_that_do_not_fold_are_refused_by_name(kind, message):
  model = make(kind)
  small, weights = slimjax.extract(model, drawn(model), width=0.5)
  with pytest.raises(ValueError, match=message):
    slimjax.fold_batch_norm(small, weights)
