"""Pictures of test errors."""

from collections.abc import Mapping
import pathlib
import statistics

from evidence.comparing import deviation
from evidence.comparing import Errors
from slimjax import plots


def plot(
  path: pathlib.Path,
  title: str,
  variants: Mapping[str, Errors],
  ylabel: str = 'test error, %',
):
  """Saves test errors by width with their deviations, a colour per variant."""
  figure, axes = _figure(title)
  widths = sorted(
    {w for errors in variants.values() for w in errors}, key=float
  )
  for number, (name, errors) in enumerate(variants.items()):
    offset = 0.12 * (number - (len(variants) - 1) / 2)
    x = [widths.index(w) + offset for w in errors]
    axes.errorbar(
      x,
      [statistics.mean(e) for e in errors.values()],
      [deviation(e) for e in errors.values()],
      marker='o',
      linestyle='none',
      capsize=3,
      label=name,
    )
    for place, values in zip(x, errors.values(), strict=True):
      axes.plot(
        [place] * len(values), values, '.', color='0.5', alpha=0.6, markersize=4
      )
  axes.set_xticks(range(len(widths)), [f'{w}x' for w in widths])
  axes.set(xlabel='width', ylabel=ylabel)
  axes.set_ylim(bottom=0)
  axes.legend()
  _save(figure, path)


def plot_curves(
  path: pathlib.Path,
  title: str,
  variants: Mapping[str, Mapping[str, list]],
  ylabel: str,
):
  """Saves [[epoch, value], ...] by variant (a style) and width (a colour)."""
  figure, axes = _figure(title)
  widths = sorted({w for lines in variants.values() for w in lines}, key=float)
  for style, (variant, lines) in zip(
    ('-', '--'), variants.items(), strict=True
  ):
    for width, points in lines.items():
      axes.plot(
        *zip(*points, strict=True),
        style,
        color=f'C{widths.index(width)}',
        label=f'{variant}, {width}x',
      )
  axes.set(xlabel='epoch', ylabel=ylabel)
  axes.set_ylim(bottom=0)
  figure.legend(loc='outside right upper', fontsize='small')
  _save(figure, path)


def _figure(title):
  figure = plots.figure((6.4, 4))
  axes = figure.add_subplot(title=title)
  axes.grid(alpha=0.3)
  return figure, axes


def _save(figure, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  plots.save(figure, path)
  print(f'wrote {path}')
