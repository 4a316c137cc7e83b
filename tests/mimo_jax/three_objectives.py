"""Three objectives of two encoders and a bias, and their sum by hand."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

import mimo_jax
from mimo_jax import weightings

# Neither in alphabetical order, nor is the primary one first in that order.
OBJECTIVES = ('joint', 'visual', 'audio')

PARAMS = {
  'encoders': {
    'audio': jnp.array([0.7, -0.3, 1.9, 0.4]),
    'visual': [jnp.array([[1.2, -0.8], [0.1, 0.5], [-1.4, 0.3]])],
  },
  'bias': jnp.float32(0.6),
}
BATCH = jnp.array([[0.5, -1.1], [2.0, 0.3], [0.9, 0.7], [-0.2, 1.6]])


def losses_of(params, batch=BATCH):
  """Primary, visual, audio: conflicting, of different sizes, block-sparse."""
  audio = jnp.sum(params['encoders']['audio'] * batch[:, 0])
  visual = jnp.sum(params['encoders']['visual'][0] @ batch[0] ** 2)
  bias = params['bias']
  return [
    (audio + 0.5 * visual - 1.5) ** 2 + 0.1 * bias**2,
    0.3 * (visual - 2.0) ** 2 + bias,
    2.0 * (audio + 1.0) ** 2 + 0.2 * jnp.exp(audio),
  ]


def named(losses, names=OBJECTIVES):
  return dict(zip(names, losses, strict=True))


def named_losses_of(params, batch=BATCH):
  return named(losses_of(params, batch))


class Smoothed(NamedTuple):
  """State of `smoothed`."""

  mean: jax.Array  # [K]
  seen: jax.Array  # []


def smoothed(decay=0.75):
  """Weights proportional to a running mean of the losses."""

  def init(num_objectives, params=None):
    del params
    return Smoothed(jnp.zeros(num_objectives), jnp.zeros((), jnp.int32))

  def update(observation, state):
    mean = decay * state.mean + (1 - decay) * observation.losses
    return mean / jnp.sum(mean), Smoothed(mean, state.seen + 1)

  return mimo_jax.Weighting(init, update, needs='losses')


def sign_agreement():
  """Weights 1, at each coordinate, for gradients with the sign of the sum."""

  def weigh(observation):
    return jax.tree.map(
      lambda leaf: (leaf * jnp.sum(leaf, axis=0, keepdims=True) > 0).astype(
        jnp.float32
      ),
      observation.jacobian,
    )

  return mimo_jax.stateless(weigh, needs='jacobian')


def inverse_lengths():
  """Scales gradient i to length i: a rule that tells all rows apart."""

  def weigh(observation):
    place = 1.0 + jnp.arange(observation.num_objectives)
    return place / jnp.sqrt(jnp.diagonal(observation.gramian))

  return mimo_jax.stateless(weigh, needs='gramian')


def products():
  """Weights that depend on every entry of the Gramian, without a solver."""

  def weigh(observation):
    return jnp.sum(
      observation.gramian * jnp.arange(1.0, 10).reshape(3, 3), axis=1
    )

  return mimo_jax.stateless(weigh, needs='gramian')


# With jit, each rule is traced once for all tests.
RULES = {
  name: rule._replace(update=jax.jit(rule.update))
  for name, rule in {
    'constant': weightings.constant([0.5, 2.0, -1.0]),
    'fused_only': weightings.fused_only(),
    'inverse lengths': inverse_lengths(),
    'mgda': weightings.mgda(),
    'mimo': mimo_jax.mimo(3.0, 0.7),
    'scheduled mimo': mimo_jax.mimo(lambda step: 0.5 + step, 0.8),
    'sign agreement': sign_agreement(),
    'smoothed': smoothed(),
  }.items()
}
# One rule for losses, Gramian and Jacobian each; they tell objectives apart.
KINDS = ('constant', 'inverse lengths', 'sign agreement')


def summed_by_hand(rule, gradients, losses):
  """Σ w_i g_i with the weights of the rule's first step."""
  flat = jnp.stack(
    [
      jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
      for gradient in gradients
    ]
  )
  stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *gradients)
  observation = mimo_jax.Observation(
    losses=jnp.stack(losses), gramian=flat @ flat.T, jacobian=stacked
  )
  weights, _ = rule.update(observation, rule.init(len(losses)))
  if isinstance(weights, jax.Array) and weights.ndim == 1:
    weights = jax.tree.map(
      lambda leaf: jnp.reshape(weights, (-1,) + (1,) * (leaf.ndim - 1)), stacked
    )
  return jax.tree.map(
    lambda weight, leaf: jnp.sum(weight * leaf, axis=0), weights, stacked
  )


@functools.partial(jax.jit, static_argnames=('rule', 'losses_fn'))
def hand_made(rule, params=PARAMS, losses_fn=losses_of):
  """Computes what `balance` should return, by K calls of `jax.grad`."""
  losses = losses_fn(params)
  gradients = [
    jax.grad(lambda p, i=i: losses_fn(p)[i])(params) for i in range(len(losses))
  ]
  return summed_by_hand(RULES[rule], gradients, losses)
