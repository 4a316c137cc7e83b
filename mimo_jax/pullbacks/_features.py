"""The Gramian of gradients at the features, not at the params."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from mimo_jax import _numerics
from mimo_jax import _pullback
from mimo_jax import base
from mimo_jax import jacobian
from mimo_jax.pullbacks import _base


def vjp_at_features(
  losses_fn: Callable[..., Any], params: base.PyTree, *, has_aux: bool = False
) -> Any:
  """`jax.vjp`, with the Gramian of the gradients at the features.

  `losses_fn` is given a function `cut`. It passes the features through it, and
  goes on with what `cut` returns. K cotangents are pulled back to the features,
  through the heads alone, and the rule weighs by the Gramian of these. Then one
  backward pass with the weighted cotangent goes through the encoders. So every
  rule for the Gramian costs hardly more than joint training.

  The combined gradient is exact, Σ wᵢ ∇Fᵢ in every parameter, but the weights
  are those of another Gramian. Let Z be the K cotangents, and A the derivative
  of the features by the encoders' params. The Gramian of the gradients that
  pass through the features is Z A Aᵀ Zᵀ, and the rule sees Z Zᵀ. With σ the
  singular values of A,

      σ_min² Z Zᵀ  ≼  Z A Aᵀ Zᵀ  ≼  σ_max² Z Zᵀ

  The two agree up to a factor if A, up to a factor, has orthonormal rows. Only
  then do a rule's guarantees (no conflict, shortest vector) hold for the
  params; otherwise they hold for a step of the features. Params past the
  features, such as a head's own, have no part in the weights. Losses of
  different rows have orthogonal cotangents, so that they cannot conflict here.

  Args:
    losses_fn: `losses_fn(params, cut) -> losses`, in the forms that `balance`
      takes. It may call `cut` several times, each time with a pytree of arrays
      of the whole batch. It must not call it inside `jax.vmap`, `lax.scan`,
      `jax.checkpoint` or `jax.jit`. `losses_fn` is traced twice, the first time
      for the shapes of the features.
    params: pytree.
    has_aux: whether `losses_fn` returns `(losses, aux)`.

  Returns:
    `(losses, pullback)`, or `(losses, pullback, aux)`, for `balance`. Call it
    under `jax.jit`, which leaves out what is not needed of a backward pass.

  Raises:
    ValueError: if `losses_fn` does not call `cut`, or calls it inside a
      transformation.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> optimizer = optax.chain(
    ...   mimo_jax.balance(mimo_jax.weightings.mgda()), optax.sgd(0.1)
    ... )
    >>> params = {'encoder': jnp.eye(3), 'heads': jnp.ones((3, 2))}
    >>> @jax.jit
    ... def train_step(params, opt_state, batch):
    ...   def losses_fn(params, cut):
    ...     features = cut(jnp.tanh(batch @ params['encoder']))
    ...     outputs = features @ params['heads']
    ...     return jnp.mean((outputs - jnp.array([[1.0, -1.0]])) ** 2, axis=0)
    ...   losses, pullback = mimo_jax.vjp_at_features(losses_fn, params)
    ...   updates, opt_state = optimizer.update(
    ...     pullback, opt_state, params, losses=losses
    ...   )
    ...   return optax.apply_updates(params, updates), opt_state, losses
    >>> params, _, losses = train_step(
    ...   params, optimizer.init(params), jnp.ones((4, 3))
    ... )
    >>> losses.tolist()
    [1.65, 10.79]

  References:
    O. Sener and V. Koltun, `Multi-Task Learning as Multi-Objective
    Optimization <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018: MGDA-UB is
    this with `mimo_jax.weightings.mgda`. There and in LibMTL (`rep_grad`) each
    head learns from its own loss with weight 1; here it learns from Σ wᵢ ∇Fᵢ,
    as all parameters do.
  """
  taps: list[list[Any]] = []  # types of features, without a tracer

  def record(features: base.PyTree) -> base.PyTree:
    leaves = jax.tree.leaves(features)
    taps.append([jax.typeof(leaf) for leaf in leaves if _is_real(leaf)])
    return features

  jax.eval_shape(lambda params: losses_fn(params, _guarded(record)), params)
  if not any(taps):
    raise ValueError(
      'losses_fn did not pass features through the function `cut` that'
      ' vjp_at_features gave it. Expected losses_fn(params, cut) with'
      ' `features = cut(features)` between encoders and heads.'
    )

  def with_taps(params: base.PyTree, taps: list[list[jax.Array]]) -> Any:
    left = iter(taps)

    def add(features: base.PyTree) -> base.PyTree:
      zeros = iter(next(left))
      return jax.tree.map(
        lambda leaf: leaf + next(zeros) if _is_real(leaf) else leaf, features
      )

    return losses_fn(params, _guarded(add))

  zeros = [[_zeros(of_type) for of_type in each] for each in taps]
  losses, pullback, *aux = _pullback.vjp(
    with_taps, params, zeros, has_aux=has_aux
  )

  def pull_both(cotangent: Any) -> tuple[base.PyTree, base.PyTree]:
    both: Any = pullback(_base.like(losses, _base.flat(cotangent)))
    return both

  def gramian(averages: _base.Averages) -> jax.Array:
    rows = _pullback.rows_of(lambda cotangent: pull_both(cotangent)[1:], losses)
    shares = _base.flat(averages.shares)
    scaled = [
      jax.tree.map(lambda leaf, share=share: _numerics.scaled(leaf, share), row)
      for row, share in zip(rows, shares, strict=True)
    ]
    # Each device has features of its own, so Gramians are summed.
    return averages.total(jacobian.gramian(scaled, range(len(rows))))

  known = _base.Pullback(
    lambda cotangent: pull_both(cotangent)[:1], gramian, of_params=False
  )
  return losses, known, *aux


def _zeros(of_type: Any) -> jax.Array:
  """Zeros of a type that `jax.typeof` returned, sharded and varying alike."""
  zeros = jnp.zeros(of_type.shape, of_type.dtype)
  if any(of_type.sharding.spec):
    zeros = jax.sharding.reshard(zeros, of_type.sharding)
  axes = tuple(of_type.manual_axis_type.varying)
  return lax.pcast(zeros, axes, to='varying') if axes else zeros


def _guarded(
  cut: Callable[[base.PyTree], base.PyTree],
) -> Callable[[base.PyTree], base.PyTree]:
  """`cut`, but only where `losses_fn` itself is traced."""
  here = core.get_opaque_trace_state()

  def checked(features: base.PyTree) -> base.PyTree:
    if core.get_opaque_trace_state() != here:
      raise ValueError(
        '`cut` was called inside of a transformation, such as jax.vmap,'
        ' lax.scan, jax.checkpoint or jax.jit, where the features are not'
        ' those of the whole batch. Call it in losses_fn itself, with what the'
        ' transformed function returns.'
      )
    return cut(features)

  return checked


def _is_real(leaf: Any) -> bool:
  return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))
