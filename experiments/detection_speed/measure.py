"""Times NMS, RoIAlign and matching beside torchvision's, on one CPU.

    python experiments/detection_speed/measure.py [--rounds 10] [--only nms]

Needs torch, and torchvision, which the project itself does not use. Prints the
table of README.md.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import functools
import os
import pathlib
import sys
import time
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from torchvision.models.detection._utils import Matcher

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from slimjax.detection.anchors import anchors
from slimjax.detection.matching import match
from slimjax.detection.nms import nms
from slimjax.detection.roi_align import roi_align
from slimjax.runtime.measuring import describe_device

CANVAS = (800, 1344)
SIZES = (32, 64, 128, 256, 512)


class Case(NamedTuple):
  """One row of a table.

  Attributes:
    name: what is done, in words.
    theirs: does it by torchvision and returns NumPy arrays.
    ours: does it by slimjax and returns JAX arrays.
    equal: raises unless the two results, theirs first, are the same.
  """

  name: str
  theirs: Callable[[], Any]
  ours: Callable[[], Any]
  equal: Callable[[Any, Any], None]


def nms_cases() -> Iterator[Case]:
  """Yields suppression of proposals, a small one, and its worst case."""
  threshold = 0.7
  rng = np.random.default_rng(0)
  few, many = _proposals(rng, 1, 1000), _proposals(rng, 10, 2000)
  left = 3 * np.arange(2000, dtype=np.float32)
  chain = np.stack((left, 0 * left, left + 20, 0 * left + 20), axis=-1)[None]
  for name, boxes, limit in (
    ('10 x 2,000 proposals, 1,000 kept', many, 1000),
    ('1 x 1,000 proposals, all kept', few, 1000),
    ('1 x chain of 2,000, each overlaps the next', chain, 2000),
  ):
    scores = rng.permuted(
      np.linspace(0, 1, boxes.shape[1], dtype=np.float32)[None]
      + np.zeros((len(boxes), 1), np.float32),
      axis=1,
    )
    if boxes is chain:  # by falling score along the chain
      scores = np.linspace(1, 0, len(left), dtype=np.float32)[None]

    def ours(boxes, scores, limit=limit):
      scores, order = jax.lax.top_k(scores, len(scores))
      keep = nms(boxes[order], scores >= 0, threshold, limit)
      (kept,) = jnp.nonzero(keep, size=limit, fill_value=-1)
      return jnp.where(kept < 0, -1, order[kept])

    def theirs(boxes, scores, limit=limit):
      return [
        torchvision.ops.nms(b, s, threshold)[:limit].numpy()
        for b, s in zip(boxes, scores, strict=True)
      ]

    def equal(theirs, ours):
      for one, other in zip(theirs, np.asarray(ours), strict=True):
        np.testing.assert_array_equal(one, other[other >= 0])

    yield Case(
      f'NMS, {name}',
      functools.partial(theirs, *map(torch.tensor, (boxes, scores))),
      functools.partial(
        jax.jit(jax.vmap(ours)), *map(jnp.array, (boxes, scores))
      ),
      equal,
    )


def roi_align_cases() -> Iterator[Case]:
  """Yields RoIAlign over P2 to P5 of 256 channels, and its gradient."""
  rng = np.random.default_rng(0)
  for canvas, n, size in (
    (CANVAS, 512, 7),
    (CANVAS, 128, 14),
    ((256, 256), 128, 7),
  ):
    maps = [
      rng.standard_normal(
        (1, -(-canvas[0] // s), -(-canvas[1] // s), 256), np.float32
      )
      for s in (4, 8, 16, 32)
    ]
    rois = _boxes(rng, n, canvas)
    cotangent = rng.standard_normal((1, n, size, size, 256), np.float32)

    align = functools.partial(roi_align, size=size)
    forward = jax.jit(lambda maps, rois, align=align: align(maps, rois))

    @jax.jit
    def both(maps, rois, cotangent, align=align):
      result, pull = jax.vjp(lambda maps: align(maps, rois), maps)
      return result, pull(cotangent)[0]

    pool = torchvision.ops.MultiScaleRoIAlign(['0', '1', '2', '3'], size, 2)
    leaves = {
      str(i): torch.tensor(m).permute(0, 3, 1, 2).contiguous().requires_grad_()
      for i, m in enumerate(maps)
    }
    boxes = [torch.tensor(rois)]
    pulled = torch.tensor(cotangent[0]).permute(0, 3, 1, 2).contiguous()

    def their_forward(pool=pool, leaves=leaves, boxes=boxes, canvas=canvas):
      with torch.no_grad():
        return pool(leaves, boxes, [canvas]).numpy()

    def their_both(
      pool=pool, leaves=leaves, boxes=boxes, canvas=canvas, pulled=pulled
    ):
      result = pool(leaves, boxes, [canvas])
      gradients = torch.autograd.grad(result, list(leaves.values()), pulled)
      return result.detach().numpy(), [g.numpy() for g in gradients]

    def equal(theirs, ours):
      ours = np.asarray(ours)[0].transpose(0, 3, 1, 2)
      np.testing.assert_allclose(theirs, ours, 1e-3, 1e-3)

    def both_equal(theirs, ours, equal=equal):
      equal(theirs[0], ours[0])
      for one, other in zip(theirs[1], ours[1], strict=True):
        other = np.asarray(other).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(one, other, 1e-3, 1e-3)

    name = f'RoIAlign, {n} of {size}x{size}, {canvas[0]}x{canvas[1]}'
    arrays = tuple(map(jnp.array, maps)), jnp.array(rois)[None]
    yield Case(
      f'{name}, forward',
      their_forward,
      functools.partial(forward, *arrays),
      equal,
    )
    yield Case(
      f'{name}, forward and backward',
      their_both,
      functools.partial(both, *arrays, jnp.array(cotangent)),
      both_equal,
    )


def matching_cases() -> Iterator[Case]:
  """Yields the matching of all anchors of a picture, padded to 100 objects."""
  rng = np.random.default_rng(0)
  places = np.concatenate(anchors(CANVAS, SIZES))
  matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
  ours = jax.jit(functools.partial(match, high=0.7, low=0.3, low_quality=0))
  for objects in (7, 100):
    gt = np.zeros((100, 4), np.float32)
    gt[:objects] = _boxes(rng, objects, CANVAS)
    tensors = torch.tensor(gt[:objects]), torch.tensor(places)

    def theirs(tensors=tensors):
      return matcher(torchvision.ops.box_iou(*tensors)).numpy()

    def equal(theirs, ours):
      matched, label = map(np.asarray, ours)
      expected = np.where(theirs >= 0, 1, np.where(theirs == -1, 0, -1))
      # The two round IoU differently: at a threshold or a tie they may differ.
      assert np.mean(label != expected) < 1e-4
      both = (label == 1) & (expected == 1)
      assert np.mean(matched[both] != theirs[both]) < 1e-2

    yield Case(
      f'Matching, {len(places):,} anchors, {objects} objects',
      theirs,
      functools.partial(
        ours, *map(jnp.array, (places, gt, np.arange(100) < objects))
      ),
      equal,
    )


def _boxes(rng, n, canvas) -> np.ndarray:
  """Returns boxes as proposals of all levels are, [n, 4]."""
  side = np.exp(rng.uniform(np.log(16), np.log(min(canvas) * 0.8), (n, 1)))
  ratio = np.exp(rng.uniform(-0.7, 0.7, (n, 1)))
  half = np.concatenate((side * ratio, side / ratio), axis=1) / 2
  centre = rng.uniform(0, 1, (n, 2)) * (canvas[1], canvas[0])
  boxes = np.concatenate((centre - half, centre + half), axis=1)
  most = (canvas[1], canvas[0]) * 2
  return np.clip(boxes, 0, most).astype(np.float32)


def _proposals(rng, lists, n) -> np.ndarray:
  """Returns lists of boxes that crowd round 60 objects each, [lists, n, 4]."""
  found = []
  for _ in range(lists):
    objects = _boxes(rng, 60, CANVAS)[rng.integers(0, 60, n)]
    sides = np.tile(objects[:, 2:] - objects[:, :2], (1, 2))
    moved = objects + rng.normal(0, 0.15, (n, 4)) * sides
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    found.append(moved)
  return np.stack(found).astype(np.float32)


CASES = {
  'nms': nms_cases,
  'roi_align': roi_align_cases,
  'matching': matching_cases,
}


def measure(case: Case, rounds: int) -> dict[str, float]:
  """Returns the smallest times of both, in turns, in milliseconds."""
  turns = {'torchvision': case.theirs, 'slimjax': case.ours}
  case.equal(case.theirs(), jax.block_until_ready(case.ours()))
  smallest: dict[str, float] = {}
  for _ in range(rounds):
    for name, run in turns.items():
      wall, processor = time.perf_counter(), time.process_time()
      jax.block_until_ready(run())
      for clock, spent in (
        ('wall', time.perf_counter() - wall),
        ('processor', time.process_time() - processor),
      ):
        key = f'{name}_{clock}_ms'
        smallest[key] = min(smallest.get(key, float('inf')), spent * 1e3)
  return smallest


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--only', choices=CASES, action='append')
  args = parser.parse_args()
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  load = [os.getloadavg()[0]]
  print('| | torchvision ms | slimjax ms | ratio | ratio, processor time |')
  print('|---|---|---|---|---|')
  for name in args.only or CASES:
    for case in CASES[name]():
      row = measure(case, args.rounds)
      for clock in ('wall', 'processor'):
        times = [row[f'{who}_{clock}_ms'] for who in ('torchvision', 'slimjax')]
        row[f'{clock}_ratio'] = times[0] / times[1]
      print(
        f'| {case.name} | {row["torchvision_wall_ms"]:.1f} '
        f'| {row["slimjax_wall_ms"]:.1f} | {row["wall_ratio"]:.1f} '
        f'| {row["processor_ratio"]:.1f} |',
        flush=True,
      )
  load.append(os.getloadavg()[0])
  print(
    f'\n{describe_device("jax")}, load {load[0]:.1f} to {load[1]:.1f}; jax'
    f' {jax.__version__}, torch {torch.__version__}, torchvision'
    f' {torchvision.__version__}; {args.rounds} rounds'
  )


if __name__ == '__main__':
  main()
