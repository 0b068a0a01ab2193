"""Slimmable networks in JAX and Flax: train once, run at any width."""

import importlib
from typing import Any
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from slimjax.models import create_model
  from slimjax.models import MODELS
  from slimjax.models.net import SlimNet
  from slimjax.runtime.opening import load
  from slimjax.searching.arrays import search
  from slimjax.training.weights import load_weights
  from slimjax.training.weights import make_slimmable
  from slimjax.variables import apply
  from slimjax.variables import extract
  from slimjax.variables import fold_batch_norm
  from slimjax.variables import init
  from slimjax.variables.calibrating import calibrate
  from slimjax.variables.checking import check_model
  from slimjax.variables.profile import count_parameters
  from slimjax.variables.profile import list_models
  from slimjax.variables.profile import Profile
  from slimjax.variables.profile import profile_model
  from slimjax.variables.torch_names import load_torch
  from slimjax.variables.torch_names import save_torch

__version__ = '0.1.0'

# They are imported when first used: a process that serves a bundle
# (slimjax.runtime) imports no model and no Flax.
_HOMES = {
  'MODELS': 'models',
  'Profile': 'variables.profile',
  'SlimNet': 'models.net',
  'apply': 'variables',
  'calibrate': 'variables.calibrating',
  'check_model': 'variables.checking',
  'count_parameters': 'variables.profile',
  'create_model': 'models',
  'extract': 'variables',
  'fold_batch_norm': 'variables',
  'init': 'variables',
  'list_models': 'variables.profile',
  'load': 'runtime.opening',
  'load_torch': 'variables.torch_names',
  'load_weights': 'training.weights',
  'make_slimmable': 'training.weights',
  'profile_model': 'variables.profile',
  'save_torch': 'variables.torch_names',
  'search': 'searching.arrays',
}

__all__ = [
  'MODELS',
  'Profile',
  'SlimNet',
  'apply',
  'calibrate',
  'check_model',
  'count_parameters',
  'create_model',
  'extract',
  'fold_batch_norm',
  'init',
  'list_models',
  'load',
  'load_torch',
  'load_weights',
  'make_slimmable',
  'profile_model',
  'save_torch',
  'search',
]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  home = importlib.import_module(f'{__name__}.{_HOMES[name]}')
  globals()[name] = getattr(home, name)
  return globals()[name]


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
