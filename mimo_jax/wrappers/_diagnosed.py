"""Lengths and cosines of the gradients that a rule weighs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax import solvers


class DiagnosedState(NamedTuple):
  """State of `diagnosed`; None if the rule sees no gradients."""

  lengths: base.IfNeeded  # [K], of the gradients
  cosines: base.IfNeeded  # [K, K], between them; 0 with a zero gradient
  conflicting: base.IfNeeded  # [], share of the pairs with a negative cosine
  direction_cosines: base.IfNeeded  # [K], of the direction with each gradient
  weighting: base.PyTree  # the state of the rule inside


def diagnosed(
  weighting: base.Weighting, *, always: bool = False
) -> base.Weighting:
  """The same rule, with a state that describes the gradients that it saw.

  The weights are those of `weighting`. The state holds `lengths`, `cosines`,
  `conflicting` and `direction_cosines`. Read them by
  `optax.tree.get(opt_state, 'cosines')`; they are 0 before the first step. If
  an objective has a negative cosine with the direction, it gets worse, to first
  order. All numbers come from the Gramian G, which costs nothing more: with
  weights w and lengths n, the direction's length is √(wᵀGw), and its cosine
  with gradient i is (Gw)ᵢ / (nᵢ √(wᵀGw)). Rules that weigh each number of the
  gradients need one more pass over them.

  With `groups` of `balance` the state holds these numbers for each group, of
  the gradients in that group. Inside `mimo_jax.unit_gradients` the gradients
  have length 1; outside they have their own lengths.

  Args:
    weighting: any rule that needs one batch only.
    always: describe the gradients of a rule that needs losses only, too. It
      then costs K backward passes in place of one. By default nothing is
      computed for such a rule, and the state holds None.

  Returns:
    A `mimo_jax.Weighting`, which carries the state of `weighting` in its own.

  Raises:
    ValueError: if `weighting` is no rule, or needs several batches, or `always`
      is neither True nor False.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> rule = mimo_jax.diagnosed(mimo_jax.weightings.sum())
    >>> rule.init(2).cosines  # of a rule for losses, unless always=True
    >>> rule = mimo_jax.diagnosed(mimo_jax.weightings.pcgrad())
    >>> rows = jnp.array([[3.0, 4.0], [-1.0, 0.0]])
    >>> observation = mimo_jax.Observation(jnp.ones(2), rows @ rows.T)
    >>> weights, state = rule.update(observation, rule.init(2))
    >>> state.lengths.tolist(), state.cosines[0].tolist()
    ([5.0, 1.0], [1.0, -0.6])
    >>> float(state.conflicting), state.direction_cosines.tolist()
    (1.0, [0.707, 0.141])
  """
  _arguments.check_choice('diagnosed', (False, True), always=always)
  needs = base.and_gramian('diagnosed', weighting)
  sees = always or needs == weighting.needs

  def init(num_objectives: int, params: base.PyTree = None) -> DiagnosedState:
    inner = weighting.init(num_objectives, params)
    if not sees:
      return DiagnosedState(None, None, None, None, inner)
    return DiagnosedState(
      lengths=jnp.zeros(num_objectives),
      cosines=jnp.zeros((num_objectives, num_objectives)),
      conflicting=jnp.zeros(()),
      direction_cosines=jnp.zeros(num_objectives),
      weighting=inner,
    )

  def update(
    observation: base.Observation, state: DiagnosedState
  ) -> tuple[base.PyTree, DiagnosedState]:
    weights, inner = weighting.update(observation, state.weighting)
    if not sees:
      return weights, state._replace(weighting=inner)
    form = solvers.cosine_form(_with_direction(observation, weights))
    cosines = jnp.clip(form.cosines, -1, 1)
    present = ~form.is_zero[1:]
    size = observation.num_objectives
    conflicts = jnp.sum(jnp.triu(cosines[1:, 1:] < 0, 1))
    new = DiagnosedState(
      lengths=jnp.where(present, form.lengths[1:] * form.longest, 0),
      cosines=cosines[1:, 1:],
      conflicting=conflicts / max(size * (size - 1) // 2, 1),
      direction_cosines=cosines[0, 1:],
      weighting=inner,
    )
    return weights, jax.tree.map(_numerics.keep_type, new, state)

  return weighting._replace(
    init=init, update=update, needs=needs if sees else weighting.needs
  )


def _with_direction(
  observation: base.Observation, weights: base.PyTree
) -> jax.Array:
  """The Gramian [1 + K, 1 + K] of the direction and the gradients."""
  gramian = observation.gramian
  if getattr(weights, 'shape', None) == (observation.num_objectives,):
    # Row by row, because backends choose the precision of matrix products.
    along = jnp.sum(gramian * weights[None, :], axis=1)
    square = jnp.maximum(jnp.sum(weights * along), 0)
    first = jnp.concatenate([square[None], along])
    rest = jnp.concatenate([along[:, None], gramian], axis=1)
    return jnp.concatenate([first[None], rest])
  rows = jacobian.rows(observation.jacobian)
  direction = (
    weights.updates
    if isinstance(weights, base.Direction)
    else jacobian.combine(observation.jacobian, weights)
  )
  return jacobian.gramian([direction, *rows], range(1 + len(rows)))
