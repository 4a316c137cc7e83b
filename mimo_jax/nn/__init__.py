"""Flax models with one output for each objective, and their losses."""

import importlib.util

if importlib.util.find_spec('flax') is None:
  raise ModuleNotFoundError(
    'mimo_jax.nn is written in Flax, which is not installed: pip install'
    " 'mimo-jax[nn]'",
    name='flax',
  )

from mimo_jax.nn._fusion import ConcatFusion as ConcatFusion
from mimo_jax.nn._fusion import SumFusion as SumFusion
from mimo_jax.nn._late_fusion import LateFusion as LateFusion
from mimo_jax.nn._losses import cross_entropy_losses as cross_entropy_losses
from mimo_jax.nn._mlp import MLP as MLP

__all__ = [
  'MLP',
  'ConcatFusion',
  'LateFusion',
  'SumFusion',
  'cross_entropy_losses',
]
