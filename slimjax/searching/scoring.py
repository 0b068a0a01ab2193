"""Scores many candidates on the same images, by one program.

A candidate is the channels of every layer, as data: it is masked inside a
program that is compiled at a static width, the bound (see
`slimjax.variables.masking`). Its norms normalise by the statistics of the
images themselves, so nothing is calibrated.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import operator
from typing import Any

from flax import traverse_util
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from slimjax.data import fingerprint
from slimjax.data.batches import Batch
from slimjax.models.net import SlimNet
from slimjax.searching.costs import Cost
from slimjax.tasks.base import Task
from slimjax.training.compiling import quiet
from slimjax.training.mesh import AXIS
from slimjax.training.mesh import compiler_options
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.variables.format import select
from slimjax.variables.format import TRAINED
from slimjax.variables.format import Variables
from slimjax.variables.masking import check_maskable
from slimjax.variables.masking import mask_norm
from slimjax.variables.masking import NORM
from slimjax.variables.slicing import narrow
from slimjax.variables.slicing import take_width
from slimjax.widths import Width

SCORES = ('loss', 'error')
# Candidates that a device runs at once. On CPU one after another is 1.4 times
# as fast as several at once, whose maps leave the cache; what fills an
# accelerator was not measured.
_TOGETHER = {'cpu': 1}
_ELSEWHERE = 8
# A bound is left for the current channels when these cost so much less.
SHRINK = 0.7


class Scorer:
  """Scores candidates; the bound follows the search.

  Candidates are split over the devices, the images are on all of them.
  """

  def __init__(
    self,
    model: SlimNet,
    variables: Variables,
    batches: Sequence[Batch],
    *,
    task: Task,
    macs: Cost,
    score: str = 'loss',
    preprocess: Callable | None = None,
    mesh: jax.sharding.Mesh | None = None,
    together: int | None = None,
    say: Callable[[str], None] = quiet,
  ):
    """Takes what is scored to the devices; nothing is compiled yet.

    Args:
      model: network whose widest switch is searched in.
      variables: its variables, trained at random channels.
      batches: batches of one size, with what the task's loss needs. Each is
        normalised by its own statistics, so it should be large.
      task: task that says what a loss and an error are.
      macs: multiply-accumulates of channels, by which the bound follows.
      score: 'loss' (default), or 'error', the task's headline: of few images it
        is full of ties.
      preprocess: images -> floating images; by default they are used as they
        are.
      mesh: mesh of the devices; default: all.
      together: candidates that a device runs at once; default: 1 on CPU, else
        8.
      say: function that is told what is compiled; default: none.

    Raises:
      ValueError: the network cannot be masked, or there is no such score.
    """
    if score not in SCORES:
      raise ValueError(f"score must be 'loss' or 'error', got {score!r}")
    if not batches:
      raise ValueError('there are no images to score with')
    check_maskable(model)
    self._model = model.clone(axis_name=None, remat=False)
    self._mesh = data_mesh() if mesh is None else mesh
    platform = self._mesh.devices.flat[0].platform
    self._together = together or _TOGETHER.get(platform, _ELSEWHERE)
    widest = model.switch(model.ordered_widths[-1])
    self._weights = select(variables, widest)
    self._batches = [replicate(dict(b), self._mesh) for b in batches]
    self._task = task
    self._macs = macs
    self._score = score
    self._preprocess = preprocess
    self._say = say
    self._bound: tuple[int, ...] | None = None
    self._program: Any = None
    self._taken: Any = None

  @property
  def bound(self) -> tuple[int, ...] | None:
    """Returns the width that the program is compiled at; None before."""
    return self._bound

  def describe(self) -> dict[str, Any]:
    """Returns what the scores depend on, as JSON has it: hashes, sizes."""
    return {
      'score': self._score,
      'weights': _digest(self._weights),
      'images': _digest(dict(enumerate(self._batches))),
      'batches': [len(self._batches), len(self._batches[0]['image'])],
    }

  def restart(self) -> None:
    """Moves the bound back to the whole network."""
    self._bound = self._program = None

  def follow(self, current: Sequence[int]) -> None:
    """Moves the bound to the current channels, if they cost much less.

    A search that resumes calls it for every step that was done: the bound is a
    function of these alone, and so are the last digits of a score.
    """
    channels = tuple(int(c) for c in current)
    if self._bound is not None:
      now, bound = self._macs([channels, self._bound])
      if now >= SHRINK * bound:
        return
    self._bound, self._program = channels, None

  def __call__(self, counts: Any) -> np.ndarray:
    """Returns the scores [n] of candidates [n, layers] inside the bound."""
    if self._score == 'loss':
      return np.array([told['loss'] for told in self.summaries(counts)])
    headline = self._task.metrics[0]
    return np.array(
      [headline.error(told[headline.name]) for told in self.summaries(counts)]
    )

  def summaries(self, counts: Any) -> list[dict[str, float]]:
    """Returns what the task tells of each candidate: loss, errors."""
    counts = np.atleast_2d(np.asarray(counts, np.int32))
    if self._bound is None:
      self.follow(self._model.full_channels)
    if self._program is None:
      self._compile()
    group = self._mesh.size * self._together
    missing = -len(counts) % group
    # The last row fills up: no score depends on its neighbours.
    padded = np.concatenate([counts, np.repeat(counts[-1:], missing, axis=0)])
    sharding = NamedSharding(self._mesh, P(AXIS))
    groups = [
      jax.device_put(part, sharding)
      for part in np.split(padded, len(padded) // group)
    ]
    totals: list[Any] = [None] * len(groups)
    for batch in self._batches:
      measured = [self._program(self._taken, batch, part) for part in groups]
      for i, sums in enumerate(measured):
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
        totals[i] = (
          sums if totals[i] is None else jax.tree.map(np.add, totals[i], sums)
        )
    told = [
      self._task.summarise(jax.tree.map(operator.itemgetter(row), sums))
      for sums in totals
      for row in range(group)
    ]
    return told[: len(counts)]

  def _compile(self) -> None:
    assert self._bound is not None
    self._say('compiling the candidates')
    taken = take_width(self._model, self._weights, width=self._bound)
    self._taken = replicate(taken, self._mesh)
    self._program = score_program(
      self._model,
      self._task,
      self._bound,
      self._mesh,
      together=self._together,
      preprocess=self._preprocess,
    )


def _digest(tree: Any) -> str:
  """Returns a hash of a tree's arrays, their names and types."""
  flat = traverse_util.flatten_dict(tree)
  return fingerprint.of(
    part
    for path in sorted(flat, key=str)
    for part in (
      f'{path} {flat[path].dtype} {flat[path].shape}'.encode(),
      np.asarray(flat[path]),
    )
  )


@functools.lru_cache(maxsize=8)
def score_program(
  model: SlimNet,
  task: Task,
  bound: Width,
  mesh: jax.sharding.Mesh,
  *,
  together: int = 1,
  preprocess: Callable | None = None,
):
  """Returns `metrics = program(weights, batch, counts)`, jitted.

  Args:
    model: the network.
    task: task that gives the metrics.
    bound: width that the program is compiled at.
    mesh: mesh with the axis `data`, over which the candidates are split.
    together: candidates that a device runs at once; default: 1.
    preprocess: images -> floating images; by default they are used as they are.

  Returns:
    A function of the bound's weights, a batch (on every device) and counts
    int32 [devices * together, layers]. It returns the task's metrics (sum,
    count) of every candidate.
  """
  small = narrow(model, bound)

  def score(weights, batch, counts):
    norm = mask_norm(small, weights[NORM], counts)
    state = [name for name in weights if name not in TRAINED]

    def forward(*inputs, **options):
      outputs, _ = small.apply(
        {**weights, NORM: norm},
        *inputs,
        width=bound,
        train=True,
        mutable=state,
        rngs={'dropout': jax.random.key(0)},
        **options,
      )
      return outputs

    _, _, metrics = task.loss(forward, batch, jax.random.key(0), None)
    return metrics

  def of_device(weights, batch, counts):
    if preprocess is not None:
      batch = {**batch, 'image': preprocess(batch['image'])}
    if together > 1:
      return jax.vmap(score, in_axes=(None, None, 0))(weights, batch, counts)
    metrics = score(weights, batch, counts[0])
    return jax.tree.map(lambda x: x[None], metrics)

  parts = jax.shard_map(
    of_device, mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P(AXIS)
  )
  return jax.jit(
    parts,
    out_shardings=NamedSharding(mesh, P()),
    compiler_options=compiler_options(mesh),
  )
