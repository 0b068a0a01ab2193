"""Statistics of any width, equal to those of the published definition."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_net

import slimjax
from slimjax.variables.calibrating import calibrate
from slimjax.variables.torch_names import save_torch
from slimjax.widths import switch_name

NAME = 'us_mobilenet_v1'
CASES = ('0.25', '0.6180339887498949', '1.0', 'tuple')


@functools.cache
def golden():
  return dict(np.load(goldens.FOLDER / f'calibrate_{NAME}.npz'))


def width_of(case):
  if case == 'tuple':
    return tuple(golden()['tuple/channels'].tolist())
  return float(case)


@functools.cache
def calibrated(variance):
  """Returns a US-Net of two trained widths, with four calibrated ones."""
  model = slimjax.create_model(
    'mobilenet_v1',
    num_classes=1000,
    widths=(0.25, 1.0),
    dtype=jnp.float64,
    shared=('norm',),
  )
  variables = goldens.us_net(model, NAME)
  images = goldens.images(32, np.float64)
  batches = [images[start : start + 8] for start in range(0, 32, 8)]
  widths = [*map(width_of, CASES)]
  variables = calibrate(
    model, variables, batches, widths=widths, variance=variance
  )
  return model, variables


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('variance', ['unbiased', 'pooled'])
def test_post_statistics_are_the_published_ones(variance):
  model, variables = calibrated(variance)
  all_widths = model.clone(widths=tuple(map(width_of, CASES)))
  arrays = save_torch(all_widths, jax.device_get(variables))
  for case in CASES:
    place = all_widths.ordered_widths.index(width_of(case))
    for kind, name in (('mean', 'running_mean'), (variance, 'running_var')):
      found = [
        arrays[f'{norm}.bn.{place}.{name}'] for norm in golden()['norm_names']
      ]
      norms, heads = (
        golden()[f'{case}/{kind}/{what}'] for what in ('norm', 'head')
      )
      for array, norm, head in zip(found, norms, heads, strict=True):
        assert np.linalg.norm(array) == pytest.approx(norm, rel=1e-10)
        np.testing.assert_allclose(array[:8], head, rtol=1e-9)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('case', ['0.6180339887498949', 'tuple'])
def test_a_calibrated_width_answers_as_published(case):
  model, variables = calibrated('unbiased')
  logits = slimjax.apply(
    model, variables, goldens.images(4, np.float64), width=width_of(case)
  )
  expected = golden()[f'{case}/logits/unbiased']  # stored in float32
  np.testing.assert_allclose(
    logits, expected, rtol=0, atol=2e-7 * np.max(np.abs(expected))
  )


def slim_net(widths=(0.25, 0.5)):
  """Returns an S-Net, whose switches have norms that differ, and images."""
  model = tiny_net.TinyNet(num_classes=3, widths=widths)
  variables = slimjax.init(model, jax.random.key(0), image_size=32)
  keys = iter(jax.random.split(jax.random.key(1), 1000))
  variables['norm'] = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape),
    variables['norm'],
  )
  return model, variables, jax.random.normal(jax.random.key(2), (16, 32, 32, 3))


def test_widths_that_were_not_trained_take_the_norms_of_the_next_wider():
  model, variables, images = slim_net()
  widths = (0.125, 0.3, 0.375, 0.5)
  found = calibrate(model, variables, [images, images + 1], widths=widths)
  taken = {0.125: 'w025', 0.3: 'w050', 0.375: 'w050', 0.5: 'w050'}
  for width, source in taken.items():
    scale = found['norm'][switch_name(width)]['stem']['norm']['scale']
    whole = variables['norm'][source]['stem']['norm']['scale']
    np.testing.assert_array_equal(scale, whole[: len(scale)])
    assert len(scale) == model.channels(width)[0]
  # A width has the same statistics, whatever others are calibrated with it.
  for width in widths:
    alone = calibrate(model, variables, [images, images + 1], widths=[width])
    switch = switch_name(width)
    for one, other in zip(
      jax.tree.leaves(alone['batch_stats'][switch]),
      jax.tree.leaves(found['batch_stats'][switch]),
      strict=True,
    ):
      np.testing.assert_array_equal(one, other)
  # What was there stays; the new widths run, alone too.
  assert found['batch_stats']['w025'] is variables['batch_stats']['w025']
  logits = slimjax.apply(model, found, images, width=0.375)
  small, weights = slimjax.extract(model, found, width=0.375)
  np.testing.assert_allclose(
    slimjax.apply(small, weights, images, width=0.375), logits, rtol=1e-5
  )
  other = calibrate(model, variables, [images], widths=[0.125], like=0.5)
  scale = other['norm']['w0125']['stem']['norm']['scale']
  whole = variables['norm']['w050']['stem']['norm']['scale']
  np.testing.assert_array_equal(scale, whole[: len(scale)])


def test_few_numbers_per_channel_are_warned_of():
  model, variables, images = slim_net()
  with pytest.warns(UserWarning, match='has 12 numbers .* 3 times as many'):
    calibrate(model, variables, [images[:3, :16, :16]], widths=[0.25])


@pytest.mark.parametrize(
  'options, says',
  [
    ({'widths': [0.75]}, 'but the parameters have 32'),
    ({'variance': 'biased'}, 'one of unbiased, pooled'),
    ({'widths': [0.4], 'like': 0.25}, 'like=0.25 is thinner than 0.4'),
  ],
)
def test_what_does_not_fit_is_refused(options, says):
  model, variables, images = slim_net()
  with pytest.raises(ValueError, match=says):
    calibrate(model, variables, [images], **options)
