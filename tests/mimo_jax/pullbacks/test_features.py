"""Weights from the Gramian at the features, and the exact gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import weightings
from tests import checks

_NAMES = ('fused', 'visual', 'audio')
_BATCH = {
  'audio': jax.device_put(checks.standard_normal(6, 4)),
  'visual': jax.device_put(checks.standard_normal(6, 3, seed=1)),
}
_PARAMS = {
  'audio': jax.device_put(checks.standard_normal(4, 2, seed=2)),
  'visual': jax.device_put(checks.standard_normal(3, 5, seed=3)),
  'head': jax.device_put(checks.standard_normal(7, seed=4)),
}


def _features_of(params):
  return {k: jnp.tanh(_BATCH[k] @ params[k]) for k in ('audio', 'visual')}


def _heads(params, features):
  audio, visual = features['audio'], features['visual']
  both = jnp.concatenate([audio, visual], axis=1)
  return {
    'audio': 3 * jnp.mean((audio[:, 0] * audio[:, 1] - 1.0) ** 2),
    'fused': jnp.mean((both @ params['head'] - 0.5) ** 2),
    'visual': jnp.mean((visual[:, 1] + visual[:, 0]) ** 2),
  }


def _losses_of(params, cut):
  return _heads(params, cut(_features_of(params)))


def _in_two_cuts(params, cut):
  features = _features_of(params)
  return _heads(
    params,
    {
      'audio': cut((features['audio'], jnp.arange(3)))[0],
      'visual': cut(features['visual']),
    },
  )


@pytest.mark.parametrize('losses_of', [_losses_of, _in_two_cuts])
def test_weights_and_gradient_follow_their_definitions(losses_of):
  rule = weightings.upgrad()
  balance = mimo_jax.balance(rule, objectives=_NAMES)

  @jax.jit
  def by_hand(params):
    features = _features_of(params)
    return (
      _heads(params, features),
      jax.jacrev(lambda z: _heads(params, z))(features),
      jax.jacrev(lambda p: _losses_of(p, lambda z: z))(params),
    )

  updates, state = jax.jit(
    lambda params: checks.first_step(
      balance, losses_of, params, mimo_jax.vjp_at_features
    )
  )(_PARAMS)
  losses, _ = mimo_jax.vjp_at_features(losses_of, _PARAMS)
  by_name, at_features, jacobian = by_hand(_PARAMS)
  for name, loss in by_name.items():
    np.testing.assert_allclose(losses[name], loss, rtol=1e-6)
  rows = np.stack([checks.flat(at_features[name]) for name in _NAMES])
  expected, _ = jax.jit(rule.update)(
    mimo_jax.Observation(np.ones(3, np.float32), rows @ rows.T), None
  )
  np.testing.assert_allclose(state.weights, expected, rtol=1e-5)
  combined = sum(
    w * checks.flat(jacobian[name])
    for w, name in zip(np.asarray(expected), _NAMES, strict=True)
  )
  np.testing.assert_allclose(
    checks.flat(updates), combined, rtol=1e-4, atol=1e-6
  )


def test_orthonormal_inputs_give_the_gramian_of_the_encoder():
  # The derivative of z = x w has the rows x: here orthonormal, times 3.
  inputs = 3 * np.linalg.qr(checks.standard_normal(5, 5))[0]
  kernel = jax.device_put(checks.standard_normal(5, 2, seed=1))
  balance = mimo_jax.balance(
    mimo_jax.stateful(
      lambda _: jnp.zeros((2, 2)),
      lambda seen, _: (seen.losses, seen.gramian),
      needs='gramian',
    ),
    objectives=('one', 'other'),
  )

  def losses_fn(kernel, cut):
    features = cut(inputs @ kernel)
    return jnp.stack([jnp.sum(jnp.sin(features)), jnp.sum(features[1:] ** 3)])

  @jax.jit
  def gramians(kernel):
    _, state = checks.first_step(
      balance, losses_fn, kernel, mimo_jax.vjp_at_features
    )
    jacobian = jax.jacrev(lambda k: losses_fn(k, lambda z: z))(kernel)
    return state.weighting, mimo_jax.gramian(jacobian)

  seen, expected = gramians(kernel)
  np.testing.assert_allclose(9 * seen, expected, rtol=1e-5)


@pytest.mark.slow
def test_late_fusion_with_batch_statistics_costs_one_encoder_pass():
  pictures = checks.standard_normal(2, 4, 8, 8, 1)
  inputs = {'a': pictures[0], 'b': pictures[1]}
  model = nn.LateFusion(
    {k: nn.LeNet(base_width=2, num_blocks=2) for k in inputs}, num_classes=3
  )
  variables = jax.jit(model.init)(jax.random.key(0), inputs)
  labels = jnp.array([0, 1, 2, 1])
  names = ('fused', 'a', 'b')

  def losses_fn(params, cut=lambda z: z):
    logits, state = model.apply(
      variables | {'params': params},
      inputs,
      train=True,
      cut=cut,
      mutable=['batch_stats'],
    )
    return nn.cross_entropy_losses(logits, labels), state

  def step(params, rule):
    balance = mimo_jax.balance(rule, objectives=names)
    losses, pullback, state = mimo_jax.vjp_at_features(
      losses_fn, params, has_aux=True
    )
    return balance.update(
      pullback, balance.init(params), params, losses=losses
    ), state

  params = variables['params']
  update, joint = (
    jax.jit(functools.partial(step, rule=rule)).lower(params).compile()
    for rule in (weightings.mgda(), weightings.sum())
  )
  (updates, state), statistics = update(params)
  (_, plain), jacobian = jax.jit(
    mimo_jax.value_and_jacobian(losses_fn, has_aux=True)
  )(params)
  checks.assert_close(
    updates, mimo_jax.combine(jacobian, state.weights, names), atol=1e-5
  )
  checks.assert_close(statistics, plain)
  assert np.count_nonzero(state.weights) > 1
  # There is one pass through the encoders, whatever the rule.
  flops, least = (each.cost_analysis()['flops'] for each in (update, joint))
  assert flops < 1.1 * least


def test_wrong_inputs_are_refused():
  with pytest.raises(ValueError, match='did not pass features through'):
    mimo_jax.vjp_at_features(lambda params, _: params, jnp.ones(2))
  with pytest.raises(ValueError, match='inside of a transformation'):
    mimo_jax.vjp_at_features(
      lambda params, cut: jnp.mean(jax.vmap(cut)(params * jnp.ones((3, 2))), 0),
      jnp.ones((3, 2)),
    )


def test_heads_of_single_objectives_take_their_own_gradient():
  # LibMTL's `rep_grad`: weights only for the layers before the features.
  balance = mimo_jax.balance(
    weightings.upgrad(),
    objectives=_NAMES,
    shared=lambda path: path[0] != 'head',
  )

  @jax.jit
  def both(params):
    updates, _ = checks.first_step(
      balance, _losses_of, params, mimo_jax.vjp_at_features
    )
    own = jax.grad(lambda p: _losses_of(p, lambda z: z)['fused'])
    return updates, own(params)

  updates, own = both(_PARAMS)
  np.testing.assert_allclose(updates['head'], own['head'], rtol=1e-5)
  balance = mimo_jax.balance(
    weightings.upgrad(),
    objectives=_NAMES,
    weigh_on=lambda path: path[0] == 'head',
  )
  with pytest.raises(ValueError, match='Expected one of the two'):
    checks.first_step(balance, _losses_of, _PARAMS, mimo_jax.vjp_at_features)
