"""Shows what a run learned: figures 3 and 4 of the paper, and one number more.

python -m slimjax.visualize --workdir=runs/digits [--layer=unit3/pointwise]
  [--channel=9] [--images=10] [--split=test] [--shallow=stem] [--deep=LAYER]
  [--out=DIR]

activations.png  the images that activate one channel most, a row a width. The
                 activation of an image is the maximum over positions of the
                 layer's output, after its activation function
norms.png        batch norm of a shallow and a deep layer, a colour a switch
divergence.png   how far the switches of each norm are apart, over the depth;
                 `slimjax.features.divergence` has the formula
divergence.json  the same: {layer: {scale, bias, mean, var}}
"""

from collections.abc import Mapping
from collections.abc import Sequence
import io
import json
import math
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
import numpy as np

from slimjax.data import create_dataset
from slimjax.evaluate import load_run
from slimjax.features import channel_positions
from slimjax.features import divergences
from slimjax.features import Examples
from slimjax.features import extract_all
from slimjax.features import find_layers
from slimjax.features import Layer
from slimjax.features import most_activating
from slimjax.features import Networks
from slimjax.features import NORM_VALUES
from slimjax.features import norm_values
from slimjax.widths import switch_name
from slimjax.widths import Width

# That of the paper's figure 3 (its channel 3_9).
_CHANNEL = 9
# Of layers, below one another's names, and of channels, as large dots.
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
  """Writes the pictures of a run, and prints what they are of.

  Args:
    workdir: of `slimjax.train`.
    out: folder; WORKDIR/features unless told.
    layer: whose activations; one a quarter into the depth unless told.
    channel: of those that all widths have; 9 unless told, or 0.
    shallow, deep: layers whose norms are shown; the first and the last.
    images: in a row.
    split: of the run's data set.
    best: the checkpoint with the least validation error, not the latest.

  Returns:
    The files.

  Raises:
    ValueError: there is no such layer, channel or split.
  """
  if images < 1:
    raise ValueError(f'at least one image must be shown, got {images}')
  run, model, variables, step = load_run(workdir, best=best)
  dataset = create_dataset(run.data)
  if split not in dataset.splits:
    raise ValueError(
      f'split {split!r}: the run has {", ".join(dataset.splits)}'
    )
  layers = find_layers(model, dataset.image_size)
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
  out = epath.Path(out or epath.Path(workdir) / 'features')
  out.mkdir(parents=True, exist_ok=True)
  name = f'{run.model["name"]} on {dataset.name}, step {step}'
  paths = [out / f'{n}.png' for n in ('activations', 'norms', 'divergence')]
  plot_activations(
    rows, paths[0], f'{name}: {split} images, {layer}, channel {channel}'
  )
  plot_norms({n: values[n] for n in shown}, list(networks), paths[1], name)
  plot_divergence(apart, paths[2], name)
  paths.append(out / 'divergence.json')
  _write(paths[-1], (json.dumps(apart, indent=2) + '\n').encode())
  return paths


def default_layer(layers: Mapping[str, Layer]) -> str:
  """One with an activation, a quarter into the depth.

  In MobileNet v1 that is unit3/pointwise, as in the paper's figure.
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


def _name(width: Width) -> str:
  return f'{width}x' if isinstance(width, float) else switch_name(width)


def plot_activations(
  rows: Mapping[Width, Examples], path: epath.Path, title: str
) -> None:
  """Saves the images of each width in a row, as PNG; see `most_activating`."""
  most = max(len(examples['image']) for examples in rows.values())
  figure = _figure((1.5 + 0.9 * most, 0.9 + 0.95 * len(rows)))
  grid = figure.subplots(len(rows), most, squeeze=False)
  for line, (width, examples) in zip(grid, rows.items(), strict=True):
    for axes in line:
      axes.set(xticks=[], yticks=[])
      axes.spines[:].set_visible(False)
    highest, lowest = examples['activation'][[0, -1]]
    line[0].set_ylabel(
      f'{_name(width)}\n{highest:.2f} to {lowest:.2f}',
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
  _save(figure, path)


def plot_norms(
  values: Mapping[str, Mapping[str, np.ndarray]],
  widths: Sequence[Width],
  path: epath.Path,
  title: str,
) -> None:
  """Saves the norms of some layers, a row each, as PNG; see `norm_values`."""
  figure = _figure((12, 1 + 2.5 * len(values)), dpi=100)
  grid = figure.subplots(len(values), len(NORM_VALUES), squeeze=False)
  colors = _colors(len(widths))
  # Smaller by the switch, or equal values would hide each other.
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
          label=_name(width),
        )
      axes.set_title(f'{layer}: {name}', fontsize=9)
      axes.tick_params(labelsize=8)
      axes.grid(alpha=0.3)
  for axes in grid[-1]:
    axes.set_xlabel('channel, of those all switches have', fontsize=8)
  figure.suptitle(title, fontsize=10)
  figure.legend(
    *grid[0, 0].get_legend_handles_labels(),
    loc='outside right center',
    fontsize=9,
  )
  _save(figure, path)


def plot_divergence(
  apart: Mapping[str, Mapping[str, float]], path: epath.Path, title: str
) -> None:
  """Saves `divergences` over the depth, as PNG."""
  figure = _figure((10, 4.8), dpi=110)
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
  axes.set(ylabel='difference of the switches, relative', ylim=(0, None))
  axes.set_title(title, fontsize=10)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside right center', fontsize=9)
  _save(figure, path)


def _figure(size: tuple[float, float], dpi: int = 150) -> Any:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=dpi, layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def _colors(count: int) -> Any:
  """From dark to light, one a switch."""
  import matplotlib

  return matplotlib.colormaps['viridis'](np.linspace(0.0, 0.85, count))


def _save(figure: Any, path: epath.Path) -> None:
  png = io.BytesIO()
  figure.savefig(png, format='png')
  _write(path, png.getvalue())


def _write(path: epath.Path, content: bytes) -> None:
  """Whole or not at all."""
  draft = path.with_name(path.name + '.draft')
  draft.write_bytes(content)
  draft.replace(path)


def main(argv: Sequence[str]) -> None:
  logging.set_verbosity(logging.WARNING)
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  for path in visualize_run(
    _WORKDIR.value,
    _OUT.value,
    layer=_LAYER.value,
    channel=_CHANNEL_FLAG.value,
    shallow=_SHALLOW.value,
    deep=_DEEP.value,
    images=_IMAGES.value,
    split=_SPLIT.value,
    best=_CHECKPOINT.value == 'best',
  ):
    print(f'written: {path}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Of the run.', required=True)
  _OUT = flags.DEFINE_string('out', None, 'Folder. Default: WORKDIR/features.')
  _LAYER = flags.DEFINE_string(
    'layer', None, 'Whose activations. Default: a quarter into the depth.'
  )
  _CHANNEL_FLAG = flags.DEFINE_integer(
    'channel', None, 'Of those that all widths have. Default: 9, or 0.'
  )
  _SHALLOW = flags.DEFINE_string('shallow', None, 'Norm shown. Default: first.')
  _DEEP = flags.DEFINE_string('deep', None, 'Norm shown. Default: last.')
  _IMAGES = flags.DEFINE_integer('images', 10, 'Of each width.')
  _SPLIT = flags.DEFINE_string('split', 'test', 'Or train, or held_out.')
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Which one.'
  )
  app.run(main)
