"""One contract for all weightings, and each weighting's claims."""

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
from tests import jacobians
from tests import properties

FACTORIES = {name: getattr(weightings, name) for name in weightings.__all__}
RULES = {name: factory() for name, factory in FACTORIES.items()}
JACOBIANS = jacobians.sampled()
SCALES = (0.0, 1e-12, 1.0, 1e12)
SECTIONS = (
  'Properties',
  'Args',
  'Returns',
  'Raises',
  'Examples',
  'References',
)

# Of both on one test, the weighting goes last, so that all samples of one rule
# follow each other: its programs are compiled once a shape.
each_weighting = pytest.mark.parametrize('name', FACTORIES)
each_jacobian = pytest.mark.parametrize('sample', JACOBIANS)


def claims(name):
  """The words of the line *Properties* of a factory's docstring."""
  text = inspect.getdoc(FACTORIES[name])
  line = re.search(r'^Properties: (.*?)\.$', text, re.MULTILINE | re.DOTALL)
  return re.split(r',\s+', line[1]) if line else []


def check(name, claim, rows):
  """Checks a claim; one marked (x64) is made for that precision only."""
  word, *precision = claim.split(' ')
  with jax.enable_x64(precision == ['(x64)']):
    getattr(properties, word)(RULES[name], rows)


CLAIMS = [(name, claim) for name in FACTORIES for claim in claims(name)]


def observe(rows):
  return jacobians.observe(rows, jacobians.losses_of(rows))


def init(name, rows):
  return RULES[name].init(len(rows), jacobians.params_of(rows))


def updated(name, rows, steps=1):
  """The weights after some steps at the same point, jitted."""
  update, state = jax.jit(RULES[name].update), init(name, rows)
  observation = jacobians.seen_by(RULES[name], observe(rows))
  for _ in range(steps):
    weights, state = update(observation, state)
  return weights, state


def assert_same_direction(rows, weights, other, tolerance=properties.TOLERANCE):
  weights, direction = properties.weighed(rows, weights)
  np.testing.assert_allclose(
    properties.weighed(rows, other).direction,
    direction,
    rtol=0,
    atol=tolerance * properties.summed_lengths(rows, weights),
  )


@each_jacobian
@each_weighting
def test_weights_are_finite_float32_one_for_each_objective(name, sample):
  for scale in SCALES:
    rows = scale * JACOBIANS[sample]
    weights, _ = updated(name, rows, steps=2)
    for leaf in jax.tree.leaves(weights):
      assert leaf.dtype == jnp.float32
      assert np.all(np.isfinite(leaf)), (scale, weights)
    each, direction = properties.weighed(rows, weights)
    assert each.shape == (len(rows),)
    assert np.all(np.isfinite(direction))


@each_weighting
def test_weights_have_the_precision_of_the_losses(name):
  rows = JACOBIANS['five']
  with jax.enable_x64(True):
    observation = jax.tree.map(
      lambda leaf: jnp.asarray(leaf, jnp.float64), observe(rows)
    )
    weights, _ = jax.jit(RULES[name].update)(observation, init(name, rows))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {
      jnp.dtype(float)
    }


@each_weighting
def test_state_keeps_its_structure_shapes_and_types(name):
  rows = JACOBIANS['conflicting']
  first = init(name, rows)
  _, last = updated(name, rows, steps=3)
  assert jax.tree.structure(last) == jax.tree.structure(first)
  for new, old in zip(
    jax.tree.leaves(last), jax.tree.leaves(first), strict=True
  ):
    old = jnp.asarray(old)
    assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert not getattr(old, 'weak_type', False)


@each_weighting
def test_repeated_calls_trace_once(name):
  rule, traces = RULES[name], []

  @jax.jit
  def update(observation, state):
    traces.append(observation)
    return rule.update(observation, state)

  state = init(name, JACOBIANS['conflicting'])
  for sample in ('conflicting', 'stationary', 'conflicting'):
    _, state = update(observe(JACOBIANS[sample]), state)
  assert len(traces) == 1


@each_weighting
def test_vmap_is_the_loop(name):
  rule = RULES[name]
  samples = [JACOBIANS[key] for key in ('conflicting', 'stationary')]
  samples.append(jacobians.generic(4, 9) * [[1e-3], [1.0], [1e3], [0.0]])
  observations = [observe(rows) for rows in samples]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
  together, _ = jax.jit(jax.vmap(rule.update, in_axes=(0, None)))(
    stacked, init(name, samples[0])
  )
  for i, rows in enumerate(samples):
    weights = jax.tree.map(lambda leaf, i=i: leaf[i], together)
    assert_same_direction(rows, updated(name, rows)[0], weights)


@each_weighting
@pytest.mark.parametrize('sample', ['rank_deficient', 'zero_row'])
def test_jit_is_eager(name, sample):
  rows, rule = JACOBIANS[sample], RULES[name]
  eager, _ = rule.update(observe(rows), init(name, rows))
  assert_same_direction(rows, updated(name, rows)[0], eager)


@each_weighting
@pytest.mark.parametrize('scale', SCALES)
def test_one_objective_has_a_non_negative_multiple_of_its_gradient(name, scale):
  rows = scale * JACOBIANS['one_row']
  weights, direction = properties.weighed(rows, updated(name, rows)[0])
  assert weights.shape == (1,)
  gradient = rows[0]
  multiple = gradient @ direction / max(gradient @ gradient, 1e-300)
  assert 0 <= multiple < np.inf
  np.testing.assert_allclose(direction, multiple * gradient, rtol=1e-5)


@each_weighting
def test_weights_need_no_more_than_the_rule_declares(name):
  rule, observation = RULES[name], observe(JACOBIANS['five'])
  hidden = jacobians.seen_by(rule, observation)
  state = init(name, JACOBIANS['five'])
  update = jax.jit(rule.update)
  for leaf, same in zip(
    jax.tree.leaves(update(hidden, state)[0]),
    jax.tree.leaves(update(observation, state)[0]),
    strict=True,
  ):
    np.testing.assert_array_equal(leaf, same)


@each_jacobian
@pytest.mark.parametrize(('name', 'claim'), CLAIMS)
def test_claim_holds(name, claim, sample):
  check(name, claim, JACOBIANS[sample])


few = hypothesis.settings(
  max_examples=15, deadline=None, derandomize=True, database=None
)


@each_weighting
@few
@hypothesis.given(
  rows=jacobians.hulls(sizes=(2, 3, 5), params=(4,)),
  exponent=st.integers(-12, 12),
)
def test_weights_are_finite_on_any_jacobian(name, rows, exponent):
  rows = rows * 10.0**exponent
  weights, _ = updated(name, rows, steps=2)
  each, direction = properties.weighed(rows, weights)
  assert np.all(np.isfinite(each))
  assert np.all(np.isfinite(direction))


@pytest.mark.parametrize(('name', 'claim'), CLAIMS)
@few
@hypothesis.given(rows=jacobians.hulls(sizes=(2, 3, 5), params=(4,)))
def test_claim_holds_on_any_jacobian(name, claim, rows):
  check(name, claim, rows)


@pytest.mark.parametrize(('name', 'claim'), CLAIMS)
def test_claim_is_a_word_of_the_vocabulary(name, claim):
  word = claim.removesuffix(' (x64)')
  assert list(inspect.signature(getattr(properties, word)).parameters) == [
    'rule',
    'rows',
  ], f'{name} claims {claim}'


@each_weighting
def test_rules_that_see_gradients_claim_something(name):
  assert claims(name) or RULES[name].needs == 'losses'


@each_weighting
def test_docstring_has_its_sections_in_the_order_of_the_house(name):
  text = inspect.getdoc(FACTORIES[name])
  present = re.findall(rf'^({"|".join(SECTIONS)}):', text, re.MULTILINE)
  assert present == [word for word in SECTIONS if word in present]
  assert {'Returns', 'Examples'} <= set(present)
  has_args = bool(inspect.signature(FACTORIES[name]).parameters)
  assert ('Args' in present) == has_args


@each_weighting
def test_docstring_says_what_the_state_carries(name):
  text = inspect.getdoc(FACTORIES[name])
  returns = re.search(r'^Returns:\n(.*?)(\n\n|\Z)', text, re.M | re.S)[1]
  assert 'mimo_jax.Weighting' in returns
  assert 'stateless' in returns or 'state ' in returns


# Facts of single rules that no shared property can hold.


def test_mgda_of_the_hand_checked_pair():
  rows = np.array([[-4.0, 1.0, 1.0, 0.0], [6.0, 1.0, 1.0, 0.0]])
  weights, _ = updated('mgda', rows)
  np.testing.assert_allclose(weights, [0.6, 0.4], rtol=1e-6)


def test_mgda_direction_is_zero_if_and_only_if_stationary():
  rule = weightings.mgda(zero_rows='keep')
  update = jax.jit(rule.update)
  for sample, rows in JACOBIANS.items():
    weights, _ = update(observe(rows), rule.init(len(rows)))
    weights = np.asarray(weights, float)
    length = np.linalg.norm(rows.T @ weights)
    summed = properties.summed_lengths(rows, weights)
    stationary = jacobians.is_stationary(rows)
    assert (length <= 1e-5 * summed) == stationary, (sample, length, summed)


def test_sum_is_as_many_times_the_mean_as_there_are_objectives():
  total, _ = updated('sum', JACOBIANS['five'])
  average, _ = updated('mean', JACOBIANS['five'])
  np.testing.assert_array_equal(total, [1] * 5)
  np.testing.assert_allclose(5 * average, total, rtol=1e-6)


def test_fused_only_sees_the_primary_objective_alone():
  weights, _ = updated('fused_only', JACOBIANS['eight'])
  np.testing.assert_array_equal(weights, [1, 0, 0, 0, 0, 0, 0, 0])


def test_constant_gives_what_it_was_given():
  rule = weightings.constant([0.5, -2.0, 3.0])
  weights, _ = rule.update(observe(JACOBIANS['three']), rule.init(3))
  np.testing.assert_array_equal(weights, [0.5, -2.0, 3.0])
  rule = weightings.constant(0.25)
  weights, _ = rule.update(observe(JACOBIANS['pair']), rule.init(2))
  np.testing.assert_array_equal(weights, [0.25, 0.25])


def test_constant_takes_traced_weights():
  def weigh(first):
    rule = weightings.constant(jnp.stack([first, 2 * first, first**2]))
    return rule.update(observe(JACOBIANS['three']), rule.init(3))[0]

  weights = jax.vmap(weigh)(jnp.array([0.5, 3.0]))
  np.testing.assert_array_equal(weights, [[0.5, 1, 0.25], [3, 6, 9]])


def test_constant_refuses_what_is_not_a_weight_for_each_objective():
  with pytest.raises(ValueError, match=r'shape \(2, 1\).*a vector \[K\]'):
    weightings.constant([[1.0], [2.0]])
  rule = weightings.constant([1.0, 2.0])
  with pytest.raises(ValueError, match='2 weights for 3 objectives'):
    rule.update(observe(JACOBIANS['three']), rule.init(3))


@pytest.mark.parametrize('name', weightings.__all__)
def test_a_rule_that_lacks_what_it_needs_says_so(name):
  rule = getattr(weightings, name)()
  bare = mimo_jax.Observation(losses=jnp.array([0.3, 0.7, 0.5]))
  state = rule.init(3, {'w': jnp.zeros(2)})
  if rule.needs != 'losses':
    with pytest.raises(ValueError, match=f'{rule.needs}=None'):
      rule.update(bare, state)
  for argument in rule.extra_args if rule.needs == 'losses' else ():
    with pytest.raises(ValueError, match=argument):
      rule.update(bare, state)
