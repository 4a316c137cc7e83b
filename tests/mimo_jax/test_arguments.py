"""Arguments of rules: which are refused when a rule is made, or traced."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import jacobians
from tests import properties

inf, nan = math.inf, math.nan
PREFERENCE = 'finite numbers, at least 0 and not all 0'
# Rule, argument, what is expected of it, and values that it may not have.
REFUSED = (
  ('aligned_mtl', 'preference', PREFERENCE, [1.0, -1.0]),
  ('aligned_mtl', 'scale', "'min', 'median' or 'rmse'", 'max'),
  ('cagrad', 'c', 'at least 0', -1),
  ('cagrad', 'zero_rows', "'drop' or 'keep'", 'skip'),
  ('config', 'preference', PREFERENCE, [1.0, -1.0]),
  ('constant', 'weights', r'a vector \[K\]', [[1.0], [2.0]]),
  ('cosmos', 'penalty', 'at least 0', -0.1, inf),
  ('cosmos', 'preference', PREFERENCE, [0.0, 0.0], [1.0, inf]),
  ('cr_mogm', 'decay', r'in \[0, 1\]', -0.1, 1.1, [0.5]),
  ('cr_mogm', 'weighting', r'mimo_jax\.Weighting', weightings.mgda),
  ('db_mtl', 'decay', r'in \[0, 1\)', 1.0),
  ('db_mtl', 'decay_power', 'at least 0', -0.5),
  ('dualproj', 'preference', PREFERENCE, [1.0, -1.0]),
  ('dwa', 'steps_per_epoch', 'a whole number at least 1', 0, 2.5),
  ('dwa', 'temperature', 'above 0', 0.0),
  ('excess_mtl', 'num_warmup_steps', 'a whole number at least 1', 0, 1.5),
  ('excess_mtl', 'step_size', 'at least 0', inf),
  ('fairgrad', 'alpha', 'above 0', 0),
  ('famo', 'minima', 'finite', [0.0, inf]),
  ('gradnorm', 'alpha', 'at least 0', -0.5),
  ('gradnorm', 'optimizer', r'optax\.adam\(0\.025\)', optax.adam),
  ('graddrop', 'leak', r'in \[0, 1\]', -0.1, 1.1, [0.5, 2.0], [[0.5]]),
  ('gradvac', 'beta', r'in \[0, 1\]', -0.1, 1.5, [0.5, 0.5]),
  ('imtl_l', 'init', r'a vector \[K\]', [[0.0]]),
  ('imtl_l', 'optimizer', r'optax\.adam\(0\.025\)', 0.1),
  ('krum', 'num_byzantine', 'a whole number at least 0', -1, 0.5),
  ('krum', 'num_selected', 'a whole number at least 1', 0, 1.5),
  ('mgda', 'normalization', r"'loss\+'", 'l3'),
  ('mgda', 'zero_rows', "'drop' or 'keep'", 'skip'),
  ('mimo', 'penalty', 'at least 0', -0.1, inf, [1.0, 2.0], jnp.array(-2.0)),
  ('mimo', 'penalty', 'in float32 a number at least 0', 1e300),
  ('mimo', 'temperature', 'above 0', 0.0, -1, np.ones(1)),
  ('mimo', 'temperature', 'in float32 a number', 1e-50, np.float64(1e-310)),
  ('moco', 'regularization', 'at least 0', -1.0),
  ('moco', 'step_size', 'at least 0', -1.0),
  ('moco', 'tracker_step', r'in \[0, 1\]', 1.1),
  ('modo', 'regularization', 'at least 0', inf),
  ('modo', 'step_size', 'at least 0', -0.1),
  ('nash_mtl', 'max_norm', 'above 0', 0),
  ('pbi', 'ideal', 'finite', inf),
  ('pbi', 'penalty', 'at least 0', -2),
  ('pbi', 'preference', PREFERENCE, [nan, 1.0]),
  ('pcd', 'decay', r'in \[0, 1\)', 1.0),
  ('pcd', 'progress', r'in \[0, 1\]', 1.5),
  ('random', 'seed', 'a whole number', 0.5, [1, 2], jax.random.key(0)),
  ('sdmgrad', 'momentum', r'in \[0, 1\)', 1.0),
  ('sdmgrad', 'num_steps', 'a whole number at least 1', 0, 2.5),
  ('sdmgrad', 'preference', PREFERENCE, [0.0, 1e-50], [1.5, -0.5]),
  ('sdmgrad', 'regularization', 'at least 0', [0.1]),
  ('sdmgrad', 'step_size', 'at least 0', -0.1),
  ('stch', 'ideal', r'a vector \[K\]', [[0.1]]),
  ('stch', 'preference', r'a vector \[K\]', 0.5),
  ('stch', 'preference', PREFERENCE, [0.5, -0.1]),
  ('stch', 'temperature', 'above 0', -1.0, [1.0, 2.0]),
  ('trimmed_mean', 'num_trimmed', 'a whole number at least 0', -1, 0.5),
  ('upgrad', 'preference', PREFERENCE, [1.0, -1.0]),
)


def test_numbers_out_of_range_are_refused():
  for name, argument, expected, *values in REFUSED:
    for value in values:
      with pytest.raises(
        ValueError,
        match=f'(?s){name} was given .*{argument}.*expected .*{expected}',
      ):
        getattr(weightings, name)(**{argument: value})


@pytest.mark.parametrize('name', weightings.__all__)
def test_anything_but_a_number_is_refused_when_a_rule_is_made(name):
  """This holds for every argument of every rule."""
  factory = getattr(weightings, name)
  for argument in inspect.signature(factory).parameters:
    for value in ('3', nan, 1j, object(), ['3', '4'], [1j, 1.0]):
      with pytest.raises(ValueError, match=rf'{name} was given .*{argument}'):
        factory(**{argument: value})


def assert_refused_by(rule, message):
  rows = jacobians.generic(3, 7)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      rule.update, jacobians.observe(rows), properties.init(rule, rows)
    )


def test_vectors_of_another_length_are_refused():
  taken = set()
  for name in weightings.__all__:
    factory = getattr(weightings, name)
    for argument in inspect.signature(factory).parameters:
      try:
        rule = factory(**{argument: [0.25] * 4})
      except ValueError:  # It is one number.
        continue
      taken.add(argument)
      assert_refused_by(
        rule, f'{name} was given 4 values of {argument} for [23] objectives'
      )
  assert taken == {
    *('ideal', 'init', 'leak', 'minima', 'preference', 'progress', 'weights')
  }


def test_rules_refuse_too_few_objectives_and_other_weights():
  for rule, message in (
    (weightings.krum(num_byzantine=1), 'at least 4 objectives'),
    (weightings.krum(num_selected=4), 'num_selected=4 for 3 objectives'),
    (weightings.trimmed_mean(2), 'for 3 objectives.*at least 5'),
    (weightings.cr_mogm(weightings.trimmed_mean()), r'returns dict.*\(3,\)'),
    (weightings.cr_mogm(weightings.moco()), r'returns Direction.*\(3,\)'),
  ):
    assert_refused_by(rule, message)


def test_numbers_of_all_types_are_accepted():
  observation = mimo_jax.Observation(jnp.array([0.3, 0.2, 0.9]))
  for penalty in (2, True, np.float32(2), jnp.bfloat16(2), jnp.array(2.0)):
    rule = mimo_jax.mimo(penalty=penalty, temperature=np.inf)
    weights, _ = rule.update(observation, rule.init(3))
    np.testing.assert_allclose(weights[1:], float(penalty) / 2)


def test_numbers_out_of_float32_range_are_accepted_with_x64():
  with jax.enable_x64(True):
    rule = mimo_jax.mimo(temperature=1e-50)
    losses = jnp.array([0.3, 0.2, 0.9])
    weights, _ = rule.update(mimo_jax.Observation(losses), rule.init(3))
    np.testing.assert_array_equal(weights, [1, 0, 1])


TRACED = (
  lambda value: weightings.cagrad(value),
  lambda value: weightings.constant(jnp.stack([value, 2 * value, value**2])),
  lambda value: weightings.cosmos(penalty=value),
  lambda value: weightings.dwa(temperature=value),
  lambda value: weightings.fairgrad(value),
  lambda value: weightings.famo(optax.sgd(value), minima=-value),
  lambda value: weightings.imtl_l(optax.sgd(value)),
  lambda value: weightings.mimo(value, 5 * value),
  lambda value: weightings.pbi(ideal=jnp.stack([value, 0.0, 0.1])),
  lambda value: weightings.pbi(penalty=value),
  lambda value: weightings.stch(0.1, ideal=jnp.stack([0.1, value, 0.0])),
  lambda value: weightings.stch(preference=jnp.stack([value, 1.0, 0.4])),
  lambda value: weightings.stch(temperature=value),
  lambda value: weightings.uw(init=value),
)


@pytest.mark.slow
@pytest.mark.parametrize('make', TRACED)
def test_rules_take_traced_numbers(make):
  def weigh_last(value):
    rule = make(value)
    update, state = jax.jit(rule.update), rule.init(3)
    for step in range(3):
      rows = jacobians.generic(3, 6, seed=step)
      losses = jnp.array([0.9, 2.0, 0.4]) * 0.9 ** (step * jnp.arange(1.0, 4))
      observation = mimo_jax.Observation(
        losses, jnp.asarray(rows @ rows.T), losses_after=0.5 * losses**2
      )
      weights, state = update(observation, state)
    return weights

  values = jnp.array([0.3, 1.7])
  together = jax.jit(jax.vmap(weigh_last))(values)
  for value, weights in zip(values, together, strict=True):
    np.testing.assert_allclose(weights, weigh_last(value), rtol=2e-5)
  assert np.all(np.abs(together[0] - together[1]).max() > 1e-3)
