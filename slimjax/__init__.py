"""Slimmable networks in JAX and Flax: train once, run at any width."""

from slimjax.models import create_model
from slimjax.models import MODELS
from slimjax.variables import apply
from slimjax.variables import extract
from slimjax.variables import fold_batch_norm
from slimjax.variables import init
