"""The one rule of what is a class and what is an image in a folder.

FOLDER/CLASS/**/FILE: each folder in it is a class, each picture below that, at
any depth, an image of the class. Names that begin with a dot, and the folders
and files that systems and tools leave behind, are neither. What is left out is
counted with its reason.

Files with a common suffix of pictures are taken unopened, for a million of them
would take an hour; of all others the first bytes tell.
"""

import collections
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import unicodedata

from etils import epath

from slimjax.data import pictures

_PICTURES = frozenset(
  ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff')
)
_TOOLS = frozenset(
  (
    '__macosx',
    '__pycache__',
    '@eadir',
    '#recycle',
    '$recycle.bin',
    'lost+found',
    'system volume information',
    'desktop.ini',
    'thumbs.db',
  )
)
_HEAD = 512  # bytes that tell what a file is
_FEW = 5  # names in a line


@dataclasses.dataclass(frozen=True)
class Listing:
  """What is in a folder of classes.

  Attributes:
    images: files by class name, as bytes, CLASS/FILE, in the order of names.
      Class names are composed (Unicode NFC), files are as they lie.
    left_out: number of entries left out, by class name ('' is beside the
      classes) and reason.
    broken: paths of links that lead nowhere; default: none.
  """

  images: Mapping[str, Sequence[bytes]]
  left_out: Mapping[str, Mapping[str, int]]
  broken: Sequence[str] = ()

  def notes(self, split: str) -> list[str]:
    """Returns what a user should know of what was left out, in lines."""
    lines = []
    said = [
      f'{name or "beside the classes"}: {self.reasons(name)}'
      for name, reasons in self.left_out.items()
      if reasons
    ]
    if said:
      total = sum(sum(reasons.values()) for reasons in self.left_out.values())
      lines.append(f'{split}: {total:,} entries left out: {some(said, "; ")}')
    if self.broken:
      lines.append(f'{split}: links that lead nowhere: {some(self.broken)}')
    return lines

  def reasons(self, name: str) -> str:
    """Returns what was left out of a class, such as '118 HEIC, 2 hidden'."""
    return counted(self.left_out.get(name, {}))


def list_classes(folder: epath.Path) -> Listing:
  """Lists the classes of a folder and their images.

  Raises:
    ValueError: the name of a class is not UTF-8, or two look alike.
  """
  walk = _Walk(folder)
  names: dict[str, str] = {}
  beside: collections.Counter[str] = collections.Counter()
  for entry in _scan(folder):
    if entry.folder and not _hidden(entry.name):
      _add_class(names, entry.name, folder)
    else:
      beside['hidden' if _hidden(entry.name) else 'files'] += 1
  images, left_out = {}, {'': beside}
  for name, lies in sorted(names.items()):
    found: list[bytes] = []
    left_out[name] = collections.Counter()
    for file, reason in walk.files(lies):
      if reason:
        left_out[name][reason] += 1
      else:
        found.append(os.fsencode(file))
    images[name] = sorted(found)
  return Listing(images, left_out, tuple(walk.broken))


def list_pictures(
  folder: epath.Path,
) -> tuple[list[str], collections.Counter[str]]:
  """Lists the pictures of a folder, at any depth, by the rule for a class.

  Returns:
    Their paths, relative to the folder, in the order of names; and how many
    entries were left out, by reason.
  """
  found: list[str] = []
  left_out: collections.Counter[str] = collections.Counter()
  for file, reason in _Walk(folder).files('.'):
    if reason:
      left_out[reason] += 1
    else:
      found.append(os.path.normpath(file))
  return sorted(found), left_out


def list_folders(folder: epath.Path) -> list[str]:
  """Returns the names of the folders in one, without hidden ones, in order."""
  return sorted(
    entry.name
    for entry in _scan(folder)
    if entry.folder and not _hidden(entry.name)
  )


def counted(reasons: Mapping[str, int]) -> str:
  """Returns what was left out in words, such as '118 HEIC, 2 hidden'."""
  return ', '.join(f'{n:,} {reason}' for reason, n in sorted(reasons.items()))


def some(names: Iterable[str], separator: str = ', ') -> str:
  """Returns the first few of some names, and how many more there are."""
  names = list(names)
  more = len(names) - _FEW
  text = separator.join(names[:_FEW])
  return text + (f' and {more:,} more' if more > 0 else '')


def printable(name: bytes) -> str:
  """Returns the name of a file so that any terminal and log can hold it."""
  return name.decode('utf-8', 'backslashreplace')


def _add_class(names: dict[str, str], name: str, folder: epath.Path) -> None:
  """Adds a class by its composed name."""
  try:
    name.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'the class folder {os.fsencode(name)!r} in {folder} has a name that is'
      ' not UTF-8; rename it'
    ) from error
  shown = unicodedata.normalize('NFC', name).strip()
  if shown in names:
    raise ValueError(
      f'two class folders in {folder} look alike: {names[shown]!a} and'
      f' {name!a}; rename one, or put their images together'
    )
  names[shown] = name


def _hidden(name: str) -> bool:
  return name.startswith('.') or name.casefold() in _TOOLS


@dataclasses.dataclass(frozen=True)
class _Entry:
  """What lies in a folder: a folder, a file, or a link that leads nowhere."""

  name: str
  folder: bool
  broken: bool = False
  link: bool = False


def _scan(folder: epath.Path) -> Iterator[_Entry]:
  """Yields the entries of a folder, in any order."""
  if '://' in str(folder):  # cloud storage lists names alone, but all at once
    _, folders, files = next(iter(folder.walk()), (folder, [], []))
    yield from (_Entry(name.rstrip('/'), True) for name in folders)
    yield from (_Entry(name, False) for name in files if name)
    return
  with os.scandir(folder) as entries:
    for entry in entries:
      link, is_folder = entry.is_symlink(), entry.is_dir()
      broken = link and not is_folder and not os.path.exists(entry.path)
      yield _Entry(entry.name, is_folder, broken, link)


class _Walk:
  """Finds the files below the classes of a folder."""

  def __init__(self, root: epath.Path):
    self._root = root
    self.broken: list[str] = []

  def files(
    self, place: str, above: tuple[str, ...] = ()
  ) -> Iterator[tuple[str, str]]:
    """Yields (path, '') of images and (path, reason) of what is left out.

    Args:
      place: folder, relative to the root, as paths are.
      above: real paths of the folders above, for links that lead back; default:
        none.
    """
    folder = self._root / place
    above = (*above, os.path.realpath(folder))
    for entry in _scan(folder):
      path = f'{place}/{entry.name}'
      if _hidden(entry.name):
        yield path, 'hidden'
      elif entry.broken:
        self.broken.append(printable(os.fsencode(path)))
        yield path, 'links that lead nowhere'
      elif not entry.folder:
        yield path, self._reason(path)
      elif entry.link and os.path.realpath(self._root / path) in above:
        yield path, 'links to a folder above'
      else:
        yield from self.files(path, above)

  def _reason(self, path: str) -> str:
    """Returns why a file is no image; '' if it is one."""
    if os.path.splitext(path)[1].lower() in _PICTURES:
      return ''
    try:
      with (self._root / path).open('rb') as file:
        head = file.read(_HEAD)
        file.seek(0)
        return '' if pictures.is_picture(file) else pictures.kind_of(head)
    except OSError as error:
      return f'unreadable ({error.strerror or type(error).__name__})'
