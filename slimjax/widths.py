"""Widths: what they are, how they round, what their switches are called.

A width is a float, uniform over the layers (0.25), or a tuple of ints, the
active output channels of every layer that sets a width, in order. It is always
static and hashable. This module knows nothing of jax.
"""

from collections.abc import Sequence
import math
import numbers
from typing import TypeAlias
import zlib

Width: TypeAlias = float | tuple[int, ...]
_LEAST, _MOST = 0.001, 16


def round_channels(channels: float, divisor: int = 8) -> int:
  """Rounds to the nearest multiple of `divisor`, as the MobileNets do.

  The result is at least one multiple, and never more than 10 % below
  `channels`.
  Source: the published MobileNet v1 and v2.
  """
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * channels else rounded


def canonical(width: Width | Sequence[int] | str) -> Width:
  """Returns `width` as a float or a tuple of ints, also from a list or '0.25'.

  Raises:
    ValueError: it is neither, or is not positive.
    TypeError: it is traced by jax.
  """
  if hasattr(width, 'aval') and type(width).__name__.endswith('Tracer'):
    raise TypeError(
      'the width is traced by jax.jit, but it must be static:'
      " jax.jit(function, static_argnames='width'); for slimjax.apply also"
      ' static_argnums=0'
    )
  if isinstance(width, (list, tuple)):
    channels = tuple(width)
    if not channels or not all(map(_is_count, channels)):
      raise ValueError(
        f'width {width!r} is a list of channels, so it must hold whole numbers'
        ' above zero, one for every layer that sets a width'
      )
    return tuple(int(c) for c in channels)
  try:
    # Its digits count: np.float32(0.35) is 0.35, not 0.3499999940395355.
    short = str(width) if type(width).__name__ == 'float32' else width
    if isinstance(width, bool):
      raise TypeError('True is no width')
    value = float(short)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    value = math.nan
  if not (math.isfinite(value) and value > 0):
    raise ValueError(
      f'width {width!r} is neither a number above zero, such as 0.25, nor a'
      ' tuple of channels'
    )
  return value


def _is_count(value: object) -> bool:
  """Returns whether a value is a whole number above zero, also 8.0."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return False
  return 0 < float(value) < math.inf and float(value).is_integer()


def switch_name(width: Width) -> str:
  """Returns the key of a switch's trees: 0.25 -> 'w025', 1.0 -> 'w100'.

  A tuple of channels is named by a checksum of it, such as 'c1f3a9c07'.
  """
  width = canonical(width)
  if isinstance(width, tuple):
    return f'c{zlib.crc32(repr(width).encode()):08x}'
  whole, _, decimals = repr(width).partition('.')
  return f'w{whole}{decimals:0<2}'


def named_width(name: str) -> float | None:
  """Returns the width that a switch's name stands for: 'w025' -> 0.25.

  None for names of channels, whose checksum does not tell them. 'w1125' may be
  1.125 or 11.25: the smaller is returned.
  """
  digits = name.removeprefix('w')
  if digits == name or not digits.isdecimal():
    return None
  for place in range(1, len(digits)):
    width = float(f'{digits[:place]}.{digits[place:]}')
    if width and switch_name(width) == name:
      return width
  return None


def label(width: Width) -> str:
  """Returns what a width is called in tables and plots: '0.25', 'c1f3a9c07'."""
  return switch_name(width) if isinstance(width, tuple) else str(width)


def find(name: Width | Sequence[int] | str, known: Sequence[Width]) -> Width:
  """Returns the width that `name` means: a number, channels, or a printed name.

  Args:
    name: '0.25', 'w025', 'c1f3a9c07', a float, or the channels.
    known: widths whose printed names are understood.

  Raises:
    ValueError: it means none.
  """
  if isinstance(name, str):
    for width in known:
      if name in (label(width), switch_name(width)):
        return width
  try:
    return canonical(name)
  except ValueError as error:
    names = ', '.join(label(width) for width in known)
    raise ValueError(f'{error}; there are {names}') from error


def check_widths(widths: Sequence[Width]) -> tuple[Width, ...]:
  """Returns the widths of a model in canonical form.

  Raises:
    ValueError: there are none, one is no width or far too large or small, or
      two have one name.
  """
  if not isinstance(widths, Sequence) or isinstance(widths, str) or not widths:
    raise ValueError(
      f'widths must be a tuple such as (0.25, 0.5, 0.75, 1.0), got {widths!r}'
    )
  checked = tuple(canonical(width) for width in widths)
  for width in checked:
    if isinstance(width, float) and not _LEAST <= width <= _MOST:
      raise ValueError(
        f'width {width} is not from {_LEAST} to {_MOST}: a width is a factor of'
        ' the channels of the network at 1.0, such as 0.25'
      )
  named: dict[str, Width] = {}
  for width in checked:
    name = switch_name(width)
    if name in named:
      raise ValueError(
        f'two switches have the name {name}: widths {named[name]!r} and'
        f' {width!r}; leave one of them out'
      )
    named[name] = width
  return checked
