"""MMPareto: the fused and the uni-modal gradient of each encoder, as a pair."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _arguments
from mimo_jax import _balance
from mimo_jax import _gramians
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax.per_encoder import _paths

# A sum that is shorter than this many rounding errors of its terms is zero.
_ROUNDING = 16


def mmpareto(
  encoder_of: _paths.EncoderOf,
  objectives: tuple[str, ...],
  *,
  gamma: _arguments.Scalar = 1.5,
  axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Innocent uni-modal assistance (MMPareto).

  It takes the place of `balance`, and combines the gradients of all objectives
  encoder by encoder. With g_c the gradient of the fused loss and g_u that of
  the modality's own loss, both over all of that modality's encoder,

      a = (1/2, 1/2)                             if g_cᵀ g_u ≥ 0
      a = argmin ‖a_c g_c + a_u g_u‖,  a ≥ 0, a_c + a_u = 1    otherwise

  and for each of the encoder's tensors, where g_c and g_u now stand for the
  parts in that tensor,

      h = 2 a_c g_c + 2 a_u g_u,    λ = max(1, ‖g_c + g_u‖ / ‖h‖)
      update = γ λ h                                        (0 if ‖h‖ = 0)

  So a conflict turns the plain sum, but never shortens it: λ restores the
  length that h has lost. γ strengthens the noise of the gradient, which, by the
  paper, helps to generalise. Parameters that no encoder owns (heads, fusion)
  get the plain sum of all gradients. In an encoder, other objectives than the
  two are ignored; uni-modal losses with heads of their own do not reach it.

  It is `balance` with a rule for the Jacobian, and takes a pullback.
  `optax.partition` over one `balance` for each encoder would need the full
  Jacobian. `balance(groups=encoder_of)` has the same rule for all groups; here
  each encoder looks at another pair of objectives, and stretches tensor by
  tensor. For MGDA by encoder, use `balance(groups=encoder_of)`.

  The pair a is that of `mimo_jax.solvers.min_norm`, in closed form:
  a_c = (g_uᵀg_u - g_cᵀg_u) / ‖g_c - g_u‖². The authors' solver returns 0.001
  and 0.999 where these would be 0 and 1, which they never are in a conflict.
  Their code takes a right angle for a conflict, so that a zero gradient of one
  loss would stop the encoder; here a right angle is none.

  Args:
    encoder_of: function from a parameter's path, a tuple of strings such as
      `('encoders_audio', 'Dense_0', 'kernel')`, to the modality whose encoder
      the parameter is in, or None: `mimo_jax.nn.encoder_of` for
      `mimo_jax.nn.LateFusion`.
    objectives: names of the objectives, the fused one first. A modality's own
      objective has the modality's name.
    gamma: γ > 0. 1 leaves aligned gradients at their plain sum.
    axis_name: axis (or axes) of devices to average the Jacobian over, as in
      `balance`.

  Returns:
    An `optax.GradientTransformationExtraArgs` whose `update` takes what that of
    `balance` takes: a pullback or a Jacobian, and `losses`. Its state is that
    of `balance`. The weights in it are 2 a_u for each modality, the mean over
    the encoders of 2 a_c for the fused loss, and 1 for objectives that have no
    encoder.

  Raises:
    ValueError: if `objectives` are not unique names, `gamma` is not positive,
      or `encoder_of` is no function; when the state is made, if `encoder_of`
      returns a name that is no objective, or None for all; and whatever
      `balance` raises.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> optimizer = optax.chain(
    ...   mimo_jax.mmpareto(
    ...     lambda path: None if path[0] == 'bias' else path[0],
    ...     ('fused', 'audio', 'visual'),
    ...   ),
    ...   optax.sgd(0.1),
    ... )
    >>> params = {'audio': 1.0, 'visual': jnp.ones(2), 'bias': 0.5}
    >>> def losses_fn(params):
    ...   audio, visual = params['audio'], params['visual']
    ...   return {
    ...     'fused': audio + 4 * visual[0] + params['bias'],
    ...     'audio': 2 * audio,
    ...     'visual': visual[1] - visual[0],
    ...   }
    >>> opt_state = optimizer.init(params)
    >>> losses, pullback = jax.vjp(losses_fn, params)
    >>> updates, opt_state = jax.jit(optimizer.update)(
    ...   pullback, opt_state, params, losses=losses
    ... )
    >>> float(updates['audio']), float(updates['bias'])
    (-0.45, -0.1)
    >>> updates['visual'].tolist()
    [-0.093, -0.465]
    >>> optax.tree.get(opt_state, 'weights').tolist()  # fused, audio, visual
    [0.731, 1.0, 1.538]

  References:
    Y. Wei and D. Hu, `MMPareto: Boosting Multimodal Learning with Innocent
    Unimodal Assistance <https://arxiv.org/abs/2405.17730>`_, ICML 2024.
  """
  _paths.check_encoder_of('mmpareto', encoder_of)
  _paths.check_names(
    'mmpareto', 'objectives', objectives, "('fused', 'audio', 'visual')"
  )
  _arguments.check('mmpareto', _arguments.finite_above(0), gamma=gamma)
  names = tuple(objectives)

  def owners_of(tree: base.PyTree) -> list[str | None]:
    return _paths.owners('mmpareto', encoder_of, tree, names[1:])

  def init(_: int, params: base.PyTree) -> base.StatelessState:
    owners_of(params)
    return base.StatelessState()

  def update(
    observation: base.Observation, state: base.StatelessState
  ) -> tuple[base.Direction, base.StatelessState]:
    gradients, treedef = jax.tree.flatten(observation.jacobian)
    gradients = [_numerics.at_least_float32(leaf) for leaf in gradients]
    owners = owners_of(observation.jacobian)
    places = [i for i, owner in enumerate(owners) if owner is not None]
    # For each tensor of an encoder, the row of its modality.
    own = np.array([names.index(owners[i]) for i in places])
    tensors = [
      (gradients[i][0], gradients[i][row])
      for i, row in zip(places, own, strict=True)
    ]
    gramians = _gramians.of_parts(tensors)
    rows = sorted({*own.tolist()})
    pairs = {
      row: _pair_of_weights(
        jnp.sum(gramians[np.flatnonzero(own == row)], axis=0)
      )
      for row in rows
    }
    # The sum, which is replaced below for tensors of encoders.
    combined = [jnp.sum(leaf, axis=0) for leaf in gradients]
    turned = _turned(tensors, gramians, [pairs[row] for row in own])
    for i, tensor in zip(places, turned, strict=True):
      combined[i] = gamma * tensor
    shares = 2 * jnp.stack(list(pairs.values())).astype(
      observation.losses.dtype
    )
    weights = (
      jnp.ones_like(observation.losses).at[np.array(rows)].set(shares[:, 1])
    )
    weights = weights.at[0].set(jnp.mean(shares[:, 0]))
    direction = jax.tree.unflatten(treedef, combined)
    return base.Direction(direction, weights), state

  return _balance.balance(
    base.stateful(init, update, needs='jacobian'),
    objectives=names,
    axis_name=axis_name,
  )


def _pair_of_weights(gramian: jax.Array) -> jax.Array:
  """a_c and a_u, [2], of an encoder's Gramian [2, 2]."""
  (fused, cross), (_, own) = gramian
  # In a conflict all of these are sums of positive numbers, so the result is as
  # exact as the Gramian, and no solver has to be compiled. The second weight as
  # 1 minus the first would be inexact if lengths differ much.
  opposed = cross < 0
  shares = jnp.stack([own - cross, fused - cross])
  shares /= jnp.where(opposed, fused + own - 2 * cross, 1)
  return jnp.where(opposed, shares, 0.5)


def _turned(
  tensors: list[tuple[jax.Array, jax.Array]],
  gramians: jax.Array,
  pairs: list[jax.Array],
) -> list[jax.Array]:
  """λ h of each tensor, by the Gramian of its gradients and a_c and a_u."""
  turned = []
  for (fused, own), pair in zip(tensors, pairs, strict=True):
    twice = 2 * pair.astype(fused.dtype)
    turned.append(twice[0] * fused + twice[1] * own)
  both = [
    (fused + own, leaf)
    for (fused, own), leaf in zip(tensors, turned, strict=True)
  ]
  squares = jnp.diagonal(_gramians.of_parts(both), axis1=1, axis2=2)
  plain_length, length = jnp.sqrt(squares).T
  # Opposed gradients cancel up to rounding errors, which λ would amplify.
  lengths = jnp.sqrt(jnp.diagonal(gramians, axis1=1, axis2=2))
  size = jnp.sum(2 * jnp.stack(pairs) * lengths, axis=1)
  eps = np.array([jnp.finfo(leaf.dtype).eps for leaf in turned])
  is_zero = length <= _ROUNDING * eps.astype(length.dtype) * size
  stretch = jnp.maximum(1, plain_length / jnp.where(is_zero, 1, length))
  stretch = jnp.where(is_zero, 0, stretch)
  return [
    factor.astype(leaf.dtype) * leaf
    for factor, leaf in zip(stretch, turned, strict=True)
  ]
