"""MACs and parameters are those published, at every width."""

import functools

import pytest
from small_models import small

import slimjax
from slimjax.analysis.published import same_macs
from slimjax.analysis.published import same_params
from slimjax.analysis.published import tables
from slimjax.models import CLASSIFIERS
from slimjax.models import MODELS
from slimjax.variables import profile
from slimjax.variables.profile import count_parameters
from slimjax.variables.profile import profile_model

TABLES = tables()
# "Slimmable Neural Networks", ICLR 2019, table 2: parameters of the widest,
# (convolutions and classifier, batch norm).
TABLE_2 = {
  name: (row['conv_fc'], row['bn'])
  for name, row in TABLES['params_widest'].items()
  if name != 'source'
}
# Table 3: by width (MACs at 224 pixels, parameters of the individual network),
# in millions.
TABLE_3 = {
  name: {
    float(width): (row['macs'], row['individual_params_m'])
    for width, row in TABLES['imagenet'][name].items()
  }
  for name in TABLE_2
}
# Table 3: parameters of the slimmable network, in millions.
TABLE_3_SLIMMABLE = {
  name: TABLES['slimmable_params_m'][name] for name in TABLE_2
}
# MACs in millions of widths no other table has, from the README of the authors'
# code (US-Nets): they tell one rounding of channels from another.
US_NETS = {
  'mobilenet_v1': {0.275: 48, 0.8: 366, 0.975: 543},
  'mobilenet_v2': {0.4: 80, 0.6: 151, 0.85: 254},
}
# MACs in millions and channels of AutoSlim networks, from the configurations of
# the authors' code (arXiv 1903.11728). Theirs end with the classes.
AUTOSLIM = [
  (
    'mobilenet_v1',
    150,
    '16 32 48 48 88 88 224 176 224 368 320 224 744 744',
  ),
  (
    'mobilenet_v2',
    207,
    '8 8 96 16 96 16 96 24 144 24 144 24 144 48 288 48 288 48 288 48 288 64 432'
    ' 64 432 64 648 176 720 176 720 176 1440 280 1920',
  ),
  (
    'resnet50',
    570,
    '24 72 8 16 72 16 16 72 8 8 72 240 16 24 240 16 24 240 16 16 240 16 24 240'
    ' 704 72 72 704 48 72 704 48 72 704 72 72 704 48 48 704 48 48 704 1680 280'
    ' 240 1680 120 200 1680 280 280 1680',
  ),
]
# No counts of these are published with the paper.
NOT_PUBLISHED = {'resnet14', 'resnet101', 'resnet152'}
NOT_PUBLISHED |= {'faster_rcnn', 'mask_rcnn', 'keypoint_rcnn'}


cases = pytest.mark.parametrize(
  'name, width',
  [(name, width) for name, rows in TABLE_3.items() for width in rows],
)


def published(name):
  return slimjax.create_model(
    name, num_classes=1000, widths=tuple(TABLE_3[name])
  )


@functools.cache
def cost(name, width):
  return profile_model(published(name), width=width, image_size=224)


def test_no_model_is_missing_from_the_tables():
  models = set(CLASSIFIERS) - NOT_PUBLISHED
  assert models == set(TABLE_2) == set(TABLE_3) == set(TABLE_3_SLIMMABLE)


@pytest.mark.parametrize('name', TABLE_2)
def test_parameters_of_the_widest(name):
  profile = profile_model(
    published(name), width=max(TABLE_3[name]), image_size=64
  )
  assert (profile.conv_fc_params, profile.bn_params) == TABLE_2[name]
  assert profile.params == sum(TABLE_2[name])


@pytest.mark.parametrize('name', TABLE_3_SLIMMABLE)
def test_parameters_of_the_slimmable_network(name):
  model = published(name)
  # Shared ones once, the norm of every switch: exactly, from the parts.
  norms = [cost(name, width).bn_params for width in model.widths]
  total = count_parameters(model)
  assert total == TABLE_2[name][0] + sum(norms)
  assert same_params(total, TABLE_3_SLIMMABLE[name])


@cases
def test_cost_of_each_width(name, width):
  macs, params = TABLE_3[name][width]
  profile = cost(name, width)
  # The table leaves out the norms: with them three of its numbers (ResNet-50,
  # ShuffleNet 1x and 2x) would be higher by one in the last place.
  assert same_params(profile.conv_fc_params, params)
  assert same_macs(profile.macs, macs)


def test_counts_are_the_printed_ones_to_their_last_digit():
  assert same_macs(568_740_352, 569)
  assert same_macs(1_052_311_552, 1100)  # printed 1.1G
  assert same_macs(137_300_832, 138)  # cut off, or more than the products
  assert not same_macs(325_400_448, 317)
  assert not same_macs(1_160_000_000, 1100)
  assert same_params(25_503_912, 25.5)
  assert not same_params(25_557_032, 25.5)


@pytest.mark.parametrize(
  'name, width, macs',
  [(n, w, m) for n, rows in US_NETS.items() for w, m in rows.items()],
)
def test_cost_of_widths_that_were_not_trained(name, width, macs):
  profile = cost(name, width)
  assert profile.macs / 1e6 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize('name, macs, channels', AUTOSLIM)
def test_cost_of_channel_lists(name, macs, channels):
  channels = tuple(int(c) for c in channels.split())
  model = slimjax.create_model(name, num_classes=1000, widths=[list(channels)])
  assert model.full_channels == channels
  profile = profile_model(model, width=channels, image_size=224)
  assert profile.macs / 1e6 == pytest.approx(macs, rel=0.01)


def test_macs_of_a_map_that_is_not_square():
  model = small('resnet14')
  # The convolutions' share is proportional to the pixels.
  costs = [
    profile_model(model, width=0.5, image_size=size).macs
    for size in (64, (64, 128), (128, 64))
  ]
  classifier = 1024 * 10
  assert costs[1] == costs[2] == 2 * (costs[0] - classifier) + classifier


def test_the_cost_of_a_listed_model_is_counted_when_it_is_asked_for(
  monkeypatch,
):
  """Those of the detectors would take half a minute."""
  with monkeypatch.context() as patched:
    patched.setattr(profile, 'trace', None)
    costs = slimjax.list_models()
    assert [cost.name for cost in costs] == [*MODELS]
    sizes = {cost.name: cost.image_size for cost in costs}
    assert (sizes['resnet50'], sizes['mask_rcnn']) == ((224, 224), (800, 1344))
  model = small('resnet14', widths=(0.25,))
  monkeypatch.setattr(profile, 'MODELS', {'small': lambda: model})
  (cost,) = slimjax.list_models()
  counted = profile_model(model, width=0.25, image_size=224)
  assert (cost.parameters, cost.macs) == (counted.params, {0.25: counted.macs})
  assert cost.backbone_macs == {}
