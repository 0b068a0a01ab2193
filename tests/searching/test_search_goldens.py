"""Costs and decisions are the published ones, and those of an oracle."""

import numpy as np
import pytest
import search_goldens

import slimjax
from slimjax.analysis import published
from slimjax.searching.costs import macs_of
from slimjax.searching.costs import params_of


@pytest.mark.usefixtures('x64')
def test_ten_greedy_steps_of_mobilenet_v1():
  search_goldens.check('mobilenet_v1')


@pytest.mark.parametrize('name', ['mobilenet_v1', 'mobilenet_v2', 'resnet50'])
def test_published_networks(name):
  rows = published.tables()['autoslim'][name]
  nets = [tuple(row['channels'][:-1]) for row in rows]
  model = slimjax.create_model(name, num_classes=1000, widths=nets)
  macs = macs_of(model, 224)(nets)
  printed = np.array([row['macs'] for row in rows])
  np.testing.assert_allclose(macs / 1e6, printed, rtol=0.01)
  assert np.all(np.abs(macs / 1e6 - printed) < 0.6)
  if name != 'mobilenet_v1':
    return  # tracing takes seconds
  # What is counted of a network's own program.
  profile = slimjax.profile_model(model, width=nets[-1], image_size=224)
  assert (macs[-1], params_of(model, 224)(nets)[-1]) == (
    profile.macs,
    profile.params,
  )
