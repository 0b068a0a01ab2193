"""Says what the errors of a table are values of: `Headline`."""

import dataclasses

from slimjax import units


@dataclasses.dataclass(frozen=True)
class Headline:
  """The metric by which widths are compared.

  Attributes:
    title: name of the metric; default: error.
    unit: its unit; default: %.
    direction: 'min' (default) if less is better; 'max' if more is, and then an
      error is the negative of the metric.
  """

  title: str = 'error'
  unit: str = '%'
  direction: str = 'min'

  @property
  def axis(self) -> str:
    """Returns title and unit, as on an axis."""
    return f'{self.title}, {self.unit}' if self.unit else self.title

  def score(self, error: float) -> float:
    """Returns the metric, of the number to minimise."""
    return error if self.direction == 'min' else -error

  def text(self, error: float) -> str:
    """Returns title and metric in words, of the number to minimise."""
    return f'{self.title} {units.score(self.score(error), self.unit)}'
