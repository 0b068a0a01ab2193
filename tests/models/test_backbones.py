"""Stage maps of a network without its classifier, as detectors use it."""

import functools

import jax
import jax.numpy as jnp
import pytest
from tiny_net import TinyNet

import slimjax

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
# Channels of the last map at width 0.5.
LAST = {
  'mobilenet_v1': 512,
  'mobilenet_v2': 1280,
  'shufflenet': 480,
  'resnet14': 1024,
}


def described(model, **options):
  initialise = functools.partial(model.init, width=1.0, **options)
  return jax.eval_shape(initialise, jax.random.key(0), IMAGES)


@pytest.mark.parametrize('name', LAST)
def test_features_alone_are_the_network_without_its_classifier(name):
  model = slimjax.create_model(name, num_classes=10, widths=(0.5, 1.0))
  body, whole = described(model, method='features'), described(model)
  assert whole['params'].pop('classifier')
  assert jax.tree.structure(body) == jax.tree.structure(whole)
  run = functools.partial(model.apply, width=0.5)
  features = jax.eval_shape(
    functools.partial(run, method='features'), body, IMAGES
  )
  whole = described(model)
  _, beside = jax.eval_shape(
    functools.partial(run, return_features=True), whole, IMAGES
  )
  assert features == beside
  assert list(features.values())[-1].shape == (1, 2, 2, LAST[name])


def test_a_network_without_stage_maps_is_no_backbone():
  model = TinyNet(num_classes=2, widths=(1.0,))
  with pytest.raises(ValueError, match='TinyNet is no backbone'):
    described(model, method='features')
