"""The variables of a slimmable network: format, slices, folding, counts."""

from slimjax.variables.folding import fold_batch_norm
from slimjax.variables.format import apply
from slimjax.variables.format import extract
from slimjax.variables.format import init
from slimjax.variables.format import merge
from slimjax.variables.format import select
from slimjax.variables.format import Variables

__all__ = [
  'Variables',
  'apply',
  'extract',
  'fold_batch_norm',
  'init',
  'merge',
  'select',
]
