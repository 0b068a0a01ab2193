"""Runs trials in a process of their own, and counts how they end.

A trial damages something and uses it. The process may end or stand still in
any of them: then that is its outcome, and another process goes on behind it.
"""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import json
import queue
import subprocess
import sys
import threading
import traceback

# Outcomes, the first two are as they should be: an error that names what is
# wrong, and answers that are right all the same.
REFUSED, RIGHT = 'refused', 'right'
WRONG, BARE, CRASH, HANG = 'silently wrong', 'bare exception', 'crash', 'hang'
OUTCOMES = (REFUSED, RIGHT, WRONG, BARE, CRASH, HANG)
_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Trial:
  """A trial.

  Attributes:
    kind: what is damaged, a row of the table.
    name: the damage, in words.
    run: function that returns an outcome and the text of the error, if any.
  """

  kind: str
  name: str
  run: Callable[[], tuple[str, str]]


def work(trials: Sequence[Trial], start: int) -> None:
  """Runs the trials from one on, and prints an object for each."""
  for number, trial in enumerate(trials):
    if number < start:
      continue
    print(json.dumps({'begins': number}), flush=True)
    try:
      outcome, text = trial.run()
    except BaseException as error:
      outcome = BARE
      text = ''.join(traceback.format_exception(error))[-2000:]
    print(json.dumps({'ends': number, 'is': [outcome, text]}), flush=True)
  print(json.dumps({'done': len(trials)}), flush=True)


def supervise(script: str, arguments: Sequence[str]) -> list[tuple[str, str]]:
  """Returns the outcome of each trial of a script, and the text.

  Args:
    script: path of a program that calls `work` when --start=N is given.
    arguments: its other arguments.
  """
  found: list[tuple[str, str]] = []
  while True:
    command = [sys.executable, script, *arguments, f'--start={len(found)}']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(
      target=lambda p=process, q=lines: [*map(q.put, p.stdout), q.put('')]
    )
    reader.start()
    running = False
    while True:
      try:
        line = lines.get(timeout=_SECONDS)
      except queue.Empty:
        process.kill()
        process.wait()
        found.append((HANG, f'nothing for {_SECONDS} s'))
        break
      if not line:
        if not running:
          raise RuntimeError('the process ended between two trials')
        found.append((CRASH, f'exit status {process.wait()}'))
        break
      said = json.loads(line) if line.startswith('{') else {}
      running = 'begins' in said or (running and 'ends' not in said)
      if 'ends' in said:
        found.append(tuple(said['is']))
      if 'done' in said:
        process.wait()
        return found


def table(trials: Sequence[Trial], found: Sequence[tuple[str, str]]) -> str:
  """Returns counts as Markdown, a row for each kind."""
  counts: dict[str, collections.Counter] = {}
  for trial, (outcome, _) in zip(trials, found, strict=True):
    counts.setdefault(trial.kind, collections.Counter())[outcome] += 1
  lines = [
    f'| {" | ".join(("what", "trials", *OUTCOMES))} |',
    '|---' * (len(OUTCOMES) + 2) + '|',
  ]
  total: collections.Counter = collections.Counter()
  for kind, count in counts.items():
    total += count
    cells = [kind, count.total(), *(count[outcome] for outcome in OUTCOMES)]
    lines.append(f'| {" | ".join(map(str, cells))} |')
  cells = ['all', total.total(), *(total[outcome] for outcome in OUTCOMES)]
  return '\n'.join([*lines, f'| {" | ".join(map(str, cells))} |'])
