"""MMPareto: its formula encoder by encoder, and what follows from it.

`reference/multimodal.json` says where its numbers come from.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import solvers
from tests import checks
from tests import reference
from tests.mimo_jax import models
from tests.mimo_jax.per_encoder.mmpareto import by_hand
from tests.mimo_jax.per_encoder.mmpareto import CASES
from tests.mimo_jax.per_encoder.mmpareto import draw
from tests.mimo_jax.per_encoder.mmpareto import ENCODERS
from tests.mimo_jax.per_encoder.mmpareto import first_key
from tests.mimo_jax.per_encoder.mmpareto import OBJECTIVES
from tests.mimo_jax.per_encoder.mmpareto import opposing
from tests.mimo_jax.per_encoder.mmpareto import updated

REFERENCE = reference.read('multimodal')
MIN_NORM = jax.jit(solvers.min_norm)


# The formula.


def test_update_is_that_of_the_authors_formula_on_recorded_gradients(x64):
  rtol = 1e-10 if x64 else 2e-6
  for case in REFERENCE['mmpareto']:
    fused, own, expected = (
      {name: jnp.asarray(value) for name, value in case[key].items()}
      for key in ('g_multimodal', 'g_unimodal', 'final')
    )
    updates, weights = updated(
      {'fused': {'audio': fused}, 'audio': {'audio': own}},
      case['gamma'],
      ('fused', 'audio'),
    )
    checks.assert_close(updates['audio'], expected, rtol, rtol)
    np.testing.assert_allclose(
      weights,
      [2 * case['weight_multimodal'], 2 * case['weight_unimodal']],
      rtol=rtol,
    )


def test_each_encoder_gets_the_formula_and_the_rest_the_plain_sum():
  conflicts = set()
  for case, jacobian in CASES.items():
    for gamma in (1.0, 2.5):
      updates, weights = updated(jacobian, gamma)
      shares = {}
      for owner in ENCODERS:
        shares[owner], expected = by_hand(
          jacobian['joint'][owner], jacobian[owner][owner], gamma
        )
        checks.assert_close(updates[owner], expected, 2e-5, name=case)
        # Which is the solution of the min-norm problem.
        rows = np.stack(
          [checks.flat(jacobian[name][owner]) for name in ('joint', owner)]
        )
        if rows[0] @ rows[1] < 0:
          conflicts.add(owner)
          np.testing.assert_allclose(
            MIN_NORM(jnp.float32(rows @ rows.T)), shares[owner], rtol=1e-5
          )
      mean = (shares['visual'][0] + shares['audio'][0]) / 2
      np.testing.assert_allclose(
        weights,
        [2 * mean, 2 * shares['visual'][1], 2 * shares['audio'][1]],
        rtol=1e-5,
        err_msg=case,
      )
      total = sum(np.asarray(jacobian[name]['head']) for name in OBJECTIVES)
      np.testing.assert_allclose(updates['head'], total, rtol=1e-5, atol=1e-6)
  assert conflicts == set(ENCODERS)


@pytest.mark.slow
def test_a_conflict_in_an_encoder_of_one_tensor_harms_neither_loss():
  for seed in range(5):
    fused = checks.standard_normal(3, 4, seed=seed)
    own = 5 * checks.standard_normal(3, 4, seed=seed + 10) - 4 * fused
    assert np.sum(fused * own) < 0
    plain = fused + own
    # The plain sum would: otherwise nothing is shown here.
    assert min(np.sum(plain * fused), np.sum(plain * own)) < 0, seed
    updates, _ = updated(
      {'fused': {'audio': fused}, 'audio': {'audio': own}},
      objectives=('fused', 'audio'),
    )
    gains = [np.sum(updates['audio'] * g) for g in (fused, own)]
    assert min(gains) > 0, seed
    # The shortest vector of the hull makes the same gain for both.
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-4)


# Where the formula divides zero by zero, and far from 1.

FUSED = {'w': np.float32([[1.5, -2.0], [0.3, 0.7]]), 'b': np.float32([0.2])}


def scaled(factor):
  return jax.tree.map(lambda leaf: jnp.asarray(factor * leaf), FUSED)


def test_gradients_that_are_zero_or_cancel():
  right_angle = {
    'w': jnp.array([[2.0, 1.5], [0.0, 0.0]]),
    'b': jnp.zeros(1),
  }
  total = jax.tree.map(lambda c, u: 1.5 * (c + u), scaled(1.0), right_angle)
  for name, fused, own, expected, atol in (
    ('own zero', scaled(1), scaled(0), scaled(1.5), 0),
    ('fused zero', scaled(0), scaled(-1), scaled(-1.5), 0),
    ('both zero', scaled(0), scaled(0), scaled(0), 0),
    ('a right angle', scaled(1.0), right_angle, total, 0),
    # No rounding errors that are blown up.
    ('opposed', scaled(1.0), scaled(-1.0), scaled(0.0), 1e-5),
    ('opposed, 0.3', scaled(1.0), scaled(-0.3), scaled(0.0), 1e-5),
    ('opposed, 7', scaled(1.0), scaled(-7.0), scaled(0.0), 1e-5),
    ('opposed, 1e-3', scaled(1.0), scaled(-1e-3), scaled(0.0), 1e-5),
  ):
    updates, weights = updated(
      {'fused': {'audio': fused}, 'audio': {'audio': own}},
      objectives=('fused', 'audio'),
    )
    checks.assert_close(updates['audio'], expected, 1e-6, atol, name)
    if 'opposed' not in name:
      # What is absent has no weight, unless all is.
      absent = {'own zero': [1, 0], 'fused zero': [0, 1]}
      np.testing.assert_array_equal(weights, absent.get(name, [1, 1]), name)


def test_a_tensor_that_is_zero_in_both_gradients_stays_so():
  jacobian = opposing(draw(6), 'audio')
  for name in ('joint', 'audio'):
    jacobian[name]['audio']['bias'] = jnp.zeros(2)
  updates, _ = updated(jacobian)
  np.testing.assert_array_equal(updates['audio']['bias'], [0, 0])
  assert np.all(np.isfinite(updates['audio']['kernel']))


# Training.


@pytest.mark.slow
def test_a_late_fusion_model_gets_the_formula_in_its_encoders():
  # Of Shapley values every loss touches every encoder.
  losses_and_scores, params = models.late_fusion('shapley')
  optimizer = mimo_jax.mmpareto(nn.encoder_of, models.OBJECTIVES)

  @jax.jit
  def update(params):
    losses, pullback, _ = jax.vjp(losses_and_scores, params, has_aux=True)
    updates, _ = optimizer.update(
      pullback, optimizer.init(params), params, losses=losses
    )
    return updates, jax.jacrev(lambda p: losses_and_scores(p)[0])(params)

  updates, jacobian = update(params)
  expected = jax.tree.map(
    lambda *rows: np.sum(rows, axis=0), *jacobian.values()
  )
  for owner in ENCODERS:
    name = f'encoders_{owner}'
    fused, own = (jacobian[row][name] for row in ('fused', owner))
    expected[name] = by_hand(fused, own)[1]
  checks.assert_close(updates, expected, 1e-4, 1e-5)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_skipped_and_leaves_the_state():
  optimizer = optax.chain(
    mimo_jax.mmpareto(first_key, OBJECTIVES),
    optax.apply_if_finite(optax.sgd(1.0), 5),
  )
  losses = {name: jnp.array(1.0) for name in OBJECTIVES}
  jacobian = CASES['both in conflict']
  params = jacobian['joint']
  update = jax.jit(optimizer.update)
  _, good = update(jacobian, optimizer.init(params), params, losses=losses)
  bad = jax.tree.map(jnp.copy, jacobian)
  bad['visual']['visual']['scale'] = jnp.array(jnp.nan)
  updates, state = update(bad, good, params, losses=losses)
  checks.assert_equal(updates, jax.tree.map(jnp.zeros_like, params))
  checks.assert_equal(state[0], good[0])
  assert state[1].total_notfinite == 1


# Mistakes.


def test_mistakes_are_named():
  jacobian = CASES['drawn']

  def update(losses, **options):
    options = {'encoder_of': first_key, 'objectives': OBJECTIVES} | options
    optimizer = mimo_jax.mmpareto(**options)
    state = optimizer.init(jacobian['joint'])
    optimizer.update(jacobian, state, jacobian['joint'], losses=losses)

  losses = dict.fromkeys(OBJECTIVES, 1.0)
  for message, given in {
    "encoder_of='audio'; expected a function": {'encoder_of': 'audio'},
    'expected a tuple of at least two': {'objectives': 'joint'},
    'at least two unique names': {'objectives': ('joint',)},
    'unique names': {'objectives': ('joint', 'audio', 'audio')},
    'gamma=0.0; expected a number': {'gamma': 0.0},
    r"encoder_of\(\('audio', 'bias'\)\) is 'text'; expected one of"
    r" \['visual', 'audio'\]": {'encoder_of': lambda _: 'text'},
    "is 'joint'; expected": {'encoder_of': lambda _: 'joint'},
    'parameters are .*audio/kernel.*expected a modality': {
      'encoder_of': nn.encoder_of
    },
    'not given the losses of this step': {'losses': None},
    r"missing \['visual'\]": {'losses': {'joint': 1.0, 'audio': 1.0}},
  }.items():
    checks.assert_refused(message, update, **{'losses': losses} | given)
