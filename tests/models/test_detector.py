"""Whole detectors, equal to torchvision's at every width."""

import functools

import detectors
import goldens
import jax
import numpy as np
import pytest

from slimjax.detection import losses
from slimjax.variables import select
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width

# Every program takes seconds to compile. The losses of the widest are in
# tests/training/test_detector_goldens.py.
CASES = [('tiny_mask', 1.0), ('tiny_mask', 0.5), ('tiny_keypoint', 0.5)]


def close(actual, expected, tolerance=1e-5):
  expected = np.asarray(expected, np.float64)
  assert np.shape(actual) == expected.shape
  gap = np.abs(np.asarray(actual, np.float64) - expected).max()
  assert gap <= tolerance * np.abs(expected).max()


def at(model, variables, width):
  """Returns the network of a width, and what its module is applied to."""
  selected = select(variables, model.switch(width))
  return narrow(model, width), take_width(model, selected, width=width)


@functools.cache
def seen(case, width):
  """Returns the outputs, and those of every module."""
  model = detectors.detector(case)
  small, weights = at(model, detectors.variables(case), width)

  @jax.jit
  def run(weights, images, hw):
    outputs, kept = small.apply(
      weights,
      images,
      hw,
      width=width,
      capture_intermediates=True,
      mutable=['intermediates'],
    )
    return outputs, kept['intermediates']

  batch = detectors.batch(case)
  # What lies outside of an image is nothing to it.
  image = np.where(batch['image'] == 0, 100, batch['image'])
  return jax.device_get(run(weights, image, batch['hw']))


@pytest.mark.parametrize('case, width', CASES)
def test_maps_and_predictions_are_those_of_torchvision(case, width):
  golden, (_, kept) = goldens.detection(case), seen(case, width)
  for level, maps in enumerate(kept['fpn']['__call__'][0], 2):
    name = f'{width}/p{level}'
    close(maps.sum(axis=-1), golden[f'{name}/map'])
    close(maps.sum(axis=(0, 1, 2)), golden[f'{name}/channels'])
  if case != 'tiny_mask':
    return
  # The detector without masks has the same weights and boxes.
  golden = goldens.detection('tiny_faster')
  logits, deltas = kept['rpn']['__call__'][0]
  close(np.concatenate(logits, axis=1), golden[f'{width}/rpn/objectness'])
  close(np.concatenate(deltas, axis=1), golden[f'{width}/rpn/deltas'])
  # They are of every proposal, in order.
  logits, deltas = kept['box_head']['__call__'][0]
  close(logits.reshape(200, 6), golden[f'{width}/box/logits'])
  close(deltas.reshape(200, 24), golden[f'{width}/box/deltas'])


@pytest.mark.parametrize('case, width', CASES)
def test_detections_are_those_of_torchvision(case, width):
  golden, (found, _) = goldens.detection(case), seen(case, width)
  for i in (0, 1):
    name = f'{width}/detections/{i}'
    count = len(golden[f'{name}/boxes'])
    assert found['valid'][i].sum() == count
    close(found['boxes'][i][:count], golden[f'{name}/boxes'])
    close(found['scores'][i][:count], golden[f'{name}/scores'])
    np.testing.assert_array_equal(
      found['labels'][i][:count], golden[f'{name}/labels']
    )
    if case == 'tiny_mask':
      close(found['masks'][i][:4], golden[f'{name}/masks'])


def test_losses_and_gradients_are_those_of_torchvision():
  case, width = 'tiny_mask', 0.5
  golden, model = goldens.detection(case), detectors.detector(case)
  small, weights = at(model, detectors.variables(case), width)

  @jax.jit
  def run(params, batch):
    def loss(params):
      variables = {**weights, 'params': params}
      found, metrics = small.apply(
        variables, batch, width=width, method='losses'
      )
      return sum(map(losses.mean, found.values())), (found, metrics)

    return jax.grad(loss, has_aux=True)(params)

  tree, (found, metrics) = run(weights['params'], detectors.batch(case))
  for name, (total, count) in found.items():
    theirs = golden[f'{width}/loss/{detectors.LOSSES[name]}']
    close(total / count, theirs, 1e-4)
  sampled = sum(golden[f'{width}/rpn_sampled/{i}'].sum() for i in (0, 1))
  assert found['objectness'][1] == sampled
  objects = [golden[f'{width}/rois/{i}/regression'] for i in (0, 1)]
  assert found['mask'][1] == 28 * 28 * sum(map(len, objects))
  assert metrics['accuracy'][1] == 209
  arrays = detectors.gradients(case, tree, width)
  for name, norm, head in zip(
    golden['param_names'],
    golden[f'{width}/grad_norm'],
    golden[f'{width}/grad_head'],
    strict=True,
  ):
    array = arrays[str(name)]
    # Rows of a class that no object has: its gradient is zero there too.
    assert np.linalg.norm(array) == pytest.approx(norm, rel=1e-4), name
    gap = np.abs(array.ravel()[:8] - head[: array.size]).max()
    assert gap <= 1e-4 * np.abs(array).max(), name


def test_samples_of_the_published_size_are_those_of_torchvision():
  case, width = 'tiny_faster', 0.5
  golden = goldens.detection(case)
  (rpn, rpn_fraction), (roi, roi_fraction) = (
    detectors.described(case)['config'][f'{name}_sample']
    for name in ('rpn', 'box')
  )
  model = detectors.detector(
    case,
    rpn_samples=rpn,
    rpn_fraction=rpn_fraction,
    roi_samples=roi,
    roi_fraction=roi_fraction,
  )
  small, weights = at(model, detectors.variables(case), width)
  run = jax.jit(functools.partial(small.apply, width=width, method='losses'))
  found, _ = run(weights, detectors.batch(case))
  for name, (total, count) in found.items():
    theirs = golden[f'{width}/first/loss/{detectors.LOSSES[name]}']
    close(total / count, theirs, 1e-4)
  sampled = golden[f'{width}/first/rpn_sampled']
  assert found['objectness'][1] == sampled.sum()
