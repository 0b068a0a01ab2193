"""Losses of sampled anchors and rois, equal to torchvision's."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection import losses

HEADS = goldens.detection('heads')


def close(actual, expected, tolerance=1e-5):
  expected = np.asarray(expected, np.float64)
  gap = np.abs(np.asarray(actual, np.float64) - expected).max()
  assert gap <= tolerance * np.abs(expected).max(), gap


def total(found):
  return sum(losses.mean(loss) for loss in found)


@pytest.mark.parametrize('beta, name', [(1 / 9, ''), (1.0, '_beta1')])
def test_losses_of_boxes_are_those_of_torchvision(beta, name):
  labels = jnp.asarray(HEADS['box/labels'], jnp.int32)
  valid = jnp.ones(labels.shape, bool)

  def loss(logits, deltas):
    found = losses.box_losses(
      logits,
      deltas.reshape(24, 6, 4),
      labels,
      jnp.asarray(HEADS['box/targets']),
      valid,
      beta=beta,
    )
    return total(found), found

  arrays = jnp.asarray(HEADS['box/logits']), jnp.asarray(HEADS['box/deltas'])
  gradients, found = jax.grad(loss, (0, 1), has_aux=True)(*arrays)
  classifier, box = map(losses.mean, found)
  close(classifier, HEADS['box/loss_classifier'])
  close(box, HEADS[f'box/loss_box_reg{name}'])
  close(gradients[0], HEADS['box/logits_gradient'])
  if not name:
    close(gradients[1], HEADS['box/deltas_gradient'])


def mask_arrays():
  labels = HEADS['mask/gt_labels'][HEADS['mask/matched']]
  logits = HEADS['mask/logits'].transpose(0, 2, 3, 1)
  return jnp.asarray(logits), jnp.asarray(labels, jnp.int32)


def test_the_loss_of_masks_is_that_of_torchvision():
  logits, labels = mask_arrays()
  positive = jnp.ones(len(labels), bool)
  targets = jnp.asarray(HEADS['mask/targets'])
  loss = lambda x: losses.mean(losses.mask_loss(x, labels, targets, positive))
  value, gradient = jax.value_and_grad(loss)(logits)
  close(value, HEADS['mask/loss'])
  close(np.linalg.norm(gradient), HEADS['mask/gradient_norm'])
  sharp = jnp.asarray(HEADS['mask/targets_aligned'] >= 0.5)
  found = losses.mask_loss(logits, labels, sharp, positive)
  close(losses.mean(found), HEADS['mask/loss_aligned'])


def test_the_loss_of_keypoints_is_that_of_torchvision():
  logits = jnp.float32(HEADS['keypoint/logits']).transpose(0, 2, 3, 1)
  cells = jnp.asarray(HEADS['keypoint/cells'], jnp.int32)
  valid = jnp.asarray(HEADS['keypoint/valid'], bool)
  loss = lambda x: losses.mean(losses.keypoint_loss(x, cells, valid))
  value, gradient = jax.value_and_grad(loss)(logits)
  close(value, HEADS['keypoint/loss'])
  close(np.linalg.norm(gradient), HEADS['keypoint/gradient_norm'])


# Padding and empty images.


def test_padding_adds_nothing_whatever_stands_there():
  logits, labels = mask_arrays()
  targets = jnp.asarray(HEADS['mask/targets'])
  double = lambda x, other: jnp.concatenate([x, jnp.full_like(x, other)])
  positive = jnp.arange(2 * len(labels)) < len(labels)

  def loss(logits):
    return losses.mean(
      losses.mask_loss(
        double(logits, 1e30), double(labels, 0), double(targets, 7), positive
      )
    )

  value, gradient = jax.value_and_grad(loss)(logits)
  close(value, HEADS['mask/loss'])
  close(np.linalg.norm(gradient), HEADS['mask/gradient_norm'])
  # Deltas of what is no object are infinite where a box is empty.
  none = jnp.zeros(3, bool)
  targets = jnp.full((3, 4), -jnp.inf)
  found = functools.partial(losses.proposal_losses, beta=1.0)
  loss = lambda x: losses.mean(
    found(x[:, 0], x, targets, none, jnp.ones(3, bool))[1]
  )
  value, gradient = jax.value_and_grad(loss)(jnp.ones((3, 4)))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_where_nothing_is_counted_the_loss_is_zero():
  nothing = jnp.zeros((2, 3), bool)
  found = losses.keypoint_loss(jnp.ones((2, 4, 4, 3)), nothing * 0, nothing)
  assert found[1] == 0
  assert losses.mean(found) == 0


def test_bfloat16_logits_are_summed_in_float32():
  logits = jnp.zeros((1, 4096), jnp.bfloat16)
  every = jnp.ones((1, 4096), bool)
  deltas = jnp.zeros((1, 4096, 4), jnp.bfloat16)
  found, _ = losses.proposal_losses(
    logits, deltas, deltas, every, every, beta=1.0
  )
  close(losses.mean(found), np.log(2), 1e-6)
