"""Weights that detectors begin with: torchvision's, and backbones."""

import detectors
from flax import traverse_util
import jax
import numpy as np
import pytest

import slimjax
from slimjax.variables.torch_detectors import without_gaps

CASE = 'tiny_mask'


def leaves(tree, *path):
  for name in path:
    tree = tree[name]
  return traverse_util.flatten_dict(tree)


def same(tree, other):
  assert tree.keys() == other.keys()
  for path, leaf in tree.items():
    np.testing.assert_array_equal(leaf, other[path], str(path))


# torchvision's detectors.


def old_name(name):
  """Returns the name that torchvision's published files have."""
  parts = name.split('.')
  if name.startswith(('backbone.fpn.', 'rpn.head.conv.')):
    parts = (
      [*parts[:4], parts[-1]] if 'fpn' in name else [*parts[:3], parts[-1]]
    )
  elif name.startswith('roi_heads.mask_head.'):
    parts = [*parts[:2], f'mask_fcn{int(parts[2]) + 1}', parts[-1]]
  return '.'.join(parts)


@pytest.mark.parametrize('rename', [str, old_name])
def test_a_file_of_torchvision_fills_every_width(rename):
  model = detectors.detector(CASE)
  arrays = detectors.torchvision_weights(CASE)
  renamed = {rename(name): array for name, array in arrays.items()}
  assert len(renamed) == len(arrays)
  if rename is old_name:
    assert 'backbone.fpn.inner_blocks.0.weight' in renamed
    assert 'rpn.head.conv.bias' in renamed
    assert 'roi_heads.mask_head.mask_fcn1.weight' in renamed
  said = []
  variables = slimjax.load_weights(model, renamed, report=said.append)
  (taken,) = said
  assert taken.taken == taken.total == len(arrays)
  assert not taken.new
  assert taken.norms == {0.5: 1.0}
  expected = detectors.variables(CASE)  # its thin norms are others
  same(leaves(variables, 'params'), leaves(expected, 'params'))
  same(leaves(variables, 'norm', 'w100'), leaves(expected, 'norm', 'w100'))
  back = slimjax.save_torch(*slimjax.extract(model, variables, width=1.0))
  same(back, arrays)


def test_what_is_missing_is_named():
  arrays = detectors.torchvision_weights(CASE)
  arrays.pop('roi_heads.box_head.fc7.bias')
  arrays['rpn.head.bbox_pred.bias'] = np.zeros(16, np.float32)
  with pytest.raises(ValueError, match=r'fc7\.bias') as caught:
    slimjax.load_weights(detectors.detector(CASE), arrays)
  assert 'rpn.head.bbox_pred.bias: [16], expected [12]' in str(caught.value)
  assert "looks like torchvision's fasterrcnn" in str(caught.value)
  tiny = detectors.tiny()
  with pytest.raises(ValueError, match='have a ResNet, this one has a Tiny'):
    slimjax.load_weights(tiny, arrays)
  with pytest.raises(ValueError, match='extract one first'):
    slimjax.save_torch(tiny, {})


def test_heads_that_only_one_of_the_two_has():
  """A Faster R-CNN begins a Mask R-CNN, and the other way round."""
  model, said = detectors.detector(CASE), []
  arrays = detectors.torchvision_weights(CASE)
  faster = {name: x for name, x in arrays.items() if '.mask_' not in name}
  assert 0 < len(faster) < len(arrays)
  found = slimjax.load_weights(model, faster, report=said.append)
  assert (said[0].new, said[0].taken) == (('mask_head',), len(faster))
  mask_head = leaves(found, 'params', 'mask_head')
  assert mask_head['up', 'kernel'].std() > 0
  whole = slimjax.load_weights(model, arrays, report=said.append)
  assert not said[1].new
  assert mask_head.keys() == leaves(whole, 'params', 'mask_head').keys()
  same(leaves(found, 'params', 'fpn'), leaves(whole, 'params', 'fpn'))
  plain = model.clone(masks=False)
  found = slimjax.load_weights(plain, arrays, report=said.append)
  assert (said[2].taken, said[2].total) == (len(faster), len(arrays))
  assert 'left aside: its mask_head' in str(said[2])
  del whole['params']['mask_head']
  same(leaves(found), leaves(whole))


def test_norms_of_another_epsilon_give_the_same():
  """COCO_V1 of torchvision adds nothing to its variances."""
  model, said = detectors.detector(CASE), []
  arrays = detectors.torchvision_weights(CASE)
  for name in arrays:
    if name.endswith('running_var'):
      arrays[name] = arrays[name] * np.float32(1e-4)
  written = lambda variables: slimjax.save_torch(
    *slimjax.extract(model, variables, width=1.0)
  )
  load = lambda source, **options: slimjax.load_weights(
    model, source, report=said.append, **options
  )
  same(written(load(arrays)), arrays)
  assert 'epsilon 1e-05, but if this is COCO_V1' in str(said[0])
  found = load(arrays, epsilon=0.0)
  assert str(said[1]).endswith('norms rescaled from epsilon 0')
  back = written(found)
  for name, var in arrays.items():
    if not name.endswith('running_var'):
      continue
    np.testing.assert_array_equal(back[name], var)
    scale = name.replace('running_var', 'weight')
    theirs = arrays[scale]
    ours = back[scale] / np.sqrt(np.float64(var) + 1e-5)
    np.testing.assert_allclose(ours, theirs / np.sqrt(np.float64(var)), 1e-6)
    assert (back[scale] > 1.02 * theirs).all()
  with pytest.raises(ValueError, match='which epsilon 0 cannot be of'):
    load({**arrays, 'backbone.body.bn1.running_var': np.zeros(64)}, epsilon=0.0)
  with pytest.raises(ValueError, match='torchvision and timm, but the mapping'):
    load(found, epsilon=0.0)
  with pytest.raises(ValueError, match='epsilon must be a finite number'):
    load(arrays, epsilon=-1.0)


def test_coco_has_80_categories_among_90_ids():
  rows = np.arange(91, dtype=np.float32)
  arrays = {
    'roi_heads.box_predictor.cls_score.bias': rows,
    'roi_heads.box_predictor.cls_score.weight': rows[:, None],
    'roi_heads.box_predictor.bbox_pred.bias': np.repeat(rows, 4),
    'rpn.head.cls_logits.bias': rows[:3],
  }
  found = without_gaps(arrays)
  kept = found['roi_heads.box_predictor.cls_score.bias']
  assert len(kept) == 81
  # Background, person, street sign left out, toothbrush.
  assert (kept[0], kept[1], kept[12], kept[80]) == (0, 1, 13, 90)
  deltas = found['roi_heads.box_predictor.bbox_pred.bias']
  np.testing.assert_array_equal(deltas, np.repeat(kept, 4))
  assert found['rpn.head.cls_logits.bias'] is arrays['rpn.head.cls_logits.bias']


# Backbones.


def classifier(widths=(0.5, 1.0)):
  model = slimjax.create_model(detectors.BACKBONE, num_classes=7, widths=widths)
  variables = slimjax.init(model, jax.random.key(1))
  random = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda x: np.float32(x + random.uniform(0.1, 0.3, x.shape)), variables
  )


def test_a_classifier_is_the_backbone():
  model, said = detectors.tiny(), []
  _, source = classifier()
  variables = slimjax.load_weights(model, source, report=said.append)
  for name, switches in (
    ('norm', ('w050', 'w100')),
    ('batch_stats', ('w050',)),
  ):
    for switch in switches:
      same(
        leaves(variables, name, switch, 'backbone'),
        leaves(source, name, switch),
      )
  body = leaves(source, 'params')
  body = {path: leaf for path, leaf in body.items() if path[0] != 'classifier'}
  same(leaves(variables, 'params', 'backbone'), body)
  # The heads are those that `init` draws by the same key.
  drawn = slimjax.init(model, jax.random.key(0))
  for head in drawn['params'].keys() - {'backbone'}:
    for path, leaf in leaves(drawn, 'params', head).items():
      found = leaves(variables, 'params', head)[path]
      np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-7)
  (taken,) = said
  assert str(taken) == (
    'took 36 of 38 tensors of the mapping; new: the box_head, the fpn, the'
    ' keypoint_head, the mask_head, the rpn; left aside: its classifier'
  )
  total = len(traverse_util.flatten_dict(source))
  assert (taken.taken, taken.total) == (total - 2, total)


def test_a_width_that_the_classifier_lacks_begins_with_the_next_norms():
  model, said = detectors.tiny((0.25, 1.0)), []
  _, source = classifier((0.5, 1.0))
  variables = slimjax.load_weights(model, source, report=said.append)
  thin = variables['norm']['w025']['backbone']['conv2']['norm']['scale']
  wide = source['norm']['w050']['conv2']['norm']['scale']
  np.testing.assert_array_equal(thin, wide[:2])
  assert said[0].norms == {0.25: 0.5}


def test_a_detector_is_taken_whole_and_only_what_is_counted_is_new():
  model, said = detectors.tiny(), []
  variables = slimjax.init(model, jax.random.key(2))
  other = model.clone(num_classes=5, keypoints=7)
  found = slimjax.load_weights(other, variables, report=said.append)
  same(leaves(found, 'params', 'fpn'), leaves(variables, 'params', 'fpn'))
  assert said[0].classes == (3, 5)
  assert said[0].new == (
    'box_head/deltas', 'box_head/logits', 'keypoint_head/up', 'mask_head/logits'
  )  # fmt: skip
  assert len(found['params']['keypoint_head']['up']['bias']) == 7


def test_a_classifier_of_another_network_is_no_backbone():
  source = slimjax.init(
    slimjax.create_model('tiny_net:TinyNet', num_classes=3, widths=(1.0,)),
    jax.random.key(0),
  )
  with pytest.raises(ValueError, match='not hold the weights of TinyBackbone'):
    slimjax.load_weights(detectors.tiny(), source)


def test_the_backbone_is_sorted_and_its_statistics_calibrated():
  model = detectors.tiny()
  _, source = classifier((1.0,))
  random = np.random.default_rng(1)
  images = random.normal(size=(8, 128, 128, 3)).astype(np.float32)
  variables = slimjax.make_slimmable(model, source, [images])
  plain = slimjax.make_slimmable(model, source)
  moved = variables['batch_stats']['w050']['backbone']
  still = plain['batch_stats']['w050']['backbone']
  # The statistics are those of the maps that the thin backbone gives.
  _, weights = slimjax.extract(model, plain, width=0.5)
  kernel = weights['params']['backbone']['conv1']['conv']['kernel']
  maps = jax.lax.conv_general_dilated(
    images, kernel, (4, 4), ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  mean = np.asarray(maps, np.float64).mean(axis=(0, 1, 2))
  found = moved['conv1']['norm']['mean']
  np.testing.assert_allclose(found, mean, atol=1e-5)
  assert not np.allclose(still['conv1']['norm']['mean'], mean, atol=1e-3)
  # The widest computes what it did, in another order of its channels.
  last = plain['params']['backbone']['conv4']['conv']['kernel']
  np.testing.assert_allclose(
    np.sort(np.abs(last).sum(axis=(0, 1, 2))),
    np.sort(np.abs(source['params']['conv4']['conv']['kernel']).sum((0, 1, 2))),
    rtol=1e-5,
  )
