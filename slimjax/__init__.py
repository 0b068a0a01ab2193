"""Slimmable networks in JAX and Flax: train once, run at any width."""

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
