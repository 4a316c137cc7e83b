"""Inputs that wait for their turn change the memory and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mimo_jax.pullbacks import _in_turn
from tests import checks

_SIZE, _LAYERS = 64, 8
_INPUTS = [
  jnp.asarray(checks.standard_normal(_SIZE, _SIZE, seed=i))
  for i in range(_LAYERS)
]


def _linearised(changes):
  """What changes of params do to the output of a chain of layers."""
  change = jnp.zeros((_SIZE, _SIZE))
  for inputs, kernel in zip(_INPUTS, changes, strict=True):
    change = jnp.roll(inputs @ kernel + change @ inputs.T, 1, 0) / _SIZE
  return {'sum': jnp.sum(change), 'last': changes[-1][0]}


def test_the_same_with_less_memory():
  kernels = [jnp.cos(inputs) for inputs in _INPUTS]

  def compiled(function):
    # Kernels are made inside of it, as gradients are.
    return jax.jit(lambda x: function([3 * each for each in x])).lower(kernels)

  plain = compiled(_linearised).compile()
  waiting = compiled(_in_turn.in_turn(_linearised, kernels)).compile()
  checks.assert_close(waiting(kernels), plain(kernels), rtol=1e-4)
  sizes = [
    each.memory_analysis().temp_size_in_bytes for each in (plain, waiting)
  ]
  assert sizes[1] < 0.7 * sizes[0], sizes


def test_loops_literals_and_what_no_input_reaches():
  def linear(values):
    constant = lax.iota('float32', 3) ** 2  # in the jaxpr, made of nothing
    looped = lax.scan(
      lambda carry, row: (2.0 * carry + row, carry * constant),
      values['a'],
      jnp.stack([values['b'], values['b'] * constant]),
    )
    return *looped, values['a'] * values['n'].astype(float).sum() * 0.0

  given = {
    'a': jnp.array([1.0, -2.0, 0.5]),
    'b': jnp.array([0.25, 3.0, 1.0]),
    'n': jnp.array([], jnp.int32),
  }
  checks.assert_close(_in_turn.in_turn(linear, given)(given), linear(given))


def test_what_is_not_finite_is_not_hidden():
  def linear(values):
    return values[0] * 2, values[1] * 3

  first, second = _in_turn.in_turn(linear, [jnp.ones(2)] * 2)(
    [jnp.array([jnp.inf, 1.0]), jnp.ones(2)]
  )
  np.testing.assert_array_equal(first, [jnp.inf, 2])
  assert np.all(np.isnan(second))
