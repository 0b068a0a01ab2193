"""Predicts what is in pictures, by a run or a bundle, at any width.

python -m slimjax.predict RUN_OR_BUNDLE PICTURE_OR_FOLDER... [--width=0.5]
  [--all_widths] [--top=5] [--min_score=0.5] [--json] [--draw=FOLDER]

Prints a table with a row for each picture: classes, or the objects of a
detector; with --json an object on each line, for other programs. --draw writes
the pictures with boxes, names, scores, masks and skeletons, all widths side by
side. A folder stands for all pictures in it, at any depth. A file that cannot
be read is reported by name, the others are answered all the same, and the exit
status is 1.
"""

from collections.abc import Sequence
import sys

from absl import flags
import rich.console

import slimjax
from slimjax import cli
from slimjax.runtime import answers
from slimjax.widths import find


def main(argv: Sequence[str]) -> int:
  source, *paths = argv[1:]
  predictor = slimjax.load(source, best=_CHECKPOINT.value == 'best')
  widths = [predictor.default_width]
  if _ALL_WIDTHS.value:
    widths = list(predictor.widths)
  elif _WIDTH.value is not None:
    widths = [find(_WIDTH.value, predictor.widths)]
  kind = answers.kind_asked(predictor, _TOP.value, _MIN_SCORE.value)
  pictures, notes = answers.find_pictures(paths)
  print(*notes, sep='\n', end='\n' * bool(notes), file=sys.stderr)
  given = answers.answer(predictor, pictures, widths, kind)
  if _DRAW.value is not None:
    given = answers.draw_answers(given, predictor, _DRAW.value)
  if _JSON.value:
    unreadable = answers.print_lines(given, kind)
  else:
    console = rich.console.Console()
    print(repr(predictor)[1:-1])
    unreadable = answers.print_table(given, widths, kind, console)
    if unreadable:
      console.print(f'{unreadable} of {len(pictures)} files cannot be read')
  return 1 if unreadable else 0


if __name__ == '__main__':
  _WIDTH = flags.DEFINE_string(
    'width', None, "Width to answer at. Default: the run's or bundle's own."
  )
  _ALL_WIDTHS = flags.DEFINE_bool(
    'all_widths', False, 'Whether to answer at every width, side by side.'
  )
  flags.register_multi_flags_validator(
    ['width', 'all_widths'],
    lambda given: given['width'] is None or not given['all_widths'],
    'only one of them can be given',
  )
  _TOP = flags.DEFINE_integer(
    'top', None, 'Number of classes of each picture; else 5.', lower_bound=1
  )
  _MIN_SCORE = flags.DEFINE_float(
    'min_score', None, 'Least score of an object, from 0 to 1; else 0.5.', 0, 1
  )
  _DRAW = flags.DEFINE_string(
    'draw', None, 'Folder for pictures with the objects drawn in.'
  )
  _JSON = flags.DEFINE_bool('json', False, 'Whether to print lines of JSON.')
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Checkpoint of a run.'
  )
  cli.run(main, positionals='RUN_OR_BUNDLE PICTURE_OR_FOLDER...')
