"""`value_and_updates` and `combine_with`; which losses are objectives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.wrappers import rules

PARAMS = three.PARAMS


def with_accuracy(params):
  losses = three.named(three.losses_of(params), ('fused', 'visual', 'audio'))
  right = params['encoders']['audio'] > 0
  return losses | {'accuracy': jnp.mean(right.astype(jnp.float32))}


@pytest.mark.parametrize('has_aux', [False, True])
def test_values_and_updates_are_those_of_balance(has_aux):
  balancer = mimo_jax.balance(
    three.RULES['scheduled mimo'], objectives=three.OBJECTIVES
  )

  def losses_fn(params, batch, *, factor):
    losses = three.named_losses_of(params, factor * batch)
    return (losses, batch[0]) if has_aux else losses

  @jax.jit
  def by_hand(state, factor):
    losses, pullback = jax.vjp(
      lambda p: three.named_losses_of(p, factor * three.BATCH), PARAMS
    )
    return losses, balancer.update(pullback, state, PARAMS, losses=losses)

  balanced = jax.jit(mimo_jax.value_and_updates(losses_fn, balancer, has_aux))
  state = expected_state = balancer.init(PARAMS)
  for factor in (1.0, 1.2):
    values, updates, state = balanced(PARAMS, state, three.BATCH, factor=factor)
    losses, (expected, expected_state) = by_hand(expected_state, factor)
    checks.assert_close(
      values, (losses, three.BATCH[0]) if has_aux else losses, 1e-5
    )
    checks.assert_close(
      (updates, state), (expected, expected_state), 1e-4, 1e-4
    )


def test_extra_arguments_are_passed_on():
  def update(updates, state, params, **extra_args):
    del updates, params
    return extra_args, state

  balancer = optax.GradientTransformationExtraArgs(lambda _: None, update)
  balanced = mimo_jax.value_and_updates(three.named_losses_of, balancer)
  losses, given, _ = balanced(PARAMS, None, extra_args={'present': 3})
  assert given == {'losses': losses, 'present': 3}


@pytest.mark.parametrize('name', ['mgda', 'graddrop', 'moco', 'sum'])
def test_a_rule_can_be_applied_to_a_matrix(name):
  rule = getattr(weightings, name)()
  rows = np.float32(rules.ROWS)
  combine = jax.jit(functools.partial(mimo_jax.combine_with, rule))
  expected = rules.direction_of(rules.first_step(rule)[0])
  for matrix, direction in ((rows, expected), ({'w': rows}, {'w': expected})):
    checks.assert_close(combine(matrix, rules.LOSSES), direction, 1e-4, 1e-5)


def _first(observation):
  return jnp.arange(len(observation.gramian)) == 0


def test_a_matrix_needs_losses_only_for_rules_that_use_them():
  rows = jnp.asarray(jacobians.generic(3, 5), jnp.float32)
  combine, mgda = mimo_jax.combine_with, weightings.mgda()
  compiled = jax.jit(functools.partial(combine, mgda))
  np.testing.assert_allclose(compiled(rows), compiled(rows, jnp.ones(3)))
  whole = np.array([[1, 2], [3, -4]])
  np.testing.assert_allclose(compiled(whole), [1.5, 0.5], rtol=1e-5)
  narrow = jax.eval_shape(compiled, rows.astype('bfloat16'))
  assert narrow.dtype == 'bfloat16'
  with jax.debug_nans(True):  # the rule ignores losses
    combine(mimo_jax.stateless(_first, needs='gramian'), rows)
  with pytest.raises(ValueError, match=r'begin with \[\(\)\]'):
    combine(mgda, whole.tolist())
  with pytest.raises(ValueError, match='looks at losses'):
    combine(mimo_jax.mimo(), rows)
  with pytest.raises(ValueError, match='losses of shape'):
    combine(mimo_jax.mimo(), rows, [1.0])
  with pytest.raises(
    ValueError,
    match=r'in a mapping.*expected a vector \[3\], in the order of the rows',
  ):
    combine(mimo_jax.mimo(), rows, {'fused': 1.0, 'audio': 2.0})


def test_entries_without_a_gradient_are_refused_as_objectives():
  losses, pullback = jax.vjp(with_accuracy, PARAMS)
  balancer = mimo_jax.balance()
  with pytest.raises(ValueError, match=r"losses has \['accuracy'\].*has_aux"):
    balancer.update(pullback, balancer.init(PARAMS), PARAMS, losses=losses)
  named = mimo_jax.balance(objectives=('fused', 'audio', 'visual', 'accuracy'))
  _, state = named.update(pullback, named.init(PARAMS), PARAMS, losses=losses)
  assert state.weights[3] > 0  # as it was told


def test_the_primary_objective_is_named_or_none():
  def update(rule, **options):
    balancer = mimo_jax.balance(rule, **options)
    balanced = mimo_jax.value_and_updates(three.named_losses_of, balancer)
    return jax.jit(balanced)(PARAMS, balancer.init(PARAMS))[1]

  for rule, primary in ((weightings.mgda(), None), (mimo_jax.mimo(), 'joint')):
    checks.assert_close(
      update(rule, primary=primary),
      update(rule, objectives=three.OBJECTIVES),
      1e-4,
      1e-5,
    )
  with pytest.raises(ValueError, match='primary=None'):
    update(mimo_jax.mimo())
  with pytest.raises(ValueError, match="no 'audios'"):
    update(mimo_jax.mimo(), primary='audios')


def test_rules_know_whether_they_have_a_primary_objective():
  """So do rules that wrap them."""
  has = {
    name
    for name in weightings.__all__
    if getattr(weightings, name)().has_primary
  }
  assert has == {'mimo', 'fused_only', 'pcd'}
  mimo = mimo_jax.mimo()
  for rule in (
    mimo_jax.normalized(mimo),
    mimo_jax.unit_gradients(mimo),
    mimo_jax.diagnosed(mimo),
    weightings.cr_mogm(mimo),
  ):
    assert rule.has_primary
    with pytest.raises(ValueError, match='primary'):
      mimo_jax.balance(rule, primary=None)


def test_the_error_without_losses_says_what_to_do():
  balancer = mimo_jax.balance(objectives=three.OBJECTIVES)
  losses, pullback = jax.vjp(three.named_losses_of, PARAMS)
  state = balancer.init(PARAMS)
  with pytest.raises(ValueError, match='value_and_updates'):
    balancer.update(pullback, state, PARAMS)
  with pytest.raises(ValueError, match='value_and_updates'):
    balancer.update({}, state, losses=losses)
  with pytest.raises(ValueError, match='balance'):
    mimo_jax.value_and_updates(jnp.sum, weightings.mgda())
