"""Solvers of the small [K, K] problems of rules: jittable, vmappable, exact."""

from mimo_jax import _exports
from mimo_jax.solvers._alpha_fair import alpha_fair as alpha_fair
from mimo_jax.solvers._cosine_form import cosine_form as cosine_form
from mimo_jax.solvers._dual_cone import dual_cone as dual_cone
from mimo_jax.solvers._least_squares import least_squares as least_squares
from mimo_jax.solvers._max_min_in_ball import max_min_in_ball as max_min_in_ball
from mimo_jax.solvers._min_norm import min_norm as min_norm
from mimo_jax.solvers._non_negative_qp import non_negative_qp as non_negative_qp
from mimo_jax.solvers._simplex import simplex_projection as simplex_projection

__all__ = _exports.public_names(globals())
