"""Detectors as slimmable networks: extracted, folded, counted, checked."""

import functools
import math

import detectors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slimjax
from slimjax.models.detector import Detector
from slimjax.variables.format import variable_shapes

WIDTHS = (0.5, 1.0)
HEADS = {'fpn', 'rpn', 'box_head', 'mask_head', 'keypoint_head'}


@functools.cache
def tiny():
  model = detectors.tiny()
  variables = slimjax.init(model, jax.random.key(0))
  random = np.random.default_rng(0)
  # Fresh ones hide mistakes: all norms are alike, and all scores.
  for name in ('norm', 'batch_stats'):
    variables[name] = jax.tree.map(
      lambda x: x + jnp.float32(random.uniform(0, 0.5, x.shape)),
      variables[name],
    )
  for head in (variables['params'][name] for name in ('rpn', 'box_head')):
    head['logits']['kernel'] *= 30
  images = random.normal(size=(2, 64, 96, 3)).astype(np.float32)
  return model, variables, images, np.int32([[64, 96], [40, 64]])


def test_only_the_backbone_depends_on_the_width():
  model, variables, *_ = tiny()
  for width in WIDTHS:
    _, weights = slimjax.extract(model, variables, width=width)
    assert set(weights['params']) == {'backbone', *HEADS}
    for name in HEADS - {'fpn'}:
      same = jax.tree.map(
        np.array_equal, *(tree['params'][name] for tree in (weights, variables))
      )
      assert all(jax.tree.leaves(same)), name
    lateral = weights['params']['fpn']['lateral5']['kernel']
    assert lateral.shape == (1, 1, int(8 * width), 8)
    trees = weights['norm'][model.switch(width)]
    assert set(trees) == {'backbone'}


def test_extracted_and_folded_detectors_see_the_same():
  width = 0.5
  model, variables, images, hw = tiny()
  seen = slimjax.apply(model, variables, images, hw, width=width)
  assert seen['valid'].any()
  assert seen['masks'].shape == (2, 10, 28, 28)
  assert seen['keypoints'].shape == (2, 10, 56, 56, 2)
  alone = slimjax.extract(model, variables, width=width)
  folded = slimjax.fold_batch_norm(*alone)
  assert folded[0].backbone.folded
  assert set(folded[1]) == {'params'}
  for network, tolerance in ((alone, 0), (folded, 1e-4)):
    found = slimjax.apply(*network, images, hw, width=width)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=tolerance),
      found,
      seen,
    )


def test_nothing_is_seen_outside_of_the_image():
  model, variables, images, hw = tiny()
  seen = slimjax.apply(model, variables, images, hw, width=0.5)
  h, w = hw[1]
  boxes = np.asarray(seen['boxes'][1])
  assert (boxes >= 0).all()
  assert (boxes[:, 2] <= w).all()
  assert (boxes[:, 3] <= h).all()
  other = images.copy()
  other[1, h:] = other[1, :, w:] = np.nan
  found = slimjax.apply(model, variables, other, hw, width=0.5)
  jax.tree.map(np.testing.assert_array_equal, found, seen)


def test_check_model_finds_no_mistake():
  assert slimjax.check_model(detectors.tiny((0.5,))) == []


def test_the_backbone_is_counted_apart():
  model = detectors.tiny()
  thin, wide = (
    slimjax.profile_model(model, width=width, image_size=(64, 96))
    for width in WIDTHS
  )
  first = 64 * 96 // 16 * 9 * 3 * 8
  others = sum(64 * 96 // 4**level * 9 * 8 * 8 for level in (3, 4, 5))
  assert wide.backbone.macs == first + others
  assert thin.backbone.macs == first // 2 + others // 4
  assert wide.backbone.bn_params == wide.bn_params == 4 * 2 * 8
  # Of the rest only the lateral convolutions read fewer channels.
  laterals = sum(64 * 96 // 4**level * 4 * 8 for level in (2, 3, 4, 5))
  assert wide.rest.macs - thin.rest.macs == laterals
  assert wide.rest.params - thin.rest.params == 4 * 4 * 8
  total = sum(
    math.prod(x.shape)
    for x in jax.tree.leaves(variable_shapes(model)['params'])
  )
  assert wide.conv_fc_params == total
  # 30 proposals through fc6, 10 detections through the coarse keypoints.
  assert wide.rest.macs > 30 * 49 * 8 * 8 + 10 * 14 * 14 * 16 * 4 * 2


@pytest.mark.parametrize(
  'name, parameters',
  # Without the norms' 53,120: torchvision's, whose norms are frozen, has 41.3,
  # 44.2 and 59.0 million with 91 classes (2 for keypoints).
  [('faster_rcnn', 41.67e6), ('mask_rcnn', 44.32e6), ('keypoint_rcnn', 59.1e6)],
)
def test_published_detectors_have_the_size_of_torchvision(name, parameters):
  model = slimjax.create_model(name, num_classes=80, widths=(1.0,))
  shapes = variable_shapes(model)['params']
  found = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert found == pytest.approx(parameters, rel=0.01)
  assert model.recipe.detections == 100


def test_mobilenet_v2_is_a_backbone():
  model = slimjax.create_model(
    'faster_rcnn',
    num_classes=3,
    widths=WIDTHS,
    backbone='mobilenet_v2',
    fpn_features=8,
    box_features=8,
  )
  shapes = variable_shapes(model)
  # C2 to C5 are the last maps of each resolution, the published 1280 channels.
  rows = [
    shapes['params']['fpn'][f'lateral{n}']['kernel'].shape for n in (2, 3, 4, 5)
  ]
  assert [shape[2] for shape in rows] == [24, 32, 96, 1280]
  assert 'classifier' not in shapes['params']['backbone']
  outputs = jax.eval_shape(
    lambda variables, images: slimjax.apply(
      model, variables, images, width=0.5
    ),
    shapes,
    jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
  )
  assert outputs['boxes'].shape == (1, 100, 4)


# Options and mistakes.


def test_options_reach_the_backbone():
  model = detectors.tiny(dtype='bfloat16', remat=True)
  backbone = model.backbone
  assert (backbone.dtype, backbone.remat) == (jnp.bfloat16, True)
  small = model.clone(widths=(0.5,))
  assert small.backbone.widths == (0.5,)
  assert small.clone() == small
  assert hash(small.clone()) == hash(small)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'small_stem': True}, 'small_stem changes the strides'),
    ({'anchor_sizes': (8, 16)}, 'anchor_sizes must be 5 numbers'),
    ({'roi_fraction': 2}, r'roi_fraction must be in \[0, 1\]'),
    ({'rpn_low': 0.9}, 'rpn_low must be at most rpn_high, 0.7'),
    ({'backbone': 'resnet51'}, 'unknown backbone .* is it resnet50'),
    ({'mask_conv': 1}, 'mask_conv'),
  ],
)
def test_wrong_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    detectors.tiny(**options)


def test_images_of_other_sides_are_refused():
  model, variables, *_ = tiny()
  with pytest.raises(ValueError, match='multiples of 32, got 64x100; pad them'):
    slimjax.apply(model, variables, jnp.zeros((1, 64, 100, 3)), width=0.5)
  with pytest.raises(ValueError, match='takes 1 to 2 inputs, got 3'):
    slimjax.apply(model, variables, *3 * [jnp.zeros((1, 64, 64, 3))], width=0.5)


def test_a_backbone_of_other_strides_is_refused():
  model = Detector(
    num_classes=3,
    widths=(0.5,),
    backbone=slimjax.create_model('shufflenet', num_classes=1, widths=(0.5,)),
  )
  with pytest.raises(
    ValueError, match=r'strides \[8, 16, 32\], but a detector'
  ):
    variable_shapes(model)


def test_random_samples_follow_from_the_image_and_the_width():
  model, variables, images, hw = tiny()
  recipe = {'rpn_samples': 16, 'roi_samples': 8, 'train_proposals': 30}
  model = detectors.tiny(masks=False, keypoints=0, **recipe)
  variables = {
    **variables,
    'params': {
      name: tree
      for name, tree in variables['params'].items()
      if name not in ('mask_head', 'keypoint_head')
    },
  }
  batch = {
    'image': images,
    'hw': hw,
    'boxes': np.float32([[[8, 8, 40, 40]], [[4, 4, 36, 30]]]),
    'labels': np.int32([[1], [2]]),
    'bits': np.uint32([[1, 2], [3, 4]]),
  }
  small, weights = slimjax.extract(model, variables, width=0.5)
  weights = {
    'params': weights['params'],
    **{name: weights[name]['w050'] for name in ('norm', 'batch_stats')},
  }
  run = jax.jit(
    functools.partial(small.apply, weights, width=0.5, method='losses')
  )
  total = lambda batch, seed: float(
    run(batch, jax.random.key(seed))[0]['objectness'][0]
  )
  first = total(batch, 0)
  # The key of a device has no say where images have bits of their own.
  assert total(batch, 1) == first
  other = total({**batch, 'bits': batch['bits'] + 1}, 0)
  assert other != first
  swapped = {name: array[::-1] for name, array in batch.items()}
  assert total(swapped, 0) == pytest.approx(first, rel=1e-5)
