"""Names networks by their channels: the file nets.json of a search.

`@nets.json` stands for all channels of the file, `@nets.json:150M` for those of
one network, wherever widths are given on a command line.
"""

from collections.abc import Iterable
import json

from etils import epath

from slimjax import files
from slimjax.naming import near
from slimjax.widths import canonical
from slimjax.widths import Width

SIGN = '@'


def read_nets(path: epath.PathLike) -> dict[str, Width]:
  """Returns the channels of the networks in a file by their names, in order.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no networks.
  """
  found = files.expand(path, 'the file of networks')
  if not found.exists():
    raise FileNotFoundError(f'there is no file of networks {path}')
  try:
    nets = json.loads(found.read_text())['nets']
    named = {str(net['name']): canonical(net['channels']) for net in nets}
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is no file of networks, as slimjax.search writes it: {error!r}'
    ) from error
  if not named:
    raise ValueError(f'{path} holds no networks')
  return named


def expand(name: str) -> list[Width]:
  """Returns the channels that `@FILE` or `@FILE:NAME` stands for.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no networks, or none of this name.
  """
  path = name.removeprefix(SIGN)
  chosen = ''
  if not files.expand(path, 'the file of networks').exists():
    path, _, chosen = path.rpartition(':')
    path, chosen = (path, chosen) if path else (chosen, '')
  named = read_nets(path)
  if not chosen:
    return [*named.values()]
  if chosen not in named:
    raise ValueError(
      f'{path} has no network {chosen!r}; there are {", ".join(named)}'
      + near(chosen, named)
    )
  return [named[chosen]]


def expand_all(names: Iterable[str]) -> list[Width | str]:
  """Returns widths as they are given, with `@FILE` expanded."""
  widths: list[Width | str] = []
  for name in names:
    widths += expand(name) if str(name).startswith(SIGN) else [name]
  return widths
