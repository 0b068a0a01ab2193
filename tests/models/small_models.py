"""The families, small, for tests of what each of them has."""

import functools

import jax

import slimjax

FAMILIES = ('mobilenet_v1', 'mobilenet_v2', 'shufflenet', 'resnet14')


def small(name, widths=(0.5, 1.0), **options):
  return slimjax.create_model(name, num_classes=10, widths=widths, **options)


@functools.cache
def shapes_of(model):
  return jax.eval_shape(
    lambda: slimjax.init(model, jax.random.key(0), image_size=64)
  )
