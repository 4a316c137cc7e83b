"""What balance refuses, and what it says: given, expected, and what to do."""

import jax
import jax.numpy as jnp
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests.mimo_jax import three_objectives as three

DEFAULT = ('fused', 'audio', 'visual')
SCALARS = {name: jnp.array(0.2 + i) for i, name in enumerate(DEFAULT)}
JACOBIAN = {
  name: {'w': jnp.full([4], 1.0 + i), 'b': jnp.array(2.0)}
  for i, name in enumerate(DEFAULT)
}
PLAIN = {'w': jnp.ones([4]), 'b': jnp.array(2.0)}
REFUSED = {
  r'not given the losses.*losses=losses': {'losses': None},
  r"\['audio', 'joint'\] and no 'fused'.*objectives=\(primary": {
    'losses': {'joint': SCALARS['fused'], 'audio': SCALARS['audio']}
  },
  r"2 values; expected 3.*objectives=\('fused'": {
    'losses': [SCALARS['fused']] * 2,
    'objectives': DEFAULT,
  },
  r'4 values; expected 3': {'losses': jnp.ones(4), 'objectives': DEFAULT},
  r"expected those of.*missing \['text'\], unknown \['visual'\]": {
    'objectives': ('fused', 'audio', 'text')
  },
  r"losses\['audio'\] has shape \(8,\); expected a scalar.*mean": {
    'losses': SCALARS | {'audio': jnp.ones(8)}
  },
  r"losses\['audio'\]\['l2'\] is nested.*has_aux=True": {
    'losses': SCALARS | {'audio': {'l2': jnp.ones([])}}
  },
  r'shape \(3, 8, 2\); expected a vector \[K\]': {
    'losses': jnp.ones([3, 8, 2])
  },
  r'shape \(\); expected a vector': {'losses': jnp.ones([])},
  r'expected losses as a mapping': {'losses': 0.3},
  r'losses is empty': {'losses': {}},
  r"updates\['b'\] has shape \(\); expected gradients of 3.*vjp": {
    'updates': PLAIN
  },
  r"updates\['w'\] has shape \(5, 4\); expected gradients of 3": {
    'updates': {'w': jnp.ones([5, 4])},
    'params': {'w': jnp.ones(4)},
  },
  r'unknown which row belongs to which objective.*objectives=': {
    'updates': {'w': jnp.ones([3, 4]), 'b': jnp.ones([3])}
  },
  r"shape \{'w': \(5,\)\}; expected that of params, \{'w': \(4,\)\}": {
    'updates': {name: {'w': jnp.ones(5)} for name in DEFAULT},
    'params': {'w': jnp.ones(4)},
  },
  r'the losses in place of the updates.*pullback': {'updates': SCALARS},
  r"gradient of shape \(\); expected that of params, \{'b'": {
    'updates': dict(SCALARS)
  },
  r'gradient of shape \(\); expected that of params, .*pullback': {
    'updates': list(SCALARS.values()),
    'losses': list(SCALARS.values()),
    'objectives': DEFAULT,
  },
  r"expected that of params, \{'b': \(\), 'w'": {
    'updates': jnp.ones(3),
    'losses': jnp.stack(list(SCALARS.values())),
  },
  r"gradients of \['audio', 'fused'\]; expected.*'visual'": {
    'updates': {name: JACOBIAN[name] for name in ('fused', 'audio')}
  },
  r'weighting=<function mimo.*\(called\)': {'weighting': mimo_jax.mimo},
  r"'mgda'; expected a mimo_jax.Weighting": {'weighting': 'mgda'},
  r"'audio', 'audio'\); expected a tuple of unique names": {
    'objectives': ('fused', 'audio', 'audio')
  },
  r"objectives='fused'; expected a tuple of unique": {'objectives': 'fused'},
  r'objectives=\(\); expected': {'objectives': ()},
  r'objectives=3; expected': {'objectives': 3},
  r"objectives=\{'fused'.*expected a tuple": {  # which has no order
    'objectives': {'fused'}
  },
  r'keeps state for each objective.*objectives=\(primary': {
    'weighting': three.smoothed()
  },
  r'2 values of weights for 3 objectives': {
    'weighting': weightings.constant([1.0, 2.0])
  },
  r"needs='gradients'; expected one or several of \('losses'": {
    'weighting': mimo_jax.stateless(lambda seen: seen, needs='gradients')
  },
  r'returned weights of shape \(3, 1\); expected an array of shape \(3,\)': {
    'weighting': mimo_jax.stateless(
      lambda seen: seen.losses[:, None], needs='losses'
    )
  },
}


def update(updates=JACOBIAN, losses=SCALARS, params=PLAIN, **options):
  balance = mimo_jax.balance(**options)
  return balance.update(updates, balance.init(params), params, losses=losses)


def test_errors_say_what_was_given_and_expected():
  for message, given in REFUSED.items():
    with pytest.raises(ValueError, match=message):
      update(**given)
  # Plain gradients of params whose first axis is K; params tell the difference.
  for rule in (weightings.fused_only(), weightings.mgda()):
    for shape in ((3,), (3, 4)):
      plain = {'w': jnp.ones(shape)}
      with pytest.raises(ValueError, match='expected gradients of 3'):
        update(plain, params=plain, weighting=rule, objectives=DEFAULT)
  # Losses without a gradient, or without a real one.
  for dtype in (jnp.int32, jnp.complex64):

    def losses_of(params, dtype=dtype):
      losses = dict.fromkeys(DEFAULT, jnp.sum(params['w']))
      return losses | {'audio': losses['audio'].astype(dtype)}

    losses, pullback = jax.vjp(losses_of, PLAIN)
    message = rf"types \['{dtype.__name__}', 'float32', 'float32'\]; expected"
    for rule in (weightings.fused_only(), weightings.mgda()):
      for given in (pullback, lambda cotangent, pull=pullback: pull(cotangent)):
        with pytest.raises(ValueError, match=message):
          update(given, losses=losses, weighting=rule, objectives=DEFAULT)
    for jacobian_of in (
      mimo_jax.value_and_jacobian(losses_of),
      lambda _, pair=(pullback, losses): mimo_jax.pull_jacobian(*pair),
    ):
      with pytest.raises(ValueError, match=message):
        jacobian_of(PLAIN)
  # Pullbacks of something other than the losses, or of more than params.
  for losses_fn in (
    lambda params: params['b'],
    lambda params: (dict.fromkeys(DEFAULT, params['b']), params['b']),
  ):
    for rule in (weightings.fused_only(), weightings.mgda()):
      with pytest.raises(
        ValueError, match=r'is not that of these losses.*has_aux=True'
      ):
        update(jax.vjp(losses_fn, PLAIN)[1], weighting=rule, objectives=DEFAULT)
  for given, pullback in {
    '2 of them': lambda losses: (losses, losses),
    'a list': lambda losses: [losses],
    'a dict': lambda losses: losses,
  }.items():
    with pytest.raises(ValueError, match=f'tuple of one gradient.*{given}'):
      update(pullback, params=None)
  with pytest.raises(TypeError, match='positional'):
    mimo_jax.balance(mimo_jax.mimo(), DEFAULT)
  balance = mimo_jax.balance(objectives=DEFAULT)
  by_leaf = mimo_jax.balance(objectives=DEFAULT, groups=lambda path: path)
  for message, state in (
    (
      'a state that is a tuple; expected the BalanceState',
      optax.chain(balance, optax.sgd(0.1)).init(PLAIN),
    ),
    (
      r'weights of shape \(2,\); .*weights of shape \(3,\).*begin anew',
      mimo_jax.balance(objectives=DEFAULT[:2]).init(PLAIN),
    ),
    ('has no weights; expected weights', mimo_jax.balance().init(PLAIN)),
    (r"weights of shape \{'b': \(3,\), 'w'", by_leaf.init(PLAIN)),
  ):
    with pytest.raises(ValueError, match=message):
      balance.update(JACOBIAN, state, PLAIN, losses=SCALARS)
  with pytest.raises(
    ValueError,
    match=r'expected no weights, of this balance with objectives=None',
  ):
    mimo_jax.balance().update(
      JACOBIAN, balance.init(PLAIN), PLAIN, losses=SCALARS
    )
