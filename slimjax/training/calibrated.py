"""Widths of a run that were calibrated after it: how, and where they are kept.

WORKDIR/calibrated/STEP.safetensors holds the trees of the widths of one
checkpoint, which it stands beside and never changes. Whatever loads that
checkpoint finds them: evaluation, export, prediction, a benchmark.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slimjax import files
from slimjax.data import fingerprint
from slimjax.data.dataset import Dataset
from slimjax.models.net import SlimNet
from slimjax.variables import Variables
from slimjax.variables.calibrating import calibrate
from slimjax.variables.format import private_collections
from slimjax.widths import canonical
from slimjax.widths import switch_name
from slimjax.widths import Width

FOLDER = 'calibrated'
BATCHES = 5  # as published
_ABOUT = 'about'


@dataclasses.dataclass(frozen=True)
class Calibrated:
  """Widths that were calibrated for one checkpoint.

  Attributes:
    about: {switch: {'width', 'batches', 'batch_size', 'augmented', 'data_dir',
      'scores'}}; the scores are those of the test split.
    trees: {collection: {switch: tree}}.
  """

  about: Mapping[str, Mapping[str, Any]]
  trees: Mapping[str, Mapping[str, Any]]

  @property
  def widths(self) -> dict[str, Width]:
    """Returns the widths by switch."""
    return {s: canonical(of_one['width']) for s, of_one in self.about.items()}

  def has(self, width: Width, settings: Mapping[str, Any]) -> bool:
    """Returns whether a width was calibrated in just this way."""
    about = self.about.get(switch_name(width), {})
    return bool(about) and all(
      about.get(name) == value for name, value in settings.items()
    )


NONE = Calibrated({}, {})


def calibrate_on(
  model: SlimNet,
  variables: Variables,
  dataset: Dataset,
  widths: Sequence[Width],
  *,
  batches: int = BATCHES,
  batch_size: int,
  seed: int = 0,
  augmented: bool = True,
) -> dict[str, Any]:
  """Returns the variables with statistics of widths from the training split.

  Args:
    model: network of the run.
    variables: variables of its checkpoint.
    dataset: data set of the run.
    widths: any widths that fit into the parameters.
    batches: number of batches; default: 5.
    batch_size: images in each.
    seed: seed that draws and augments the images; default: 0.
    augmented: whether the images are augmented as in training (the default), or
      only preprocessed.
  """
  key = jax.random.key(seed)
  augment = jax.jit(dataset.augment)

  def images():
    read = dataset.train_batches(batch_size, seed=seed, steps=range(batches))
    for number, batch in enumerate(read):
      if augmented:
        yield augment(jax.random.fold_in(key, number), batch)['image']
      else:
        yield dataset.preprocess(batch['image'])

  return calibrate(model, variables, images(), widths=widths)


def write_calibrated(
  workdir: epath.Path,
  step: int,
  variables: Variables,
  about: Mapping[str, Mapping[str, Any]],
) -> None:
  """Writes calibrated widths beside those that were calibrated before.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint.
    variables: variables that have the trees of the widths.
    about: see `Calibrated`.
  """
  from safetensors.numpy import save

  before = read_calibrated(workdir, step)
  said = {**before.about, **about}
  flat: dict[str, np.ndarray] = {}
  for name in private_collections(variables):
    trees = {
      **before.trees.get(name, {}),
      **{switch: variables[name][switch] for switch in about},
    }
    for path, array in traverse_util.flatten_dict(trees, sep='/').items():
      flat[f'{name}/{path}'] = np.ascontiguousarray(array)
  text = json.dumps(said)
  metadata = {_ABOUT: text, 'fingerprint': _digest(text, flat)}
  files.make_folder(workdir / FOLDER)
  files.write_bytes(_path(workdir, step), save(flat, metadata))


def read_calibrated(workdir: epath.Path, step: int) -> Calibrated:
  """Returns the widths that were calibrated for a checkpoint, perhaps none.

  Raises:
    ValueError: their file is damaged; it can be deleted, and made again.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load

  path = _path(workdir, step)
  if not path.exists():
    return NONE
  content = files.read_bytes(path)
  wrong = ValueError(
    f'{path} is damaged; delete it and calibrate the widths again:'
    f' python -m slimjax.calibrate --workdir={workdir} --widths=...'
  )
  try:
    arrays = load(content)
    length = int.from_bytes(content[:8], 'little')
    metadata = json.loads(content[8 : 8 + length])['__metadata__']
    text, digest = metadata[_ABOUT], metadata['fingerprint']
  except (SafetensorError, ValueError, KeyError) as error:
    raise wrong from error
  if digest != _digest(text, arrays):
    raise wrong
  about = json.loads(text)
  trees: dict[str, Any] = traverse_util.unflatten_dict(
    {name: jnp.asarray(array) for name, array in arrays.items()}, sep='/'
  )
  return Calibrated(about, trees)


def with_calibrated(
  model: SlimNet, variables: Variables, found: Calibrated
) -> tuple[SlimNet, Variables]:
  """Returns a network and its variables with the calibrated widths, too."""
  new = [w for w in found.widths.values() if w not in model.widths]
  if not new:
    return model, variables
  merged = dict(variables)
  for name in private_collections(variables):
    trees = found.trees.get(name, {})
    merged[name] = {
      **variables[name],
      **{
        switch_name(width): trees.get(switch_name(width), {}) for width in new
      },
    }
  return model.clone(widths=(*model.widths, *new)), merged


def _path(workdir: epath.Path, step: int) -> epath.Path:
  return workdir / FOLDER / f'{step}.safetensors'


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
  return fingerprint.of(
    part
    for name, array in [
      ('', np.frombuffer(text.encode(), np.uint8)),
      *sorted(arrays.items()),
    ]
    for part in (f'{name} {array.dtype} {array.shape}'.encode(), array)
  )
