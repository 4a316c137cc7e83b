"""Gradient sign dropout."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base


class GradDropState(NamedTuple):
  """State of `graddrop`."""

  key: jax.Array  # [], of the next step's draws


def graddrop(
  leak: _arguments.Scalar | _arguments.Vector = 0.0, seed: int = 0
) -> base.Weighting:
  """Gradient sign dropout (GradDrop).

  Every coordinate p picks a sign at random, and drops the entries of the other
  sign. The positive sign has the probability Q_p, its share of the entries:

      Q_p = Σᵢ max(J_ip, 0) / Σᵢ |J_ip|,   U_p ~ uniform on [0, 1)
      a_ip = ℓᵢ + (1 − ℓᵢ) M_ip
      M_ip = [J_ip > 0] if U_p < Q_p else [J_ip < 0]

  ℓ = `leak`. The weights are shaped like `observation.jacobian`. Without a
  leak, each coordinate of the direction is the positive or the negative part of
  the sum, and its expectation is the sum. Where all gradients agree in sign, it
  is the sum itself; where all are zero, nothing is kept.

  This rule works on gradients of parameters. The paper's experiments drop in
  the gradients of a shared representation, times the signs of its activations.

  Properties: scale_invariant, permutation_equivariant.

  Args:
    leak: ℓ in [0, 1], the share of each gradient that is never dropped: one
      number, or K of them, that of the primary objective first. 1 gives the
      sum.
    seed: of the draws.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.weightings.graddrop(leak=[0.5, 0.0])
    >>> rows = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), jacobian=rows)
    >>> rule.update(observation, rule.init(2))[0].tolist()
    [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0]]

  References:
    Z. Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with
    Gradient Sign Dropout <https://arxiv.org/abs/2010.06808>`_, NeurIPS 2020,
    Algorithm 1.
  """
  _arguments.check(
    'graddrop', _arguments.each(_arguments.between(0, 1)), leak=leak
  )
  _arguments.check('graddrop', _arguments.whole(), seed=seed)

  def init(_: int) -> GradDropState:
    return GradDropState(key=_numerics.new_key(seed))

  def update(
    observation: base.Observation, state: GradDropState
  ) -> tuple[base.PyTree, GradDropState]:
    dtype = observation.losses.dtype
    leaks = _arguments.for_each_objective(
      'graddrop', 'leak', leak, observation.losses
    )
    leaves, structure = jax.tree.flatten(observation.jacobian)
    key, leaf_keys = _numerics.split_key(state.key, len(leaves))

    def weigh(leaf: jax.Array, leaf_key: jax.Array) -> jax.Array:
      wide = leaf.astype(_numerics.wide(leaf.dtype, dtype))
      # Row by row, because XLA does not fuse a reduction over the first axis.
      positive = sum(jnp.maximum(row, 0) for row in wide)
      total = positive + sum(jnp.maximum(-row, 0) for row in wide)
      # If all are zero, either sign keeps nothing.
      purity = positive / _numerics.nonzero(total)
      drawn = jax.random.uniform(leaf_key, leaf.shape[1:], wide.dtype)
      kept = jnp.where((drawn < purity)[None], wide > 0, wide < 0)
      leaked = _numerics.for_each_row(leaks, leaf)
      return jnp.where(kept, jnp.ones((), dtype), leaked)

    weights = [weigh(*pair) for pair in zip(leaves, leaf_keys, strict=True)]
    return jax.tree.unflatten(structure, weights), GradDropState(key)

  return base.stateful(init, update, needs='jacobian')
