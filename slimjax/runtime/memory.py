"""Tells the memory that a network takes."""

from collections.abc import Mapping
import dataclasses

from slimjax import units
from slimjax.widths import Width


@dataclasses.dataclass(frozen=True)
class Memory:
  """Memory of prepared weights and of compiled programs, in bytes.

  Attributes:
    prepared: {width: bytes when it is prepared}.
    held: bytes of the widths that are prepared now.
    programs: number of compiled programs that are kept now; default: 0.
    temp_bytes: temporary memory of the largest program while it runs; None, the
      default, if the backend does not report it.
  """

  prepared: Mapping[Width, int]
  held: int
  programs: int = 0
  temp_bytes: int | None = None

  @property
  def all_widths(self) -> int:
    """Returns the bytes with every width prepared (`prepare='load'`)."""
    return sum(self.prepared.values())

  @property
  def lean(self) -> int:
    """Returns the most bytes, one width at a time (`prepare='lean'`)."""
    return max(self.prepared.values())

  def __str__(self) -> str:
    largest = ''
    if self.temp_bytes is not None:
      largest = f', the largest takes {units.size(self.temp_bytes)} as it runs'
    return (
      f'prepared weights: {units.size(self.all_widths)} for all widths'
      f' ({self.all_widths / self.lean:.2f} times the widest), at most'
      f' {units.size(self.lean)} one at a time (lean); now'
      f' {units.size(self.held)}; programs: {self.programs}{largest}'
    )
