"""Impartial multi-task learning, its loss balance."""

from typing import NamedTuple

import jax
import optax

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax.weightings import _learned_scales


class IMTLLState(NamedTuple):
  """State of `imtl_l`."""

  log_scales: jax.Array  # [K], s
  optimizer: base.PyTree  # state of the optimizer of s


def imtl_l(
  optimizer: optax.GradientTransformation | None = None,
  init: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Impartial multi-task learning, loss balance (IMTL-L).

  Each loss is multiplied by a learned scale exp(s_i) that makes all of them
  the same size:

      S = Σ exp(s_i) L_i - s_i,   w_i = ∂S/∂L_i = exp(s_i)
      ∂S/∂s_i = exp(s_i) L_i - 1

  At rest s_i = -log L_i and every weighted loss is 1. This is uncertainty
  weighting with the sign of s turned, and twice the weights. s starts at
  `init`. Each step uses the present s, then moves it down ∂S/∂s with
  `optimizer`, from the same losses.

  The authors and most libraries train s along with the network, by the same
  optimizer. Here s is state of the rule, and has an optimizer of its own.
  Losses should be positive. One that is not would push s up for ever, so here
  it leaves s where it is.

  Properties: permutation_equivariant, linear_under_scaling.

  Args:
    optimizer: of s; by default `optax.adam(0.025)`. A larger learning rate
      follows the losses more closely.
    init: first s, one number or K of them. Larger: larger weights.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> rule = mimo_jax.weightings.imtl_l(optax.sgd(0.25))
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.2, 3.0]))
    >>> state = rule.init(2)
    >>> for _ in range(100):
    ...   weights, state = rule.update(observation, state)
    >>> weights.tolist()
    [5.0, 0.333]

  References:
    L. Liu et al., `Towards Impartial Multi-task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  return _learned_scales.learned_scales(
    'imtl_l', IMTLLState, optimizer, init, sign=1, factor=1
  )
