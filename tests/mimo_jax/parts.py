"""Objectives that depend on all parameters, and directions of parts of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests import checks
from tests.mimo_jax import three_objectives as three

PARAMS, OBJECTIVES = three.PARAMS, three.OBJECTIVES
GROUPS = {'audio': (1,), 'rest': (0, 2)}  # group -> places of its leaves


each_form = pytest.mark.parametrize(
  'form', ['pullback', checks.slow('mapping'), checks.slow('stacked')]
)
# Every objective depends on every parameter, each in its own direction.
MATRICES = jnp.asarray(
  checks.standard_normal(3, 4, 11) * np.array([1.0, 0.5, 2.0])[:, None, None],
  jnp.float32,
)
TARGETS = jnp.asarray(checks.standard_normal(3, 4, seed=1), jnp.float32)


def losses_of(params, shift=0.0):
  flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
  errors = MATRICES @ flat - TARGETS - shift
  return list(jnp.mean(errors**2, axis=1))


def named_losses_of(params, shift=0.0):
  return three.named(losses_of(params, shift))


def group_of(path):
  return 'audio' if path == ('encoders', 'audio') else 'rest'


def is_encoder(path):
  return path[0] == 'encoders'


@functools.cache
def gradients():
  """The gradients of all objectives, by `jax.jacrev`."""
  return jax.jit(jax.jacrev(losses_of))(PARAMS)


def leaves(tree, places):
  flat = jax.tree.leaves(tree)
  return [flat[i] for i in places]


def flattened(rows, places):
  """Flattens rows to [K, P], with NumPy unless they are traced."""
  rows = [leaves(row, places) for row in rows]
  is_traced = isinstance(rows[0][0], jax.core.Tracer)
  xp = jnp if is_traced else np
  return xp.stack(
    [xp.concatenate([xp.ravel(leaf) for leaf in row]) for row in rows]
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def by_hand(rule, places):
  """The direction in some leaves, from a rule that sees only these."""
  each = jax.jacrev(losses_of)(PARAMS)
  rows = [leaves(gradient, places) for gradient in each]
  return three.summed_by_hand(rule, rows, losses_of(PARAMS))


@functools.partial(jax.jit, static_argnums=(0, 1))
def weights_on(rule, places):
  """The weights from a rule that sees only some leaves."""
  flat = flattened(jax.jacrev(losses_of)(PARAMS), places)
  observation = mimo_jax.Observation(
    jnp.stack(losses_of(PARAMS)), flat @ flat.T
  )
  return rule.update(observation, rule.init(3))[0]


def forms(params=PARAMS):
  """Returns losses, and the updates in each form that `balance` takes."""
  losses, pullback = jax.vjp(named_losses_of, params)
  gradients = jax.jacrev(losses_of)(params)
  rows = three.named(gradients)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
  return losses, {'pullback': pullback, 'mapping': rows, 'stacked': stacked}


def updated(rule, form='pullback', **options):
  """Returns the updates and the state after the first step."""
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)

  @jax.jit
  def step(params, state):
    losses, updates = forms(params)
    return balance.update(updates[form], state, params, losses=losses)

  state = balance.init(PARAMS)
  new, new_state = step(PARAMS, state)
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
  return new, new_state


def operations(rule, weights=None, **options):
  """Counts the operations of a step of a deep shared network, by XLA."""
  keys = jax.random.split(jax.random.key(0), 6)
  layers = [jax.random.normal(key, (64, 64)) / 8 for key in keys[:5]]
  params = {'body': layers, 'last': jax.random.normal(keys[5], (64, 3))}
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)

  def losses_fn(params):
    features = jnp.ones((32, 64))
    for layer in params['body']:
      features = jnp.tanh(features @ layer)
    outputs = features @ params['last']
    return three.named([jnp.mean((outputs[:, i] - i) ** 2) for i in range(3)])

  def step(params, state):
    losses, pullback = jax.vjp(losses_fn, params)
    return balance.update(
      pullback, state, params, losses=losses, weights=weights
    )

  compiled = jax.jit(step).lower(params, balance.init(params)).compile()
  return compiled.cost_analysis()['flops']
