"""Searches with images at hand: `slimjax.search`."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TYPE_CHECKING

from etils import epath
import numpy as np

from slimjax.models.net import check_static
from slimjax.models.net import SlimNet
from slimjax.variables import Variables

if TYPE_CHECKING:
  from slimjax.searching.costs import Cost
  from slimjax.searching.problem import Found


def search(
  model: SlimNet,
  variables: Variables,
  images: Any,
  labels: Any,
  *,
  target_macs: Sequence[float] = (),
  target_ms: Sequence[float] = (),
  table: 'Cost | None' = None,
  strategy: str = 'greedy',
  score: str = 'loss',
  step: int | Mapping[str, int] | None = None,
  minimum: int = 8,
  keep: Sequence[str] = (),
  batch_size: int | None = None,
  trace: epath.PathLike | None = None,
  on_step: Callable[[dict[str, Any]], Any] | None = None,
) -> 'list[Found]':
  """Returns the best channels of every layer under some targets.

  Thousands of candidates are scored on the same images, masked inside a few
  programs, with the images' own statistics (Yu and Huang, arXiv 1903.11728).
  What is found is trained from scratch: `create_model(name, widths=(
  found.channels, ...))`.

  Args:
    model: network trained at random widths of every layer (the plan `sandwich`
      with `per_layer`); its widest is searched in.
    variables: its variables.
    images: training images that it was not trained on, [n, h, w, 3],
      preprocessed as in an evaluation; some hundred at least.
    labels: int [n].
    target_macs: multiply-accumulates to reach.
    target_ms: milliseconds to reach, as `table` predicts them; one of the two
      is given.
    table: latencies of this or another device, of `searching.latency.measure`.
    strategy: 'greedy' (default, the published rule), 'rise_per_cost', which
      weighs what a step saves, or 'evolution'.
    score: 'loss' (default) or 'error', which is full of ties.
    step, minimum, keep: see `searching.problem.make_problem`.
    batch_size: images that are normalised together; default: all.
    trace: file that keeps every step, from which a search that was killed
      resumes; default: none.
    on_step: function called with each step; default: none.

  Returns:
    The networks, one per target, largest first.

  Raises:
    ValueError: the network cannot be masked, or a target cannot be reached.
  """
  # Imported here: `import slimjax` stays light.
  from slimjax.searching import costs
  from slimjax.searching import running
  from slimjax.searching.problem import make_problem
  from slimjax.searching.scoring import Scorer
  from slimjax.tasks import Classification

  check_static(model)
  images, labels = np.asarray(images), np.asarray(labels)
  size = len(images) if batch_size is None else batch_size
  if not 1 < size <= len(images) or len(labels) != len(images):
    raise ValueError(
      f'batch_size {size} must be between 2 and the {len(images)} images, and'
      f' there must be as many labels, not {len(labels)}'
    )
  macs = costs.macs_of(model, images.shape[1:3])
  cost = running.chosen_cost(macs, table, target_macs, target_ms)
  problem = make_problem(
    model,
    cost,
    target_macs or target_ms,
    step=step,
    minimum=minimum,
    keep=keep,
  )
  batches = running.split_batches({'image': images, 'label': labels}, size)
  scorer = Scorer(
    model,
    variables,
    batches,
    task=Classification(),
    macs=macs,
    score=score,
  )
  return running.run_search(
    problem, scorer, strategy=strategy, trace=trace, on_step=on_step
  )
