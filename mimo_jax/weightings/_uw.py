"""Uncertainty weighting."""

from typing import NamedTuple

import jax
import optax

from mimo_jax import _arguments
from mimo_jax import base
from mimo_jax.weightings import _learned_scales


class UWState(NamedTuple):
  """State of `uw`."""

  log_variances: jax.Array  # [K], s
  optimizer: base.PyTree  # state of the optimizer of s


def uw(
  optimizer: optax.GradientTransformation | None = None,
  init: _arguments.Scalar | _arguments.Vector = 0.0,
) -> base.Weighting:
  """Uncertainty weighting (UW).

  Each loss is divided by a learned variance exp(s_i), the noise of its task:

      S = Σ ½ exp(-s_i) L_i + ½ s_i,   w_i = ∂S/∂L_i = ½ exp(-s_i)
      ∂S/∂s_i = ½ - ½ exp(-s_i) L_i

  At rest s_i = log L_i and every weighted loss is ½. s starts at `init`. Each
  step uses the present s, then moves it down ∂S/∂s with `optimizer`, from the
  same losses.

  The authors and most libraries train s along with the network, by the same
  optimizer. Here s is state of the rule, and has an optimizer of its own.
  Losses should be positive. One that is not would pull s down for ever, so here
  it leaves s where it is.

  Properties: permutation_equivariant, linear_under_scaling.

  Args:
    optimizer: of s; by default `optax.adam(0.025)`. A larger learning rate
      follows the losses more closely.
    init: first s, one number or K of them. Larger: smaller weights.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> rule = mimo_jax.weightings.uw(optax.sgd(0.5))
    >>> observation = mimo_jax.Observation(losses=jnp.array([0.2, 3.0]))
    >>> state = rule.init(2)
    >>> for _ in range(100):
    ...   weights, state = rule.update(observation, state)
    >>> weights.tolist()
    [2.5, 0.167]

  References:
    A. Kendall, Y. Gal and R. Cipolla, `Multi-Task Learning Using Uncertainty to
    Weigh Losses for Scene Geometry and Semantics
    <https://arxiv.org/abs/1705.07115>`_, CVPR 2018.
  """
  return _learned_scales.learned_scales(
    'uw', UWState, optimizer, init, sign=-1, factor=0.5
  )
