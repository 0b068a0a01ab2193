"""Draws what a run learned: figures 3 and 4 of the paper, and the divergence.

`visualize_run` writes into a folder:

activations.png  the images that activate one channel most, one row per width.
                 The activation of an image is the maximum over positions of
                 the layer's output, after its activation function
norms.png        batch norm of a shallow and a deep layer, one colour per width
divergence.png   how far apart the widths of each norm are, over the depth;
                 `slimjax.analysis.features.divergence` has the formula
divergence.json  the same numbers: {layer: {scale, bias, mean, var}}
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math

from etils import epath
import numpy as np

from slimjax import files
from slimjax import plots
from slimjax.analysis.features import channel_positions
from slimjax.analysis.features import divergences
from slimjax.analysis.features import Examples
from slimjax.analysis.features import extract_all
from slimjax.analysis.features import find_layers
from slimjax.analysis.features import Layer
from slimjax.analysis.features import most_activating
from slimjax.analysis.features import Networks
from slimjax.analysis.features import NORM_VALUES
from slimjax.analysis.features import norm_values
from slimjax.tasks.base import image_size
from slimjax.training.compiling import alive
from slimjax.training.runs import build_dataset
from slimjax.training.runs import build_task
from slimjax.training.runs import check_data
from slimjax.training.runs import load_run
from slimjax.widths import label
from slimjax.widths import Width

# The channel of the paper's figure 3 (its 3_9).
_CHANNEL = 9
# The most layer names that fit below an axis, and the most channels that are
# drawn as large dots.
_MOST_LABELS = 40
_FEW = 64


def visualize_run(
  workdir: epath.PathLike,
  out: epath.PathLike | None = None,
  *,
  layer: str | None = None,
  channel: int | None = None,
  shallow: str | None = None,
  deep: str | None = None,
  images: int = 10,
  split: str = 'test',
  best: bool = False,
) -> list[epath.Path]:
  """Writes the pictures of a run, and prints which layers they show.

  Args:
    workdir: folder of the run.
    out: folder to write to, which is created; default: WORKDIR/features.
    layer: layer whose activations are shown; default: one at a quarter of the
      depth.
    channel: channel whose activations are shown, counted among those that all
      widths have; default: 9, or 0 if there are fewer.
    shallow: first layer whose norms are shown; default: the first of all.
    deep: second layer whose norms are shown; default: the last of all.
    images: number of images in a row; default: 10.
    split: split of the run's data set that the images are from; default: test.
    best: whether to take the checkpoint with the least validation error; by
      default the latest.

  Returns:
    The files written.

  Raises:
    ValueError: there is no such layer, channel or split.
  """
  if images < 1:
    raise ValueError(f'at least one image must be shown, got {images}')
  run, model, variables, step = load_run(workdir, best=best)
  with alive(print, lambda: 'reading the data'):
    dataset = build_dataset(run)
    if split not in dataset.splits:
      raise ValueError(
        f'split {split!r}: the run has {", ".join(dataset.splits)}'
      )
    check_data(workdir, dataset, [split])
  layers = find_layers(model, image_size(build_task(run), dataset))
  layer = _known(layer or default_layer(layers), layers)
  shown = [
    _known(shallow or next(iter(layers)), layers),
    _known(deep or next(reversed(layers)), layers),
  ]
  networks = extract_all(model, variables)
  if channel is None:
    channel = _default_channel(networks, layers[layer])
  positions = channel_positions(networks, layers[layer], channel)
  print(f'activations of {layer}, channel {channel}')
  print(f'norms of {shown[0]} and {shown[1]}')

  rows = most_activating(
    networks,
    dataset,
    layer=layer,
    positions=positions,
    count=images,
    split=split,
  )
  values = norm_values(networks, layers)
  apart = divergences(values)
  workdir = files.expand(workdir, 'workdir')
  out = workdir / 'features' if out is None else files.expand(out, 'out')
  files.make_folder(out)
  name = f'{run.model["name"]} on {dataset.name}, step {step}'
  paths = [out / f'{n}.png' for n in ('activations', 'norms', 'divergence')]
  plot_activations(
    rows, paths[0], f'{name}: {split} images, {layer}, channel {channel}'
  )
  plot_norms({n: values[n] for n in shown}, list(networks), paths[1], name)
  plot_divergence(apart, paths[2], name)
  paths.append(out / 'divergence.json')
  files.write_json(paths[-1], apart)
  return paths


def default_layer(layers: Mapping[str, Layer]) -> str:
  """Returns a layer with an activation, at a quarter of the depth.

  In MobileNet v1 it is unit3/pointwise, as in the paper's figure.
  """
  activated = [name for name, layer in layers.items() if layer.activated]
  return activated[len(activated) // 4]


def _default_channel(networks: Networks, layer: Layer) -> int:
  try:
    channel_positions(networks, layer, _CHANNEL)
  except ValueError:
    return 0
  return _CHANNEL


def _known(name: str, layers: Mapping[str, Layer]) -> str:
  if name not in layers:
    raise ValueError(f'unknown layer {name!r}; there are {", ".join(layers)}')
  return name


def plot_activations(
  rows: Mapping[Width, Examples], path: epath.Path, title: str
) -> None:
  """Saves one row of images per width, as PNG; see `most_activating`."""
  most = max(len(examples['image']) for examples in rows.values())
  figure = plots.figure((1.5 + 0.9 * most, 0.9 + 0.95 * len(rows)))
  grid = figure.subplots(len(rows), most, squeeze=False)
  for line, (width, examples) in zip(grid, rows.items(), strict=True):
    for axes in line:
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(False)
    highest, lowest = examples['activation'][[0, -1]]
    line[0].set_ylabel(
      f'{label(width)}\n{highest:.2f} to {lowest:.2f}',
      rotation=0,
      ha='right',
      va='center',
      fontsize=9,
    )
    shown = zip(line, examples['image'], examples['wrong'], strict=False)
    for axes, image, wrong in shown:
      axes.imshow(image)
      if wrong:
        axes.spines[:].set(visible=True, color='red', linewidth=3)
  figure.suptitle(title, fontsize=10)
  figure.supxlabel(
    'Most activating first; beside the row, the activation of its first and'
    ' last image.\nOutlined red: this width misclassifies the image.',
    fontsize=8,
  )
  plots.save(figure, path)


def plot_norms(
  values: Mapping[str, Mapping[str, np.ndarray]],
  widths: Sequence[Width],
  path: epath.Path,
  title: str,
) -> None:
  """Saves the norms of some layers, one row each, as PNG; see `norm_values`."""
  figure = plots.figure((12, 1 + 2.5 * len(values)), dpi=100)
  grid = figure.subplots(len(values), len(NORM_VALUES), squeeze=False)
  colors = plots.colors(len(widths))
  # Each width's dots are smaller than those before: equal values stay visible.
  sizes = np.linspace(7, 4, len(widths))
  for line, (layer, of_layer) in zip(grid, values.items(), strict=True):
    for axes, name in zip(line, NORM_VALUES, strict=True):
      for width, color, size, array in zip(
        widths, colors, sizes, of_layer[name], strict=True
      ):
        axes.plot(
          array,
          marker='o',
          markersize=size * (1 if len(array) <= _FEW else 0.5),
          markeredgewidth=0,
          linestyle='',
          color=color,
          label=label(width),
        )
      axes.set_title(f'{layer}: {name}', fontsize=9)
      axes.tick_params(labelsize=8)
      axes.grid(alpha=0.3)
  for axes in grid[-1]:
    axes.set_xlabel('channel, among those all widths have', fontsize=8)
  figure.suptitle(title, fontsize=10)
  figure.legend(
    *grid[0, 0].get_legend_handles_labels(),
    loc='outside right center',
    fontsize=9,
  )
  plots.save(figure, path)


def plot_divergence(
  apart: Mapping[str, Mapping[str, float]], path: epath.Path, title: str
) -> None:
  """Saves `divergences` over the depth, as PNG."""
  figure = plots.figure((10, 4.8), dpi=110)
  axes = figure.add_subplot()
  for name, marker in zip(NORM_VALUES, 'osD^', strict=True):
    axes.plot(
      [of_layer[name] for of_layer in apart.values()],
      marker=marker,
      markersize=4,
      linewidth=1,
      label=name,
    )
  every = math.ceil(len(apart) / _MOST_LABELS)
  ticks = range(0, len(apart), every)
  axes.set_xticks(ticks, list(apart)[::every], rotation=90, fontsize=8)
  axes.set(ylabel='difference of the widths, relative', ylim=(0, None))
  axes.set_title(title, fontsize=10)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside right center', fontsize=9)
  plots.save(figure, path)
