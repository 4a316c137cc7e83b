"""The small [K, K] problems, each on its own: jittable, vmappable, exact."""

from mimo_jax.solvers._cosine_form import cosine_form as cosine_form
from mimo_jax.solvers._cosine_form import CosineForm as CosineForm
from mimo_jax.solvers._min_norm import min_norm as min_norm
from mimo_jax.solvers._non_negative_qp import non_negative_qp as non_negative_qp

__all__ = ['CosineForm', 'cosine_form', 'min_norm', 'non_negative_qp']
