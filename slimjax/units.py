"""Numbers as people read them: 830 k, 11.6 M, 1.31 MB."""

_PREFIXES = ('', 'k', 'M', 'G', 'T')


def count(value: float) -> str:
  """Returns a number in three digits, such as MACs: '830 k' or '11.6 M'."""
  scaled, prefix = _scaled(value)
  return f'{scaled} {prefix}'.rstrip()


def size(value: float) -> str:
  """Returns a number of bytes in three digits: '512 B', '1.31 MB'."""
  scaled, prefix = _scaled(value)
  return f'{scaled} {prefix}B'


def score(value: float, unit: str = '') -> str:
  """Returns a score as tables and lines show it: '4.17 %', '0.0113', '1204'.

  With a unit it has two decimals; without one its size is unknown, and it has
  three significant digits.
  """
  return f'{digits(value, unit)} {unit}'.rstrip()


def digits(value: float, unit: str = '') -> str:
  """Returns the number of a `score` that has this unit, without the unit."""
  if unit:
    return f'{value:.2f}'
  return f'{value:.3g}' if abs(value) < 999.5 else f'{value:.0f}'


def _scaled(value: float) -> tuple[str, str]:
  """Returns three digits, and the prefix of the unit."""
  power = 0
  # What rounds to 1000 belongs to the next unit.
  while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
    value, power = value / 1000, power + 1
  if power == 0 and value == int(value):
    return f'{int(value)}', ''
  digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
  return f'{value:.{digits}f}', _PREFIXES[power]
