"""Numbers are checked when a rule is made, in the precision that it has."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks


def test_numbers_out_of_range_are_refused():
  for argument, value, message in (
    ('temperature', 1e-50, '1e-50; expected in float32 a number above 0'),
    ('temperature', np.float64(1e-310), '.*in float32 a number above 0'),
    ('penalty', 1e300, r'1e\+300; expected in float32 a number at least 0'),
    ('penalty', '3', "'3'; expected a number at least 0"),
    ('penalty', None, 'None; expected a number'),
    ('penalty', 1j, '1j; expected a number'),
  ):
    checks.assert_refused(
      f'mimo was given {argument}={message}',
      mimo_jax.mimo,
      **{argument: value},
    )
  key = jax.random.key(0)
  checks.assert_refused('(?s)seed=.*whole number', weightings.random, seed=key)


@pytest.mark.parametrize('name', weightings.__all__)
def test_anything_but_a_number_is_refused_when_a_rule_is_made(name):
  """This holds for every argument of every rule."""
  factory = getattr(weightings, name)
  for argument in inspect.signature(factory).parameters:
    for value in ('3', np.nan, 1j, object(), ['3', '4'], [1j, 1.0]):
      with pytest.raises(ValueError, match=rf'{name} was given .*{argument}'):
        factory(**{argument: value})


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
