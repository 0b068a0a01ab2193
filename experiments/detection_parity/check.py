"""Compares S-ResNet-50 detectors with torchvision's numbers, at every width.

  PYTHONPATH=tests python experiments/detection_parity/check.py [CASE...]

Prints, for each width, the largest relative difference of every kind of number,
and writes results.json, where other cases keep their numbers. Weights and
images are those of tests/golden.
"""

import json
import pathlib
import sys
import time

import detectors
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax

from slimjax.detection import losses
from slimjax.variables import select
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width

CASES = ('r50_faster', 'r50_mask', 'r50_keypoint')
HERE = pathlib.Path(__file__).parent


def main() -> None:
  path = HERE / 'results.json'
  results = json.loads(path.read_text()) if path.exists() else {}
  for case in sys.argv[1:] or CASES:
    results[case] = check(case)
    for width, gaps in results[case].items():
      numbers = '  '.join(f'{name} {gap:.1e}' for name, gap in gaps.items())
      print(f'{case} {width}: {numbers}', flush=True)
    path.write_text(json.dumps(results, indent=2) + '\n')


def check(case: str) -> dict[str, dict[str, float]]:
  """Returns {width: {kind of number: largest relative difference}}."""
  golden, rows = goldens.detection(case), {}
  widths = detectors.described(case)['widths_run']
  total: dict[str, np.ndarray] = {}
  for width in sorted(widths, reverse=True):
    start = time.perf_counter()
    gaps, arrays = at(case, golden, width)
    rows[str(width)] = gaps
    for name, array in arrays.items():
      total[name] = total.get(name, 0) + array.astype(np.float64)
    print(f'{case} {width}: {time.perf_counter() - start:.0f} s', flush=True)
  rows['sum'] = step(case, golden, total)
  return rows


def at(case: str, golden, width: float):
  """Returns the differences at a width, and its gradients by name."""
  model, variables = detectors.detector(case), detectors.variables(case)
  small = narrow(model, width)
  weights = take_width(
    model, select(variables, model.switch(width)), width=width
  )
  batch = detectors.batch(case)

  @jax.jit
  def see(weights):
    return small.apply(
      weights,
      batch['image'],
      batch['hw'],
      width=width,
      capture_intermediates=True,
      mutable=['intermediates'],
    )

  @jax.jit
  def differentiate(params):
    def loss(params):
      found, _ = small.apply(
        {**weights, 'params': params}, batch, width=width, method='losses'
      )
      return sum(map(losses.mean, found.values())), found

    return jax.grad(loss, has_aux=True)(params)

  seen, kept = jax.device_get(see(weights))
  kept = kept['intermediates']
  gaps = {'maps': 0.0, 'predictions': 0.0, 'detections': 0.0, 'losses': 0.0}

  def note(kind, found, name):
    gaps[kind] = max(gaps[kind], relative(found, golden[f'{width}/{name}']))

  for level, maps in enumerate(kept['fpn']['__call__'][0], 2):
    note('maps', maps.sum(axis=-1), f'p{level}/map')
    note('maps', maps.sum(axis=(0, 1, 2)), f'p{level}/channels')
  for head, names in (
    ('rpn', ('rpn/objectness', 'rpn/deltas')),
    ('box_head', ('box/logits', 'box/deltas')),
  ):
    for name, array in zip(names, kept[head]['__call__'][0], strict=True):
      array = np.concatenate(array, axis=1) if head == 'rpn' else array
      note('predictions', np.linalg.norm(array), f'{name}/norm')
      note('predictions', array.ravel()[:64], f'{name}/head')
  for i in (0, 1):
    name = f'detections/{i}'
    count = len(golden[f'{width}/{name}/boxes'])
    labels = golden[f'{width}/{name}/labels']
    assert seen['valid'][i].sum() == count
    assert (seen['labels'][i][:count] == labels).all()
    note('detections', seen['boxes'][i][:count], f'{name}/boxes')
    note('detections', seen['scores'][i][:count], f'{name}/scores')
    if model.masks:
      note('detections', seen['masks'][i][:4], f'{name}/masks')
  tree, found = jax.device_get(differentiate(weights['params']))
  for name, loss in found.items():
    theirs = f'loss/{detectors.LOSSES[name]}'
    note('losses', losses.mean(loss), theirs)
  arrays = detectors.gradients(case, tree, width)
  gaps['gradients'] = summaries(golden, arrays, f'{width}/grad')
  return gaps, arrays


def step(case: str, golden, total) -> dict[str, float]:
  """Returns the differences of the summed gradient and of one step with it."""
  config = detectors.described(case)['config']
  first = config['depths'][0]
  frozen = tuple(f'features.{i}.' for i in range(first + 1))
  trained = {n: g for n, g in total.items() if not n.startswith(frozen)}
  trained = {n: g for n, g in trained.items() if 'running_' not in n}
  names = set(map(str, golden['param_names']))
  trained = {n: jnp.asarray(g) for n, g in trained.items() if n in names}
  before = {n: jnp.asarray(detectors.weights(case)[n]) for n in trained}
  optimizer = optax.chain(
    optax.clip_by_global_norm(config['clip']),
    optax.add_decayed_weights(1e-4),
    optax.sgd(config['lr'], momentum=0.9),
  )
  updates, _ = optimizer.update(trained, optimizer.init(before), before)
  after = {**detectors.weights(case), **optax.apply_updates(before, updates)}
  norm = float(optax.global_norm(trained))
  return {
    'gradients': summaries(golden, total, 'sum/grad'),
    'clipped norm': abs(norm / float(golden['step0/clip_norm']) - 1),
    'after a step': summaries(golden, after, 'after1/'),
  }


def summaries(golden, arrays, prefix: str) -> float:
  """Returns the largest difference of the norms and first values of tensors.

  One whose norm is a rounding error beside the others is left out: the bias of
  the keypoints' maps has no gradient, as it shifts all cells of a map alike.
  """
  join = '' if prefix.endswith('/') else '_'
  least = 1e-10 * float(np.max(golden[f'{prefix}{join}norm']))
  worst = 0.0
  for name, norm, head in zip(
    golden['param_names'],
    golden[f'{prefix}{join}norm'],
    golden[f'{prefix}{join}head'],
    strict=True,
  ):
    array = np.asarray(arrays[str(name)], np.float64)
    if norm < least:
      assert np.linalg.norm(array) < 1e-6 * np.max(
        golden[f'{prefix}{join}norm']
      ), name
      continue
    most = max(np.abs(array).max(), 1e-12)
    gap = np.abs(array.ravel()[:8] - head[: array.size]).max() / most
    worst = max(worst, gap, abs(np.linalg.norm(array) / norm - 1))
  return float(worst)


def relative(found, expected) -> float:
  found, expected = (np.asarray(x, np.float64) for x in (found, expected))
  assert found.shape == expected.shape, (found.shape, expected.shape)
  return float(np.abs(found - expected).max() / np.abs(expected).max())


if __name__ == '__main__':
  main()
