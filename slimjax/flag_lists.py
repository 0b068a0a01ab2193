"""Defines flags of the programs that take lists: of widths, of numbers."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from slimjax import nets

# A flag that is defined here is the calling program's, and in its --help.
flags.disclaim_key_flags()


def define_widths(
  purpose: str,
  *,
  required: bool = False,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """Defines the flag --widths, such as 0.3,0.62,@nets.json.

  Its value is a list of texts and, for a file of networks, of their channels.

  Args:
    purpose: begin of the flag's help, without a full stop.
    required: whether the program cannot do without; default: no.
    flag_values: flags among which it is defined; default: all others.
  """
  return flags.DEFINE(
    _WidthsParser(),
    'widths',
    None if required else [],
    f'{purpose}, such as 0.3,0.62 or @nets.json, the file of a search.',
    flag_values,
    flags.CsvListSerializer(','),
    required=required,
  )


class _WidthsParser(flags.ListParser):
  """Makes the widths that a flag's text names."""

  def parse(self, argument: Any) -> list[Any]:
    return nets.expand_all(super().parse(argument))


def define_numbers(name: str, purpose: str) -> flags.FlagHolder:
  """Defines a flag that takes numbers above zero, such as 150e6,300e6.

  Its value is a list of texts.

  Args:
    name: name of the flag.
    purpose: help of the flag.
  """
  holder = flags.DEFINE_list(name, [], purpose)
  flags.register_validator(
    name,
    lambda texts: all(_is_positive(text) for text in texts),
    'numbers above zero are needed, such as 150e6,300e6',
  )
  return holder


def define_wholes(
  name: str, default: Sequence[str], purpose: str
) -> flags.FlagHolder:
  """Defines a flag that takes whole numbers, such as 1,8; a list of texts.

  Args:
    name: name of the flag.
    default: numbers that it has by default.
    purpose: help of the flag.
  """
  holder = flags.DEFINE_list(name, list(default), purpose)
  flags.register_validator(
    name,
    lambda texts: bool(texts) and all(text.isdecimal() for text in texts),
    'whole numbers are needed, such as 1,8',
  )
  return holder


def _is_positive(text: str) -> bool:
  try:
    return 0 < float(text) < float('inf')
  except ValueError:
    return False
