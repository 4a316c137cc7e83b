"""Inputs that wait for their turn reduce memory and change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mimo_jax.pullbacks import _in_turn
from tests import checks

_SIZE, _LAYERS = 64, 8
_INPUTS = [
  jax.device_put(checks.standard_normal(_SIZE, _SIZE, seed=i))
  for i in range(_LAYERS)
]


def _linearised(changes):
  """Makes a function from changes of params to a chain's output."""
  change = jnp.zeros((_SIZE, _SIZE))
  for inputs, kernel in zip(_INPUTS, changes, strict=True):
    change = jnp.roll(inputs @ kernel + change @ inputs.T, 1, 0) / _SIZE
  return {'sum': jnp.sum(change), 'last': changes[-1][0]}


def test_the_result_is_the_same_with_less_memory():
  kernels = [jnp.cos(inputs) for inputs in _INPUTS]

  def compiled(function):
    # Kernels are made inside the program, as gradients are.
    return jax.jit(lambda x: function([3 * each for each in x])).lower(kernels)

  plain = compiled(_linearised).compile()
  waiting = compiled(_in_turn.in_turn(_linearised, kernels)).compile()
  checks.assert_close(waiting(kernels), plain(kernels), rtol=1e-4)
  sizes = [
    each.memory_analysis().temp_size_in_bytes for each in (plain, waiting)
  ]
  assert sizes[1] < 0.7 * sizes[0], sizes


def test_loops_literals_and_unused_values_work():
  def linear(values):
    constant = lax.iota('float32', 3) ** 2  # made in the jaxpr without inputs
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


def test_a_function_without_outputs_works():
  seen = []

  def linear(values):
    first = 2 * values[0]
    jax.debug.callback(seen.append, first)
    return first + values[1]

  given = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])]
  found = jax.jit(_in_turn.in_turn(linear, given))(given)
  jax.effects_barrier()
  np.testing.assert_array_equal(found, [2.5, -1])
  np.testing.assert_array_equal(seen, [[2, -4]])


@pytest.mark.parametrize('bad', [jnp.inf, jnp.nan])
def test_values_that_are_not_finite_do_not_spread(bad):
  def linear(values):
    return values[0] * 2, values[1] * 3, values[0][0] - values[1][1]

  given = [jnp.array([bad, 1.0]), jnp.array([2.0, -1.0])]
  found = _in_turn.in_turn(linear, given)(given)
  np.testing.assert_array_equal(found[0], [bad, 2])
  np.testing.assert_array_equal(found[1], [6, -3])
  np.testing.assert_array_equal(found[2], bad)


def test_inputs_may_have_any_types():
  """A number of one type may be out of range in another."""

  def linear(values):
    wide = values['wide'] * 2.0
    narrow = values['narrow'] * jnp.bfloat16(3)
    pairs = values['pairs'] * 1j
    wholes = -values['wholes']
    both = narrow + wide.astype(narrow.dtype)
    parts = jnp.real(pairs), jnp.imag(pairs)
    return both, parts, wholes, values['flags'], values['none']

  given = {
    'wide': jnp.array([1e38, -0.0]),
    'narrow': jnp.array([-0.0, 2.0], jnp.bfloat16),
    'pairs': jnp.array([1 + 2j]),
    'wholes': jnp.array([3, -4]),
    'flags': jnp.array([True, False]),
    'none': np.zeros(2, jax.dtypes.float0),
  }
  *found, none = _in_turn.in_turn(linear, given)(given)
  *expected, as_none = linear(given)
  checks.assert_equal(found, expected)
  assert none.dtype == as_none.dtype
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert one.dtype == other.dtype
