"""The small [K, K] problems, each on its own: jittable, vmappable, exact."""

from mimo_jax.solvers._min_norm import min_norm as min_norm
from mimo_jax.solvers._non_negative_qp import non_negative_qp as non_negative_qp

__all__ = ['min_norm', 'non_negative_qp']
