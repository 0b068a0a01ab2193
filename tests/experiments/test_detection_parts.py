"""The parts of a detector that are timed are all of it."""

import importlib.util

import detectors
import jax
import numpy as np
from places import ROOT

import slimjax

WIDTH = 0.5


def script():
  path = ROOT / 'experiments' / 'detection_parts' / 'measure.py'
  spec = importlib.util.spec_from_file_location('detection_parts', path)
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made


def test_the_parts_one_after_the_other_are_the_whole():
  measure = script()
  model = detectors.tiny(widths=(WIDTH,))
  variables = slimjax.init(model, jax.random.key(0), image_size=64)
  images = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
  calls, given = measure.compiled(model, variables, WIDTH, images)
  assert list(calls) == [*measure.parts_of(model), 'whole']
  whole = calls['whole']()
  assert whole['valid'].any()
  heads = {name: given[name] for name in ('masks', 'keypoints')}
  for name, array in {**given['outputs'], **heads}.items():
    np.testing.assert_allclose(
      whole[name], array, rtol=1e-4, atol=1e-4, err_msg=name
    )
  assert set(whole) == {*given['outputs'], *heads}
  least = measure.processor_ms({'none': lambda: 0, 'all': calls['whole']}, 1)
  assert list(least) == ['none', 'all']
