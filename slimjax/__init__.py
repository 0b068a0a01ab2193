"""Slimmable networks in JAX and Flax: train once, run at any width."""

import importlib
from typing import Any
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from slimjax.convert import load_torch
  from slimjax.convert import save_torch
  from slimjax.models import create_model
  from slimjax.models import MODELS
  from slimjax.models.common import SlimNet
  from slimjax.profile import count_parameters
  from slimjax.profile import Profile
  from slimjax.profile import profile_model
  from slimjax.variables import apply
  from slimjax.variables import extract
  from slimjax.variables import fold_batch_norm
  from slimjax.variables import init

# Imported when first used: a process that serves a bundle (slimjax.runtime)
# imports no model and no Flax.
_HOMES = {
  'MODELS': 'models',
  'Profile': 'profile',
  'SlimNet': 'models.common',
  'apply': 'variables',
  'count_parameters': 'profile',
  'create_model': 'models',
  'extract': 'variables',
  'fold_batch_norm': 'variables',
  'init': 'variables',
  'load_torch': 'convert',
  'profile_model': 'profile',
  'save_torch': 'convert',
}

__all__ = [
  'MODELS',
  'Profile',
  'SlimNet',
  'apply',
  'count_parameters',
  'create_model',
  'extract',
  'fold_batch_norm',
  'init',
  'load_torch',
  'profile_model',
  'save_torch',
]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  home = importlib.import_module(f'{__name__}.{_HOMES[name]}')
  globals()[name] = getattr(home, name)
  return globals()[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
