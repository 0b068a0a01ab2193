"""Checks values that a user or a file gives: got, expected, by their names.

Every check takes the name of a value and the value, returns the value, and
raises a ValueError that says what is allowed. Checks of parts are arguments of
the checks of wholes:

```
sizes = functools.partial(listed, check=functools.partial(whole, least=1))
sizes('image_size', [32, 32])  # (32, 32)
```
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import math
import numbers
import reprlib
import sys
from typing import Any

Check = Callable[[str, Any], Any]

# Lengths of a text, and of a list, that no file of ours reaches.
_LONG = 10_000
_MANY = 1_000_000
_DEEP = 8
_KEY = 200


def shown(value: Any) -> str:
  """Returns a value as it stands in an error: its start, on one line."""
  short = reprlib.Repr()
  short.maxstring = short.maxother = 60
  return short.repr(value)


def whole(
  name: str, value: Any, *, least: int | None = None, most: int | None = None
) -> int:
  """Returns a whole number in a range.

  Args:
    name: name of the value in the error.
    value: any value; neither True nor 2.0 is a whole number.
    least, most: the range, both included; default: no limit.
  """
  integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not integral or not _inside(value, least, most):
    raise ValueError(
      f'{name} must be a whole number{_range(least, most)}, got {shown(value)}'
    )
  return int(value)


def real(
  name: str,
  value: Any,
  *,
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
) -> float:
  """Returns a finite number in a range.

  Args:
    name: name of the value in the error.
    value: any value; True is no number.
    least, most: limits that are included; default: none.
    above, below: limits that are not; default: none.
  """
  found = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if (
    not found
    or not abs(value) <= sys.float_info.max  # NaN fails, too
    or not _inside(value, least, most)
    or (above is not None and value <= above)
    or (below is not None and value >= below)
  ):
    raise ValueError(
      f'{name} must be a finite number'
      f'{_range(least, most, above=above, below=below)}, got {shown(value)}'
    )
  return float(value)


def flag(name: str, value: Any) -> bool:
  """Returns a value that is True or False, not 1 or 'no'."""
  if not isinstance(value, bool):
    raise ValueError(f'{name} must be True or False, got {shown(value)}')
  return value


def choice(name: str, value: Any, *, allowed: Iterable[str]) -> str:
  """Returns a text that is one of some."""
  allowed = tuple(allowed)
  if not isinstance(value, str) or value not in allowed:
    raise ValueError(
      f'{name} must be one of {", ".join(map(repr, allowed))}, got'
      f' {shown(value)}'
    )
  return value


def text(
  name: str,
  value: Any,
  *,
  least: int = 0,
  most: int = _LONG,
  lines: bool = True,
) -> str:
  """Returns a text that can be printed, and written as UTF-8.

  Args:
    name: name of the value in the error.
    value: any value.
    least, most: number of characters; default: up to 10,000.
    lines: whether it may have several lines; default: yes.
  """
  if not isinstance(value, str):
    raise ValueError(f'{name} must be a text, got {shown(value)}')
  if not least <= len(value) <= most:
    raise ValueError(
      f'{name} must have {least} to {most} characters, got {len(value)}'
    )
  allowed = '\n\t' if lines else ''
  wrong = next((c for c in value if _is_control(c) and c not in allowed), None)
  if wrong is not None:
    raise ValueError(
      f'{name} must have no control characters, got {wrong!r} in {shown(value)}'
    )
  return value


def _is_control(character: str) -> bool:
  code = ord(character)
  return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000


def optional(name: str, value: Any, *, check: Check) -> Any:
  """Returns None, or a value that passes a check."""
  return None if value is None else check(name, value)


def listed(
  name: str,
  value: Any,
  *,
  check: Check,
  least: int = 0,
  most: int = _MANY,
) -> tuple[Any, ...]:
  """Returns a sequence as a tuple, each item checked.

  Args:
    name: name of the value in the error; items are `name[0]`.
    value: any value; a text is no sequence here.
    check: check of the items.
    least, most: number of items; default: any up to a million.
  """
  if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
    raise ValueError(f'{name} must be a list, got {shown(value)}')
  if not least <= len(value) <= most:
    wanted = f'{least}' if least == most else f'{least} to {most}'
    raise ValueError(f'{name} must have {wanted} items, got {len(value)}')
  return tuple(check(f'{name}[{i}]', item) for i, item in enumerate(value))


def mapping(
  name: str, value: Any, *, check: Check, longest: int = _KEY
) -> dict[str, Any]:
  """Returns a mapping of texts, each value checked.

  Args:
    name: name of the value in the error; values are `name.key`.
    value: any value, with up to a million keys.
    check: check of the values.
    longest: characters of a key; default: 200.
  """
  if not isinstance(value, Mapping):
    raise ValueError(f'{name} must be a mapping, got {shown(value)}')
  if len(value) > _MANY:
    raise ValueError(f'{name} must have up to {_MANY} keys, got {len(value)}')
  found = {}
  for key, item in value.items():
    key = text(f'a key of {name}', key, most=longest, lines=False)
    found[key] = check(_join(name, key), item)
  return found


def record(
  name: str,
  value: Any,
  *,
  fields: Mapping[str, Check],
  defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns a mapping that has certain keys, each value checked by its own.

  Args:
    name: name of the mapping in the error, or '' if its keys say enough.
    value: any value.
    fields: checks by key; a key that is not among them is an error.
    defaults: values of keys that may be missing; default: none may.
  """
  if not isinstance(value, Mapping):
    raise ValueError(f'{name or "it"} must be a mapping, got {shown(value)}')
  defaults = defaults or {}
  for key in fields:
    if key not in value and key not in defaults:
      raise ValueError(f'{_join(name, key)} is missing')
  for key in value:
    if key not in fields:
      raise ValueError(
        f'{_join(name, shown(key))} is not known here; there are'
        f' {", ".join(fields)}'
      )
  return {
    key: check(_join(name, key), value[key]) if key in value else defaults[key]
    for key, check in fields.items()
  }


def plain(name: str, value: Any, *, depth: int = _DEEP) -> Any:
  """Returns whatever JSON can hold, texts and numbers checked.

  Args:
    name: name of the value in the error.
    value: any value.
    depth: levels of lists and mappings; default: 8.
  """
  if value is None or isinstance(value, bool):
    return value
  if isinstance(value, str):
    return text(name, value)
  if isinstance(value, numbers.Real):
    real(name, value)
    return value
  if not depth:
    raise ValueError(f'{name} is nested more deeply than {_DEEP} levels')

  def inner(name: str, value: Any) -> Any:
    return plain(name, value, depth=depth - 1)

  if isinstance(value, Mapping):
    return mapping(name, value, check=inner)
  return list(listed(name, value, check=inner))


def _join(name: str, key: str) -> str:
  return f'{name}.{key}' if name else key


def _inside(value: Any, least: float | None, most: float | None) -> bool:
  return (least is None or value >= least) and (most is None or value <= most)


def _range(
  least: float | None,
  most: float | None,
  *,
  above: float | None = None,
  below: float | None = None,
) -> str:
  """Returns the words for a range, such as ' from 0 to below 1'."""
  words = ''
  if least is not None:
    words = f' from {_digits(least)}'
  elif above is not None:
    words = f' above {_digits(above)}'
  if most is not None:
    return f'{words} {"to" if words else "up to"} {_digits(most)}'
  if below is not None:
    return f'{words} {"to " if words else ""}below {_digits(below)}'
  return f'{words} up' if least is not None else words


def _digits(number: float) -> str:
  large = abs(number) >= 1e15 and math.log2(abs(number)) % 1 == 0
  if large:
    return f'2^{round(math.log2(abs(number)))}'
  return f'{number:,}' if isinstance(number, int) else f'{number:g}'
