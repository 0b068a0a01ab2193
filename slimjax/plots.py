"""Makes figures and saves them; matplotlib is imported when one is made."""

import io
from typing import Any
from typing import TYPE_CHECKING

from etils import epath
import numpy as np

from slimjax import files

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def figure(size: tuple[float, float], dpi: int = 150) -> 'Figure':
  """Returns an empty figure that needs no display.

  Args:
    size: width and height in inches.
    dpi: pixels per inch; default: 150.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  made = Figure(figsize=size, dpi=dpi, layout='constrained')
  FigureCanvasAgg(made)
  return made


def save(figure: 'Figure', path: epath.PathLike) -> None:
  """Saves a figure as PNG, whole or not at all; see `files.write_bytes`."""
  png = io.BytesIO()
  figure.savefig(png, format='png')
  files.write_bytes(path, png.getvalue())


def save_picture(pixels: np.ndarray, path: epath.PathLike) -> None:
  """Saves pixels, uint8 [h, w, 3], as PNG, whole or not at all."""
  from PIL import Image

  png = io.BytesIO()
  Image.fromarray(pixels).save(png, 'PNG')
  files.write_bytes(path, png.getvalue())


def colors(count: int) -> Any:
  """Returns RGBA colours from dark to light, [count, 4]."""
  import matplotlib

  return matplotlib.colormaps['viridis'](np.linspace(0.0, 0.85, count))
