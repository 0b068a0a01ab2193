"""Differences between two variants, paired by seed."""

import statistics
from typing import Any

from scipy import stats

Errors = dict[str, list[float]]  # by width, in the order of the seeds


def compare(before: Errors, after: Errors) -> dict[str, dict[str, Any]]:
  """Returns what `after` changes, at each common width and in their mean.

  The p-value is that of a two-sided paired t-test, of each width alone and of
  the mean over the widths: nothing is corrected for testing several. Of a
  single seed it and the standard error are None.
  """
  before, after = _with_mean(before, after), _with_mean(after, before)
  compared: dict[str, dict[str, Any]] = {}
  for width in before:
    pairs = zip(before[width], after[width], strict=True)
    differences = [b - a for a, b in pairs]
    if len(differences) < 2:
      compared[width] = {
        'difference': differences[0],
        'standard_error': None,
        'p': None,
      }
      continue
    apart = statistics.stdev(differences)
    compared[width] = {
      'difference': statistics.mean(differences),
      'standard_error': apart / len(differences) ** 0.5,
      'p': float(stats.ttest_1samp(differences, 0.0).pvalue)
      if apart
      else float(not any(differences)),
    }
  return compared


def _with_mean(errors: Errors, other: Errors) -> Errors:
  """Returns the widths that both have, and the mean over them of each seed."""
  common = {width: errors[width] for width in errors if width in other}
  if len(common) < 2:
    return common
  mean = [statistics.mean(s) for s in zip(*common.values(), strict=True)]
  return {**common, 'mean': mean}


def table(first: str, before: Errors, second: str, after: Errors) -> str:
  """Returns both and their differences in Markdown, for the README."""
  compared = compare(before, after)
  before, after = _with_mean(before, after), _with_mean(after, before)
  lines = [
    f'| width | {first} | {second} | difference | p |',
    '|---|---|---|---|---|',
  ]
  for width, row in compared.items():
    change, p = f'{row["difference"]:+.2f}', 'one seed'
    if row['p'] is not None:
      change += f' ± {row["standard_error"]:.2f}'
      p = '< 0.001' if row['p'] < 0.001 else f'{row["p"]:.3f}'
    lines.append(
      f'| {width} | {spread(before[width])} | {spread(after[width])}'
      f' | {change} | {p} |'
    )
  return '\n'.join(lines)


def spread(errors: list[float]) -> str:
  """Returns mean and deviation, as tables show them."""
  text = f'{statistics.mean(errors):.2f}'
  return text + (f' ± {deviation(errors):.2f}' if len(errors) > 1 else '')


def deviation(errors: list[float]) -> float:
  """Returns the standard deviation over the seeds; 0 of a single one."""
  return statistics.stdev(errors) if len(errors) > 1 else 0.0
