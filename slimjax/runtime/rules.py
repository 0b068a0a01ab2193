"""Parses the rules by which a picture becomes an image of a network.

A rule is JSON: its name and its numbers. `slimjax.runtime.decoding` makes the
functions that they describe.
"""

from collections.abc import Mapping
import functools
from typing import Any

from slimjax import checks

# The centre of the picture; its centre in grey, with a black frame; the whole
# picture at the top left of the canvas on which it is largest.
CENTRE_CROP = 'centre_crop'
GREY_CROP = 'grey_crop'
ON_CANVAS = 'on_canvas'
SIDE = 2**16  # the largest side of an image, pixels

_line = functools.partial(checks.text, most=1000, lines=False)
_size = functools.partial(checks.whole, least=1, most=SIDE)
_limit = functools.partial(checks.optional, check=_size)
# Heights and widths.
parse_sizes = functools.partial(
  checks.listed,
  check=functools.partial(checks.listed, check=_size, least=2, most=2),
  most=100,
)
_RULES: dict[str, dict[str, checks.Check]] = {
  CENTRE_CROP: {
    'rule': _line,
    'resize': _size,
    'size': _size,
    'orientation': _line,
  },
  GREY_CROP: {'rule': _line, 'size': _size, 'inner': _size},
  ON_CANVAS: {
    'rule': _line,
    'canvases': functools.partial(parse_sizes, least=1),
    'side': _limit,
    'longest': _limit,
    'orientation': _line,
  },
}


def parse_rule(name: str, value: Any) -> dict[str, Any]:
  """Returns a rule for pictures; one of a later version is not checked."""
  rule = checks.mapping(name, value, check=checks.plain)
  kind = _line(f'{name}.rule', rule.get('rule'))
  if kind not in _RULES:
    return rule
  rule = checks.record(
    name, rule, fields=_RULES[kind], defaults={'orientation': 'exif'}
  )
  if kind == GREY_CROP:
    checks.whole(f'{name}.inner', rule['inner'], most=rule['size'])
  if kind == CENTRE_CROP:
    checks.whole(f'{name}.size', rule['size'], most=rule['resize'])
  return rule


def check_rule(
  name: str,
  rule: Mapping[str, Any] | None,
  image_sizes: tuple[tuple[int, int], ...],
) -> None:
  """Raises ValueError unless a rule that is known here gives such images.

  Args:
    name: name of the rule in errors.
    rule: a rule of `parse_rule`; None if there is none.
    image_sizes: heights and widths of the images that a network takes.
  """
  if rule is None or rule['rule'] not in _RULES:
    return
  given: Any = rule.get('canvases')
  if given is None:
    given = ((rule['size'], rule['size']),)
  if given != image_sizes:
    shown = ', '.join(f'{height} x {width}' for height, width in given)
    raise ValueError(
      f'{name} gives images of {shown} pixels, but image_size is'
      + ', '.join(f' {height} x {width}' for height, width in image_sizes)
    )
