"""Detectors in bfloat16: maps are rounded, what decides is not."""

import functools

import detectors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax

WIDTH = 0.5
SIDES = (64, 96)


@functools.cache
def case():
  """Returns a network's variables, images, and a batch of two objects."""
  model = detectors.tiny((WIDTH,))
  variables = slimjax.init(model, jax.random.key(0))
  # Fresh ones hide mistakes: all scores are alike, and no box moves.
  for head in (variables['params'][name] for name in ('rpn', 'box_head')):
    head['logits']['kernel'] *= 30
    head['deltas']['kernel'] *= 30
  random = np.random.default_rng(0)
  boxes = np.float32([[[8.3, 8, 40, 41.7]], [[4, 4.9, 37.2, 30]]])
  points = boxes.reshape(2, 1, 2, 2) * [0.9, 0.9] + [2, 2]
  batch = {
    'image': random.normal(size=(2, *SIDES, 3)).astype(np.float32),
    'hw': np.int32([SIDES, (48, 64)]),
    'boxes': boxes,
    'labels': np.int32([[1], [2]]),
    'crops': np.ones((2, 1, 14, 14), np.uint8),
    'keypoints': np.float32(np.concatenate([points, points[..., :1] > 0], -1)),
  }
  return variables, batch


@functools.cache
def trained(dtype):
  """Returns losses, and the gradient of their sum, of all anchors and rois."""
  variables, batch = case()
  anchors = 3 * sum(-(-64 // s) * -(-96 // s) for s in (4, 8, 16, 32, 64))
  model = detectors.tiny(
    (WIDTH,),
    dtype=dtype,
    rpn_samples=2 * anchors,
    roi_samples=62,
    roi_fraction=0.5,
    train_candidates=50,
    train_proposals=30,
  )

  def total(params, rest):
    tree = {'params': params, **rest}
    found, _ = model.apply(tree, batch, width=WIDTH, method='losses')
    losses = {n: s / jnp.maximum(c, 1) for n, (s, c) in found.items()}
    return sum(losses.values()), losses

  switch = model.switch(WIDTH)
  rest = {n: variables[n][switch] for n in ('norm', 'batch_stats')}
  gradient, losses = jax.jit(jax.grad(total, has_aux=True))(
    variables['params'], rest
  )
  return losses, gradient


def test_losses_are_float32_and_near_those_of_float32():
  (exact, _), (losses, gradient) = trained('float32'), trained('bfloat16')
  assert losses.keys() == {
    'objectness', 'proposal_box', 'classifier', 'box', 'mask', 'keypoint',
  }  # fmt: skip
  for name, loss in losses.items():
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(float(exact[name]), rel=0.01), name
    assert loss != exact[name], name  # it was computed in bfloat16
  for leaf in jax.tree.leaves(gradient):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()


def test_boxes_and_scores_are_finer_than_bfloat16():
  variables, batch = case()
  seen = {
    dtype: slimjax.apply(
      detectors.tiny((WIDTH,), dtype=dtype),
      variables,
      batch['image'],
      batch['hw'],
      width=WIDTH,
    )
    for dtype in ('float32', 'bfloat16')
  }
  found, exact = seen['bfloat16'], seen['float32']
  assert found['valid'].all()
  for name in ('boxes', 'scores', 'masks', 'keypoints'):
    array = np.asarray(found[name])
    assert array.dtype == np.float32
    rounded = array.astype(jnp.bfloat16).astype(np.float32)
    assert (array == rounded).mean() < 0.5, name
  np.testing.assert_allclose(found['scores'], exact['scores'], rtol=0.02)
