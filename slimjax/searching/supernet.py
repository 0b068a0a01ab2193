"""Opens a run that is searched, and the images to score with."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from etils import epath
import numpy as np

from slimjax import configuration
from slimjax.data.batches import Batch
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.searching.costs import Cost
from slimjax.searching.running import split_batches
from slimjax.searching.scoring import Scorer
from slimjax.tasks import Task
from slimjax.tasks.base import image_size
from slimjax.training import processes
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import load_run
from slimjax.variables import Variables


@dataclasses.dataclass(frozen=True)
class Supernet:
  """A run that is searched, and the images to score with.

  Attributes:
    name: network and data, for people.
    about: origin of what is found: model, run, image size, number of images.
    model, variables: network and variables of a checkpoint.
    task: task of the run.
    dataset: data set of the run.
    batches: images of a split, in whole batches.
  """

  name: str
  about: Mapping[str, Any]
  model: SlimNet
  variables: Variables
  task: Task
  dataset: Dataset
  batches: Sequence[Batch]

  @property
  def size(self) -> tuple[int, int]:
    """Returns (height, width) of the images in pixels."""
    return image_size(self.task, self.dataset)

  @property
  def images(self) -> int:
    """Returns the number of images."""
    return len(self.batches) * len(self.batches[0]['image'])

  def scorer(
    self, macs: Cost, score: str, say: Callable[[str], None]
  ) -> Scorer:
    """Returns the scorer of its candidates."""
    return Scorer(
      self.model,
      self.variables,
      self.batches,
      task=self.task,
      macs=macs,
      score=score,
      preprocess=self.dataset.preprocess,
      say=say,
    )


def open_supernet(
  workdir: epath.PathLike,
  split: str,
  images: int | None,
  batch_size: int | None,
  data_dir: epath.PathLike | None,
  *,
  best: bool,
) -> Supernet:
  """Returns a run with the images to score with; see `search_run`."""
  run, model, variables, step = load_run(workdir, best=best)
  task = build_task(run)
  dataset = processes.together(lambda: _open(run, workdir, split, data_dir))
  size = batch_size or run.eval_batch_size
  batches = read_batches(dataset, split, images, size)
  return Supernet(
    name=f'{run.model["name"]} on {dataset.name}',
    about={
      'model': run.model['name'],
      'run': f'{os.fspath(workdir)}, step {step}',
      'image_size': [*image_size(task, dataset)],
      'images': len(batches) * len(batches[0]['image']),
    },
    model=model,
    variables=variables,
    task=task,
    dataset=dataset,
    batches=batches,
  )


def _open(
  run: configuration.Run,
  workdir: epath.PathLike,
  split: str,
  data_dir: epath.PathLike | None,
) -> Dataset:
  """Returns the data set of a run, which has the split."""
  if data_dir is not None:
    data = {**run.data, 'data_dir': os.fspath(data_dir)}
    run = dataclasses.replace(run, data=data)
  dataset = build_dataset(run)
  if split not in dataset.splits:
    raise ValueError(
      f'the run in {workdir} has no split {split}, only'
      f' {", ".join(dataset.splits)}: train it with --config.data.held_out=N,'
      ' or give --split=train, whose images it has learned'
    )
  check_data(workdir, dataset, [split])
  return dataset


def read_batches(
  dataset: Dataset, split: str, images: int | None, batch_size: int
) -> list[Batch]:
  """Returns whole batches of a split, without what cannot be read.

  Args:
    dataset: data set that has the split.
    split: name of the split.
    images: number of images at most; None takes all.
    batch_size: images in a batch; fewer if there are fewer.

  Raises:
    ValueError: there are fewer than two images.
  """
  parts: list[Batch] = []
  count = 0
  for batch in dataset.eval_batches(split, batch_size):
    mask = batch.pop('mask')
    parts.append({name: array[mask] for name, array in batch.items()})
    count += int(np.sum(mask))
    if images is not None and count >= images:
      break  # the rest is not read
  joined = {
    name: np.concatenate([part[name] for part in parts])[:images]
    for name in parts[0]
  }
  size = min(batch_size, len(joined['image']))
  if size < 2:
    raise ValueError(f'{size} images are too few to score with; 2 are needed')
  return split_batches(joined, size)
