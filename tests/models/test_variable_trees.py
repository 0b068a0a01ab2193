"""The variables are the format of checkpoints: no name of theirs may change."""

import hashlib

from flax import traverse_util
import jax
import numpy as np
import pytest
from small_models import shapes_of
from small_models import small
from tiny_net import TinyNet

import slimjax
from slimjax.variables.format import variable_shapes


def lines(model):
  flat = traverse_util.flatten_dict(shapes_of(model), sep='/')
  return sorted(f'{path} {leaf.shape}' for path, leaf in flat.items())


# The variables of the stem and of the second unit.
MOBILENET_V1 = """\
batch_stats/w050/stem/norm/mean (16,)
batch_stats/w050/stem/norm/var (16,)
batch_stats/w050/unit2/depthwise/norm/mean (32,)
batch_stats/w050/unit2/depthwise/norm/var (32,)
batch_stats/w050/unit2/pointwise/norm/mean (64,)
batch_stats/w050/unit2/pointwise/norm/var (64,)
batch_stats/w100/stem/norm/mean (32,)
batch_stats/w100/stem/norm/var (32,)
batch_stats/w100/unit2/depthwise/norm/mean (64,)
batch_stats/w100/unit2/depthwise/norm/var (64,)
batch_stats/w100/unit2/pointwise/norm/mean (128,)
batch_stats/w100/unit2/pointwise/norm/var (128,)
norm/w050/stem/norm/bias (16,)
norm/w050/stem/norm/scale (16,)
norm/w050/unit2/depthwise/norm/bias (32,)
norm/w050/unit2/depthwise/norm/scale (32,)
norm/w050/unit2/pointwise/norm/bias (64,)
norm/w050/unit2/pointwise/norm/scale (64,)
norm/w100/stem/norm/bias (32,)
norm/w100/stem/norm/scale (32,)
norm/w100/unit2/depthwise/norm/bias (64,)
norm/w100/unit2/depthwise/norm/scale (64,)
norm/w100/unit2/pointwise/norm/bias (128,)
norm/w100/unit2/pointwise/norm/scale (128,)
params/classifier/bias (10,)
params/classifier/kernel (1024, 10)
params/stem/conv/kernel (3, 3, 3, 32)
params/unit2/depthwise/conv/kernel (3, 3, 1, 64)
params/unit2/pointwise/conv/kernel (1, 1, 64, 128)
"""


def test_variables_of_mobilenet_v1():
  parts = {'stem', 'unit2', 'classifier'}
  flat = lines(small('mobilenet_v1'))
  flat = [line for line in flat if parts & set(line.split('/'))]
  assert flat == MOBILENET_V1.splitlines()


# The checksum is of all the lines such as those above.
@pytest.mark.parametrize(
  'name, count, digest',
  [
    ('mobilenet_v1', 245, 'a05ae46647c49527'),
    ('mobilenet_v2', 470, '9876957122616102'),
    ('shufflenet', 443, 'a2573e0f44d5166b'),
    ('resnet14', 155, 'ee98fd530a6703b5'),
    ('resnet50', 479, '5a696cebce0b6f30'),
  ],
)
def test_variable_trees_are_golden(name, count, digest):
  model = small(name)
  assert variable_shapes(model) == shapes_of(model)
  flat = lines(model)
  text = '\n'.join(flat)
  assert len(flat) == count, text
  assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest, text


def test_new_variables():
  model = TinyNet(num_classes=100, widths=(0.25, 1.0))
  variables = slimjax.init(model, jax.random.key(0), image_size=32)
  flat = traverse_util.flatten_dict(variables)
  for path, leaf in flat.items():
    leaf = np.asarray(leaf)
    if path[-1] in ('scale', 'var'):
      assert np.all(leaf == 1), path
    elif path[-1] in ('bias', 'mean'):
      assert np.all(leaf == 0), path
    elif path[1] == 'classifier':
      assert leaf.std() == pytest.approx(0.01, rel=0.05)
    else:
      # Variance 2 / (kh * kw * out) (paper, appendix A), within sampling error.
      kh, kw, _, out = leaf.shape
      expected = np.sqrt(2 / (kh * kw * out))
      assert leaf.std() == pytest.approx(expected, rel=4 / leaf.size**0.5)
