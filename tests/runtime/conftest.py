"""One bundle of digits for all tests of the runtime."""

from bundles import DIGITS
from bundles import ERRORS
from bundles import randomised
from bundles import SIZE
from bundles import WIDTHS
import jax
import pytest
import tiny_net

import slimjax
from slimjax import runtime
from slimjax.data import digits


@pytest.fixture(scope='session')
def model():
  return slimjax.create_model(tiny_net.NAME, num_classes=10, widths=WIDTHS)


@pytest.fixture(scope='session')
def variables(model):
  return randomised(
    model, slimjax.init(model, jax.random.key(0), image_size=SIZE)
  )


@pytest.fixture(scope='session')
def path(model, variables, tmp_path_factory):
  path = tmp_path_factory.mktemp('bundles') / 'digits'
  runtime.export(
    model,
    variables,
    path,
    image_size=SIZE,
    preprocess=digits.preprocess,
    preprocessing=DIGITS.preprocessing,
    class_names=DIGITS.class_names,
    errors=ERRORS,
    validation={'data': 'digits'},
    sample=digits.load('test')['image'][:4],
  )
  return path


@pytest.fixture(scope='module')
def net(path):
  return runtime.load(path)


@pytest.fixture(scope='session')
def both(tmp_path_factory):
  """Returns a bundle with programs and with ONNX models."""
  pytest.importorskip('onnx')
  path = tmp_path_factory.mktemp('bundles') / 'both'
  model = slimjax.create_model(
    tiny_net.NAME, num_classes=10, widths=(0.25, 0.5)
  )
  runtime.export(
    model,
    randomised(model, slimjax.init(model, jax.random.key(0), image_size=SIZE)),
    path,
    image_size=SIZE,
    preprocess=digits.preprocess,
    formats=('jax', 'onnx'),
  )
  return path
