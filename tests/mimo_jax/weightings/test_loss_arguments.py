"""Arguments of rules that see only losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mimo_jax import weightings
from tests.mimo_jax.weightings import of_losses as of


@pytest.mark.slow
@pytest.mark.parametrize(
  'make',
  [
    lambda value: weightings.dwa(temperature=value),
    lambda value: weightings.stch(temperature=value),
    lambda value: weightings.stch(preference=jnp.stack([value, 1.0, 0.4])),
    lambda value: weightings.stch(0.1, ideal=jnp.stack([0.1, value, 0.0])),
    lambda value: weightings.cosmos(penalty=value),
    lambda value: weightings.pbi(penalty=value),
    lambda value: weightings.pbi(ideal=jnp.stack([value, 0.0, 0.1])),
    lambda value: weightings.uw(init=value),
    lambda value: weightings.imtl_l(optax.sgd(value)),
    lambda value: weightings.famo(optax.sgd(value), minima=-value),
  ],
)
def test_rules_take_traced_numbers(make):
  def weigh_last(value):
    rule = make(value)
    state = rule.init(3)
    for losses in of.falling(steps=3):
      weights, state = rule.update(of.observe(losses, 0.5 * losses**2), state)
    return weights

  values = jnp.array([0.3, 1.7])
  together = jax.jit(jax.vmap(weigh_last))(values)
  for value, weights in zip(values, together, strict=True):
    np.testing.assert_allclose(weights, weigh_last(value), rtol=2e-5)
  assert np.all(np.abs(together[0] - together[1]).max() > 1e-3)


def test_rules_refuse_wrong_arguments():
  for make, message in (
    (lambda: weightings.random(0.5), r'random .* seed=0\.5.*whole'),
    (lambda: weightings.random([1, 2]), r'random .* seed=\[1, 2\]'),
    (lambda: weightings.dwa(0.0), r'dwa .* temperature=0\.0.*above 0'),
    (lambda: weightings.dwa(math.nan), r'temperature=nan.*above 0'),
    (lambda: weightings.dwa(2.0, 0), r'steps_per_epoch=0.*at least 1'),
    (lambda: weightings.dwa(2.0, 2.5), r'steps_per_epoch=2\.5.*whole'),
    (lambda: weightings.stch(-1.0), r'stch .* temperature=-1\.0.*above 0'),
    (lambda: weightings.stch([1.0, 2.0]), r'temperature=\[1\.0, 2\.0\]'),
    (lambda: weightings.stch(1.0, 0.5), r'preference=0\.5.*a vector \[K\]'),
    (lambda: weightings.stch(1.0, [0.5, -0.1]), 'at least 0 and not all 0'),
    (lambda: weightings.stch(1.0, [1.0], [[0.1]]), r'ideal of shape \(1, 1\)'),
    (lambda: weightings.cosmos(-0.1), r'cosmos .* penalty=-0\.1.*at least 0'),
    (lambda: weightings.cosmos(math.inf), 'penalty=inf'),
    (lambda: weightings.cosmos(1.0, [0.0, 0.0]), 'not all 0'),
    (lambda: weightings.cosmos(1.0, [1.0, math.inf]), 'finite numbers'),
    (lambda: weightings.pbi(-2), r'pbi .* penalty=-2.*at least 0'),
    (lambda: weightings.pbi(1.0, [math.nan, 1.0]), 'finite numbers'),
    (lambda: weightings.pbi(ideal=math.inf), 'ideal=inf.*finite'),
    (lambda: weightings.uw(optax.adam), r'uw .* optax\.adam\(0\.025\)'),
    (lambda: weightings.uw(init=math.nan), 'init=nan.*finite'),
    (lambda: weightings.imtl_l(0.1), r'imtl_l .* optimizer=0\.1'),
    (lambda: weightings.imtl_l(init=[[0.0]]), r'init of shape \(1, 1\)'),
    (lambda: weightings.famo('adam'), "famo .* optimizer='adam'"),
    (lambda: weightings.famo(minima=[0.0, math.inf]), 'minima=.*finite'),
  ):
    with pytest.raises(ValueError, match=message):
      make()


def test_rules_refuse_another_number_of_objectives():
  for rule, message in (
    (weightings.stch(1.0, [0.5, 0.5]), 'stch .* 2 values of preference for 3'),
    (weightings.stch(ideal=[0.0, 0.0]), 'stch .* 2 values of ideal for 3'),
    (weightings.cosmos(1.0, [1.0]), 'cosmos .* 1 values of preference for 3'),
    (weightings.pbi(1.0, [0.5] * 4), 'pbi .* 4 values of preference for 3'),
    (weightings.pbi(ideal=[0.5] * 4), 'pbi .* 4 values of ideal for 3'),
    (weightings.uw(init=[0.1, 0.2]), 'uw .* 2 values of init for 3'),
    (weightings.imtl_l(init=[0.1, 0.2]), 'imtl_l .* 2 values of init for 3'),
    (weightings.famo(minima=[0.1, 0.2]), 'famo .* 2 values of minima for 3'),
  ):
    with pytest.raises(ValueError, match=f'{message} objectives'):
      of.weigh(rule, of.LOSSES[:3], after=of.LOSSES[:3])
