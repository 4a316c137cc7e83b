"""The forms of losses and gradients that balance accepts.

Whatever the form, the update equals the sum by hand.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three


class Losses(NamedTuple):
  """Losses as a named tuple, whose order is that of its fields."""

  fused: jax.Array
  visual: jax.Array
  audio: jax.Array


# The form of the losses, the names given to balance if any, and the row of
# `losses_of` that each of its rows should be.
FORMS = {
  'mapping': (three.named, three.OBJECTIVES, (0, 1, 2)),
  'default mapping': (
    lambda losses: three.named(losses, ('fused', 'visual', 'audio')),
    None,
    (0, 2, 1),
  ),
  'named tuple': (lambda losses: Losses(*losses), None, (0, 1, 2)),
  'list': (list, None, (0, 1, 2)),
  'named list': (list, three.OBJECTIVES, (0, 1, 2)),
  'tuple': (tuple, None, (0, 1, 2)),
  'vector': (jnp.stack, None, (0, 1, 2)),
  'named vector': (jnp.stack, three.OBJECTIVES, (0, 1, 2)),
}
REORDERED = {
  order: lambda params, order=order: [three.losses_of(params)[i] for i in order]
  for order in ((0, 1, 2), (0, 2, 1))
}


def updated(optimizer, given, losses, params=three.PARAMS):
  """Returns the first update."""
  return optimizer.update(given, optimizer.init(params), params, losses=losses)[
    0
  ]


def assert_sum(updates, expected, name):
  checks.assert_close(updates, expected, rtol=2e-5, atol=1e-5, name=name)


@pytest.mark.parametrize(
  'form',
  # The order of the default mapping is not that of its keys.
  [form if form == 'default mapping' else checks.slow(form) for form in FORMS],
)
def test_every_form_gives_the_hand_made_sum(form):
  make, names, order = FORMS[form]
  rules = three.RULES if form == 'mapping' else three.KINDS

  def losses_fn(params):
    return make(three.losses_of(params))

  @jax.jit
  def updates_of(params):
    losses, pullback = jax.vjp(losses_fn, params)
    of_two = jax.vjp(lambda params, _: losses_fn(params), params, 1.0)[1]
    ways = {
      'pullback': pullback,
      # Any callable is a pullback, even if JAX did not make it.
      'wrapped pullback': lambda cotangent: pullback(cotangent),
      'of several arguments': lambda cotangent: of_two(cotangent)[:1],
      'jacrev': jax.jacrev(losses_fn)(params),
    }
    balances = {
      rule: mimo_jax.balance(three.RULES[rule], objectives=names)
      for rule in rules
    }
    return {
      (rule, way): updated(balances[rule], given, losses, params)
      for rule in rules
      for way, given in ways.items()
    }

  for (rule, way), updates in updates_of(three.PARAMS).items():
    expected = three.hand_made(rule, losses_fn=REORDERED[order])
    assert_sum(updates, expected, f'{rule}, {way}')


def test_gradients_may_have_another_form_than_the_losses():
  @jax.jit
  def updates_of(params):
    losses = three.losses_of(params)
    stacked = jax.jacrev(lambda p: jnp.stack(three.losses_of(p)))(params)
    by_name = jax.jacrev(three.named_losses_of)(params)
    updates = {}
    for rule in three.KINDS:
      optimizer = mimo_jax.balance(
        three.RULES[rule], objectives=three.OBJECTIVES
      )
      for name, given, form, given_params in (
        ('rows, names', stacked, three.named(losses), params),
        ('rows, names, no params', stacked, three.named(losses), None),
        ('names, vector', by_name, jnp.stack(losses), params),
      ):
        updates[rule, name], _ = optimizer.update(
          given, optimizer.init(params), given_params, losses=form
        )
    return updates

  for (rule, name), updates in updates_of(three.PARAMS).items():
    assert_sum(updates, three.hand_made(rule), f'{rule}, {name}')


def test_objectives_fix_the_order_of_the_weights():
  rule = weightings.constant([1.0, 10.0, 100.0])
  losses = {'audio': 0.3, 'joint': 0.5, 'visual': 0.9}
  gradients = {
    name: {'w': jnp.eye(3)[place]} for place, name in enumerate(losses)
  }
  for order in itertools.permutations(losses):
    optimizer = mimo_jax.balance(rule, objectives=order)
    updates = updated(optimizer, gradients, losses, {'w': jnp.ones(3)})
    np.testing.assert_array_equal(
      updates['w'], [10.0 ** order.index(name) for name in losses], str(order)
    )


def test_one_objective_is_plain_training():
  forms = {
    'mapping': (lambda losses: {'joint': losses[0]}, ('joint',)),
    'default mapping': (lambda losses: {'fused': losses[0]}, None),
    'list': (list, None),
    'named vector': (jnp.stack, ('joint',)),
  }
  rules = {'default': None, 'sum': weightings.sum(), 'mgda': weightings.mgda()}

  @jax.jit
  def updates_of(params):
    updates = {}
    for (form, (make, names)), rule in itertools.product(forms.items(), rules):
      losses, pullback = jax.vjp(
        lambda p, make=make: make(three.losses_of(p)[:1]), params
      )
      optimizer = mimo_jax.balance(rules[rule], objectives=names)
      updates[f'{form}, {rule}'] = updated(optimizer, pullback, losses)
    return updates, jax.grad(lambda p: three.losses_of(p)[0])(params)

  updates, expected = updates_of(three.PARAMS)
  for name, value in updates.items():
    assert_sum(value, expected, name)


# Params that resemble a Jacobian.

ALIKE = ('fused', 'visual', 'audio')


def losses_of_alike(params):
  fused, visual, audio = (params[name] for name in ALIKE)
  return [
    jnp.sum(fused * visual) + jnp.sum(audio**2),
    3.0 * jnp.sum(visual**3),
    jnp.sum(jnp.sin(audio) * fused),
  ]


def losses_of_list(params):
  return losses_of_alike(three.named(params, ALIKE))


@pytest.mark.slow
def test_params_that_resemble_a_jacobian_are_recognised():
  named = {
    'fused': jnp.array([1.0, 2.0, -0.5]),
    'visual': jnp.array([0.3, 0.6, 0.9]),
    'audio': jnp.array([-1.0, 0.2, 0.7]),
  }
  listed = list(named.values())

  def named_losses(params):
    return three.named(losses_of_alike(params), ALIKE)

  @functools.partial(jax.jit, static_argnums=0)
  def updates_of(rule, named, listed):
    optimizer = mimo_jax.balance(three.RULES[rule], objectives=ALIKE)
    losses, pullback = jax.vjp(named_losses, named)
    of_named = [
      updated(optimizer, given, losses, named)
      for given in (
        pullback,
        jax.jacrev(named_losses)(named),
        jax.jacrev(lambda p: jnp.stack(losses_of_alike(p)))(named),
      )
    ]
    optimizer = mimo_jax.balance(three.RULES[rule])
    of_listed = [
      updated(optimizer, given, losses_of_list(listed), listed)
      for given in (
        jax.jacrev(losses_of_list)(listed),
        jax.jacrev(lambda p: jnp.stack(losses_of_list(p)))(listed),
      )
    ]
    return of_named, of_listed

  for rule in three.KINDS:
    of_named, of_listed = updates_of(rule, named, listed)
    expected = three.hand_made(rule, named, losses_of_alike)
    for updates in of_named:
      assert_sum(updates, expected, f'{rule}, named like the objectives')
    expected = three.hand_made(rule, listed, losses_of_list)
    for updates in of_listed:
      assert_sum(updates, expected, f'{rule}, as many as losses')


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
  """A module that is its own pytree of params, as in Equinox."""

  kernel: jax.Array

  def __call__(self, inputs):
    return inputs @ self.kernel


def test_a_jacobian_in_a_callable_module_is_no_pullback():
  module = Module(jnp.array([[0.3, -1.0, 0.7], [2.0, 0.4, -0.6]]))

  def losses_of_module(module):
    return jnp.mean(module(three.BATCH) ** 2, axis=0)

  losses, pullback = jax.vjp(losses_of_module, module)
  jacobian = jax.jacrev(losses_of_module)(module)
  for rule in three.KINDS:
    balance = mimo_jax.balance(three.RULES[rule])
    expected = updated(balance, pullback, losses, module)
    found = updated(balance, jacobian, losses, module)
    assert_sum(found.kernel, expected.kernel, rule)
    with pytest.raises(
      ValueError,
      match=r'updates.kernel has shape \(2, 3\); expected gradients of 3',
    ):
      updated(balance, module, losses, module)
