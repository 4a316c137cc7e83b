"""One contract for all weightings, and each weighting's claims."""

import functools
import inspect
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests import jacobians
from tests import properties

FACTORIES = {name: getattr(weightings, name) for name in weightings.__all__}
RULES = {name: properties.make(name) for name in FACTORIES}
# As stated in "Guarantees" of mimo_jax/weightings/README.md.
BY_RANK = ('aligned_mtl', 'cagrad', 'config', 'dualproj', 'imtl_g', 'upgrad')
WIDTHS = {2: 5, 3: 7, 5: 11}  # of samples by K
NOISES = (0.0, 1e-6, 1e-2, 1.0)
SCALES = (0.0, 1e-12, 1.0, 1e12)
SECTIONS = (
  'Properties',
  'Args',
  'Returns',
  'Raises',
  'Examples',
  'References',
)
each_sample = pytest.mark.parametrize(
  'samples',
  [jacobians.FIVE, checks.slow(jacobians.OTHERS)],
  ids=['five', 'others'],
)


# Of the module, so that all tests of a rule follow each other in one process,
# where they share what is compiled.
@pytest.fixture(scope='module', params=FACTORIES)
def name(request):
  """The name of each weighting in turn."""
  return request.param


@pytest.fixture(scope='module')
def rule(name):
  """The weighting of that name, with its defaults."""
  return RULES[name]


def check(name, rows):
  """Checks all claims; one marked (x64) is checked only in that precision."""
  for claim in properties.claims(name):
    word, *precision = claim.split(' ')
    try:
      with jax.enable_x64(precision == ['(x64)']):
        getattr(properties, word)(RULES[name], rows)
    except AssertionError as error:
      error.add_note(f'{name} claims {claim}.')
      raise


def updated(rule, rows, steps=1):
  """Returns weights and state after some steps at the same point, jitted."""
  (update, _), state = properties.compiled(rule), properties.init(rule, rows)
  observation = jacobians.seen_by(rule, jacobians.observe(rows))
  for _ in range(steps):
    weights, state = update(observation, state)
  return weights, state


def assert_finite(rule, rows):
  weights, _ = updated(rule, rows, steps=2)
  for leaf in jax.tree.leaves(weights):
    assert leaf.dtype == jnp.float32
    assert np.all(np.isfinite(leaf)), weights
  each, direction = properties.weighed(rows, weights)
  assert each.shape == (len(rows),)
  assert np.all(np.isfinite(direction))


@each_sample
def test_weights_are_finite_float32_one_for_each_objective(rule, samples):
  for sample in samples:
    with jacobians.named(sample) as rows:
      for scale in SCALES:
        assert_finite(rule, scale * rows)


@each_sample
def test_claims_hold(name, samples):
  for sample in samples:
    with jacobians.named(sample) as rows:
      check(name, rows)


@functools.cache
def drawn(noises):
  """Draws Jacobians in the shapes of samples, the same for all rules."""
  found = []

  @hypothesis.settings(
    max_examples=15, deadline=None, derandomize=True, database=None
  )
  @hypothesis.given(
    rows=jacobians.hulls(tuple(WIDTHS), (4,), noises),
    exponent=st.integers(-12, 12),
  )
  def draw(rows, exponent):
    zeros = WIDTHS[len(rows)] - rows.shape[1]
    found.append((np.pad(rows, ((0, 0), (0, zeros))), exponent))

  draw()
  return found


@pytest.mark.slow
def test_weights_are_finite_and_claims_hold_on_any_jacobian(name):
  for rows, exponent in drawn(NOISES):
    assert_finite(RULES[name], rows * 10.0**exponent)
  # Rules that depend on rank claim nothing for nearly dependent gradients.
  for rows, _ in drawn((0.0, 1.0) if name in BY_RANK else NOISES):
    try:
      check(name, rows)
    except AssertionError as error:
      error.add_note(f'Of the rows {rows.tolist()}.')
      raise


def test_state_keeps_its_structure_shapes_and_types(rule):
  rows = jacobians.SAMPLES['conflicting']
  first = properties.init(rule, rows)
  _, last = updated(rule, rows, steps=3)
  assert jax.tree.structure(last) == jax.tree.structure(first)
  for new, old in zip(
    jax.tree.leaves(last), jax.tree.leaves(first), strict=True
  ):
    old = jnp.asarray(old)
    assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert not getattr(old, 'weak_type', False)


def test_repeated_calls_trace_once(rule):
  update, traces = properties.compiled(rule)
  state = properties.init(rule, jacobians.SAMPLES[jacobians.FIVE[0]])
  before = len(traces)
  for sample in jacobians.FIVE:
    rows = jacobians.SAMPLES[sample]
    observation = jacobians.seen_by(rule, jacobians.observe(rows))
    _, state = update(observation, state)
  # No traces, if another test has traced it for this shape.
  assert traces[before:] in ([], [len(rows)])


@pytest.mark.slow
def test_vmap_equals_the_loop_and_a_rule_sees_only_what_it_declares(rule):
  samples = [jacobians.SAMPLES[key] for key in ('conflicting', 'stationary')]
  samples.append(jacobians.generic(3, 7) * [[1e-3], [1e3], [0.0]])
  # vmap gets all fields; the loop gets only what the rule declares.
  stacked = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *map(jacobians.observe, samples)
  )
  together, _ = jax.jit(jax.vmap(rule.update, in_axes=(0, None)))(
    stacked, properties.init(rule, samples[0])
  )
  for i, rows in enumerate(samples):
    weights = jax.tree.map(lambda leaf, i=i: leaf[i], together)
    alone, _ = updated(rule, rows)
    direction = properties.weighed(rows, weights).direction
    properties.assert_same(direction, properties.weighed(rows, alone), rows)


def test_weights_have_the_type_of_the_losses_and_the_state_keeps_its_own(rule):
  """So `lax.scan` over steps accepts them, even in mixed precision."""
  rows = jacobians.SAMPLES['conflicting']
  state = properties.init(rule, rows)
  with jax.enable_x64(True):
    before = jax.eval_shape(lambda: state)
    for dtype in (jnp.float32, jnp.float64):
      observation = jax.tree.map(
        lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype),
        jacobians.observe(rows),
      )
      weights, after = jax.eval_shape(rule.update, observation, state)
      assert after == before
      types = {leaf.dtype for leaf in jax.tree.leaves(weights)}
      assert types == {jnp.dtype(dtype)}


def test_one_objective_has_a_non_negative_multiple_of_its_gradient(rule):
  for scale in SCALES:
    rows = scale * jacobians.SAMPLES['one_row']
    weights, direction = properties.weighed(rows, updated(rule, rows)[0])
    assert weights.shape == (1,)
    gradient = rows[0]
    multiple = gradient @ direction / max(gradient @ gradient, 1e-300)
    assert 0 <= multiple < np.inf
    np.testing.assert_allclose(direction, multiple * gradient, rtol=1e-5)


def test_a_rule_raises_if_the_observation_lacks_what_it_needs(rule):
  bare = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 0.5]))
  state = rule.init(3, {'w': jnp.zeros(2)})
  if rule.needs != 'losses':
    with pytest.raises(ValueError, match=f'{rule.needs}=None'):
      rule.update(bare, state)


# Docstrings.


def test_every_claim_is_a_word_of_the_vocabulary(name, rule):
  for claim in properties.claims(name):
    word = getattr(properties, claim.removesuffix(' (x64)'))
    assert [*inspect.signature(word).parameters] == ['rule', 'rows'], claim
  assert properties.claims(name) or rule.needs == 'losses'


def test_docstring_has_its_sections_in_order(name):
  text = inspect.getdoc(FACTORIES[name])
  present = re.findall(rf'^({"|".join(SECTIONS)}):', text, re.MULTILINE)
  assert present == [word for word in SECTIONS if word in present]
  assert 'Examples' in present
  has_args = bool(inspect.signature(FACTORIES[name]).parameters)
  assert ('Args' in present) == has_args


def test_state_has_fields_and_its_docstring_names_the_rule(name, rule):
  state = rule.init(3, {'w': jnp.zeros(2)})
  if jax.tree.leaves(state):
    assert state._fields
    assert f'State of `{name}`' in type(state).__doc__


# Single rules.


def test_fixed_weights_are_the_documented_ones():
  for rule, expected in (
    (weightings.constant(), [1, 1, 1]),
    (weightings.constant(0.25), [0.25] * 3),
    (weightings.constant([0.5, -2.0, 3.0]), [0.5, -2, 3]),
  ):
    weights, _ = updated(rule, jacobians.SAMPLES['three'])
    np.testing.assert_array_equal(weights, np.float32(expected))
