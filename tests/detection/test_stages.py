"""What lies between the heads, equal to torchvision's."""

import dataclasses

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slimjax.detection import losses
from slimjax.detection.anchors import anchors
from slimjax.detection.recipe import TORCHVISION
from slimjax.detection.sampling import match_anchors
from slimjax.detection.stages import first_losses

RPN = goldens.detection('rpn')


@pytest.mark.parametrize('sampler', ['all', 'first'])
def test_losses_of_proposals_are_those_of_torchvision(sampler):
  sizes = (16, 32, 64, 128, 256)
  levels = anchors((64, 128), sizes)
  count = sum(map(len, levels))
  number = {'all': 2 * count, 'first': 128}[sampler]
  recipe = dataclasses.replace(TORCHVISION, rpn_samples=number)
  batch = {
    'boxes': jnp.stack([jnp.asarray(RPN[f'gt/{i}']) for i in (0, 1)]),
    'labels': jnp.ones((2, 3), jnp.int32),
    'hw': jnp.asarray(RPN['sizes'], jnp.int32),
  }
  together = jnp.concatenate(levels)
  label, matched = match_anchors(together, batch, recipe)
  np.testing.assert_array_equal(label, RPN['labels'])
  batch |= {'anchor_label': label, 'anchor_match': matched}

  def loss(logits, deltas):
    found = first_losses(((logits,), (deltas,)), together, batch, None, recipe)
    return sum(map(losses.mean, found.values())), found

  arrays = jnp.asarray(RPN['objectness']), jnp.asarray(RPN['deltas'])
  gradients, found = jax.grad(loss, (0, 1), has_aux=True)(*arrays)
  for name, theirs in (
    ('objectness', 'loss_objectness'),
    ('proposal_box', 'loss_rpn_box_reg'),
  ):
    close(losses.mean(found[name]), RPN[f'{sampler}/{theirs}'])
  assert found['objectness'][1] == RPN[f'{sampler}/sampled'].sum()
  close(gradients[0], RPN[f'{sampler}/objectness_gradient'])
  norm = RPN[f'{sampler}/deltas_gradient_norm']
  close(np.linalg.norm(gradients[1]), norm)


def close(actual, expected):
  expected = np.asarray(expected)
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )
