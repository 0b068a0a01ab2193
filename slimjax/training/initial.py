"""The section `config.init`: where a run begins, and what of it is trained."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from slimjax import checks
from slimjax import naming
from slimjax.variables.sorting import METHODS


@dataclasses.dataclass(frozen=True)
class Init:
  """The section, checked.

  Attributes:
    source: see `slimjax.load_weights`; default: none, weights are drawn.
    epsilon: see `slimjax.load_weights`; default: none, that of our norms.
    sort: method of `slimjax.make_slimmable`; default: none, channels stay.
    freeze: patterns of paths that are not trained, see `parts`; default: none.
    rate_factors: patterns of paths and the factors of their learning rate;
      default: none.
  """

  source: str | None = None
  epsilon: float | None = None
  sort: str | None = None
  freeze: tuple[str, ...] = ()
  rate_factors: tuple[tuple[str, float], ...] = ()


def create_init(
  *,
  source: str | None = None,
  epsilon: float | None = None,
  sort: str | None = None,
  freeze: str | Sequence[str] | None = None,
  rate_factors: str | Sequence[str] | Mapping[str, float] | None = None,
) -> Init:
  """Returns the section `config.init`, checked.

  Args:
    source: a run's or a bundle's folder, or a file, as `slimjax.load_weights`
      takes them; read when the run starts, never when it resumes. Default:
      none, weights are drawn.
    epsilon: number that the norms of torchvision's or timm's source add to the
      variance, see `slimjax.load_weights`; default: 1e-5.
    sort: a method of `slimjax.make_slimmable`, such as l1, by which the
      channels of the source are sorted; default: none.
    freeze: patterns of paths, 'stem,unit[1-4]' or a sequence of them, that are
      not trained; default: none. See `slimjax.training.parts`.
    rate_factors: factors of the learning rate by pattern, 'classifier=10', a
      sequence of such or a mapping; the first that matches counts. Default:
      none.

  Raises:
    ValueError: a value is none of these.
  """
  if source is not None and (not isinstance(source, str) or not source):
    raise ValueError(f'source must be a path, got {source!r}')
  if epsilon is not None:
    checks.real('epsilon', epsilon, least=0.0, most=1.0)
    if source is None:
      raise ValueError(
        f'epsilon={epsilon:g} is of the norms of a source, but there is no'
        ' source'
      )
  if sort:
    if sort not in METHODS:
      raise ValueError(
        f'sort must be one of {", ".join(METHODS)}, got {sort!r}'
        f'{naming.near(sort, METHODS)}'
      )
    if source is None:
      raise ValueError(
        f'sort={sort} sorts the channels of a source, but there is no source'
      )
  return Init(
    source=source,
    epsilon=epsilon,
    sort=sort or None,
    freeze=tuple(_listed(freeze, 'freeze')),
    rate_factors=tuple(_factors(rate_factors)),
  )


def _listed(value: Any, name: str) -> list[str]:
  """Returns the patterns of 'a,b', or of a sequence of these."""
  if value is None:
    return []
  parts = value.split(',') if isinstance(value, str) else value
  if not isinstance(parts, Sequence) or not all(
    isinstance(part, str) for part in parts
  ):
    raise ValueError(
      f"{name} must be patterns of paths, such as 'stem,unit1', got {value!r}"
    )
  return [part.strip() for part in parts if part.strip()]


def _factors(value: Any) -> list[tuple[str, float]]:
  """Returns the patterns and factors of 'a=2,b=0.1', or of a mapping."""
  if isinstance(value, Mapping):
    pairs = [(str(pattern), factor) for pattern, factor in value.items()]
  else:
    parts = [part.partition('=') for part in _listed(value, 'rate_factors')]
    pairs = [(pattern.strip(), factor) for pattern, _, factor in parts]
  found = []
  for pattern, factor in pairs:
    try:
      number = float(factor)
    except (TypeError, ValueError):
      number = math.nan
    if not pattern or not (math.isfinite(number) and number > 0):
      raise ValueError(
        f"rate_factors must be such as 'classifier=10', with factors above"
        f' zero, got {value!r}; freeze leaves a part untrained'
      )
    found.append((pattern, number))
  return found
