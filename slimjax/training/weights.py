"""Weights to begin with: of a run, a bundle, a file, or arrays at hand."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from slimjax import checks
from slimjax import files
from slimjax.models.net import SlimNet
from slimjax.runtime import bundle
from slimjax.runtime.tensors import read_tensors
from slimjax.variables import init
from slimjax.variables.calibrating import calibrate
from slimjax.variables.fitting import bare
from slimjax.variables.fitting import fit
from slimjax.variables.fitting import fresh
from slimjax.variables.fitting import Source
from slimjax.variables.fitting import Taken
from slimjax.variables.fitting import target
from slimjax.variables.format import compiled_drawing
from slimjax.variables.reading import check_exists
from slimjax.variables.reading import read_file
from slimjax.variables.slicing import Path
from slimjax.variables.sorting import sort_channels
from slimjax.variables.sources import refuse_epsilon
from slimjax.variables.sources import source_of
from slimjax.variables.sources import source_of_variables
from slimjax.widths import canonical


def load_weights(
  model: SlimNet,
  source: Any,
  *,
  epsilon: float | None = None,
  key: jax.Array | None = None,
  report: Callable[[Taken], Any] | None = None,
) -> dict[str, Any]:
  """Returns variables of `model` that begin with weights from elsewhere.

  Every tensor of the network must be there, in its shape, with exceptions of
  which `report` tells. Where the number of classes differs the classifier is
  drawn anew, and so is a head for masks or keypoints that the source lacks; one
  that the model lacks is left aside. A switch that the source lacks begins with
  the norms of the nearest wider one, their leading entries, whose statistics do
  not fit it until it is trained or calibrated.

  Images must be normalised as they were for the source: by mean (0.485, 0.456,
  0.406) and deviation (0.229, 0.224, 0.225) for torchvision and most of timm,
  as photos are here; by 0.5 and 0.5 for some weights of mobilenetv1_100.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own.
    source: the folder of a run (its latest checkpoint) or of a bundle; a file
      (.pt, .pth, .safetensors, .npz); a mapping of arrays or tensors by name;
      or a module of PyTorch. Files and mappings hold variables of ours by name,
      a network of the slimmable networks' authors, or one of these, whose norms
      are copied to each switch: resnet50, 101, 152 and mobilenet_v2 of
      torchvision, and its fasterrcnn, maskrcnn and keypointrcnn_resnet50_fpn;
      resnet50, mobilenetv1_100 and mobilenetv2_100 of timm.
    epsilon: number that the norms of torchvision's or timm's network add to the
      variance, which no file tells; default: 1e-5. Torchvision's detectors of
      COCO (COCO_V1) have 0, those trained from a backbone 1e-5. The scales are
      changed so that the norms give the same with ours.
    key: a key of `jax.random` for a new classifier; by default that of seed 0.
    report: function called with a `Taken`, such as `print`: 'took 265 of 267
      tensors of resnet50.pth; new: the classifier, 1000 -> 5 classes; norms of
      0.25, 0.5, 0.75 from 1.0'. Default: none.

  Returns:
    The variables, float32 (float64 where the arrays are and jax keeps it).

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: it holds no weights, is damaged, or of another network; the
      message says what it looks like.
  """
  found = find_source(model, source, epsilon)
  return _fitted(model, found, _drawn(model, found, key), report)


def make_slimmable(
  model: SlimNet,
  weights: Any,
  batches: Iterable[Any] | None = None,
  *,
  method: str = 'l1',
  key: jax.Array | None = None,
  report: Callable[[Taken], Any] | None = None,
) -> dict[str, Any]:
  """Returns variables of `model` made of a network that was never slimmed.

  The channels inside the network are sorted by importance, so that the leading
  ones, which thin widths use, are the best. The widest gives what it gave. The
  thinner ones begin with its norms; with batches their statistics are
  calibrated. All of them want some training after that.

  Args:
    model: a model of `slimjax.create_model`, or a `SlimNet` of your own; groups
      that are slimmed apart cannot be sorted (ShuffleNet).
    weights: see `load_weights`; of several widths the widest is taken.
    batches: images [b, h, w, 3], preprocessed and augmented as in training, for
      the statistics of the thinner widths; by default they keep the widest's.
    method: importance of a channel, a sum of absolute values: 'l1' (default) of
      the kernels that read it; 'l1_made' of those that make it; 'scale' of the
      scales of its norms.
    key, report: see `load_weights`.

  Raises:
    ValueError: see `load_weights`; or the channels cannot be sorted.
  """
  found = _sorted(model, find_source(model, weights), method)
  variables, taken = fit(model, found, _drawn(model, found, key))
  if batches is not None and taken.norms:
    variables = calibrate(model, variables, batches, widths=tuple(taken.norms))
  if report is not None:
    report(taken)
  return jax.tree.map(jnp.asarray, variables)


def begin(
  model: SlimNet,
  source: Any,
  drawn: Mapping[str, Any],
  *,
  sort: str | None = None,
  epsilon: float | None = None,
  report: Callable[[Taken], Any] | None = None,
) -> dict[str, Any]:
  """Returns what a run begins with.

  Args:
    model: network of the run.
    source: see `load_weights`.
    drawn: variables as drawn, of which the head may be taken.
    sort: a method of `make_slimmable`; by default channels keep their order.
    epsilon, report: see `load_weights`.
  """
  found = find_source(model, source, epsilon)
  if sort:
    found = _sorted(model, found, sort)
  return _fitted(model, found, lambda: drawn, report)


def find_source(
  model: SlimNet, source: Any, epsilon: float | None = None
) -> Source:
  """Returns the weights that `source` names; see `load_weights`."""
  if epsilon is not None:
    checks.real('epsilon', epsilon, least=0.0, most=1.0)
  if hasattr(source, 'state_dict'):
    return source_of(model, source.state_dict(), 'the module', epsilon)
  if isinstance(source, Mapping):
    return source_of(model, source, 'the mapping', epsilon)
  path = files.expand(source, 'the source of weights')
  check_exists(path)
  if not path.is_dir():
    return source_of(model, read_file(path), str(path), epsilon)
  refuse_epsilon(epsilon, str(path))
  # It is imported here: it imports what writes checkpoints.
  from slimjax.training import runs

  if (path / runs.CONFIG).exists():
    run, other, variables, step = runs.load_run(path)
    name = f'{path} ({run.model["name"]}, step {step})'
    return _of_ours(model, variables, name, other.widths, other.num_classes)
  if (path / bundle.MANIFEST).exists():
    manifest = bundle.read_manifest(str(path))
    tensors = read_tensors(bundle.local(path) / bundle.WEIGHTS)
    widths = tuple(canonical(w) for w in manifest.model['widths'])
    name = f'{path} ({manifest.model["class"]})'
    classes = manifest.model['num_classes']
    return source_of_variables(
      model, tensors, name, widths=widths, classes=classes
    )
  raise ValueError(
    f'{path} is neither a run (it has no {runs.CONFIG}) nor a bundle (no'
    f' {bundle.MANIFEST}); give the folder of one, or a file of weights'
  )


def _of_ours(model, variables, name, widths, classes) -> Source:
  flat = traverse_util.flatten_dict(dict(variables))
  arrays = {'/'.join(path): array for path, array in flat.items()}
  return source_of_variables(
    model, arrays, name, widths=widths, classes=classes
  )


def _sorted(model: SlimNet, found: Source, method: str) -> Source:
  return sort_channels(target(model, found), found, method=method)


def _drawn(model: SlimNet, found: Source, key: jax.Array | None):
  """Returns a function that draws what a source lacks, and nothing else."""
  wanted = fresh(model, found)
  key = jax.random.key(0) if key is None else key
  return lambda: _draw_only(model, wanted, key)


def _draw_only(
  model: SlimNet, wanted: frozenset[Path], key: jax.Array
) -> dict[str, Any]:
  like = jax.ShapeDtypeStruct(key.shape, key.dtype)
  return _drawing(model, wanted, like)(key)


@functools.lru_cache(maxsize=16)
def _drawing(model: SlimNet, wanted: frozenset[Path], key: jax.Array):
  def draw(key):
    flat = traverse_util.flatten_dict(init(model, key))
    return traverse_util.unflatten_dict(
      {path: leaf for path, leaf in flat.items() if bare(path) in wanted}
    )

  return compiled_drawing(jax.jit(draw), key)


def _fitted(model, found, draw, report) -> dict[str, Any]:
  variables, taken = fit(model, found, draw)
  if report is not None:
    report(taken)
  return jax.tree.map(jnp.asarray, variables)
