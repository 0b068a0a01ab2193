"""Predicts the classes of pictures, by a run or a bundle, at any width.

python -m slimjax.predict RUN_OR_BUNDLE PICTURE_OR_FOLDER... [--width=0.5]
  [--top=5] [--all_widths] [--json]

Prints a table with a row for each picture; with --json an object on each line,
for other programs. A folder stands for all pictures in it, at any depth. A file
that cannot be read is reported by name, the others are answered all the same,
and the exit status is 1.
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
  pictures, notes = answers.find_pictures(paths)
  print(*notes, sep='\n', end='\n' * bool(notes), file=sys.stderr)
  unreadable = 0

  def counted():
    nonlocal unreadable
    for answer in answers.answer(predictor, pictures, widths, top=_TOP.value):
      unreadable += bool(answer.problem)
      yield answer

  if _JSON.value:
    for answer in counted():
      print(*answers.json_lines(answer), sep='\n', flush=True)
  else:
    console = rich.console.Console()
    print(repr(predictor)[1:-1])
    answers.print_answers(counted(), widths, console)
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
    'top', 5, 'Number of classes of each picture.', lower_bound=1
  )
  _JSON = flags.DEFINE_bool('json', False, 'Whether to print lines of JSON.')
  _CHECKPOINT = flags.DEFINE_enum(
    'checkpoint', 'latest', ['latest', 'best'], 'Checkpoint of a run.'
  )
  cli.run(main, positionals='RUN_OR_BUNDLE PICTURE_OR_FOLDER...')
