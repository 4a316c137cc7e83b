"""The weightings, one a file; this namespace is their registry."""

from mimo_jax.weightings._constant import constant as constant
from mimo_jax.weightings._fused_only import fused_only as fused_only
from mimo_jax.weightings._mean import mean as mean
from mimo_jax.weightings._mgda import mgda as mgda
from mimo_jax.weightings._mimo import mimo as mimo
from mimo_jax.weightings._sum import sum as sum

__all__ = ['constant', 'fused_only', 'mean', 'mgda', 'mimo', 'sum']
